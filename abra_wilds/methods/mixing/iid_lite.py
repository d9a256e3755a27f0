"""IID-lite: a REDUCED version of IID representation learning (Wu et al., MIDL 2022, arXiv 2203.00332).

It is not the published method and its rows must not carry that name. ERM-CutMix stays unchanged; latents
of the image, made by a frozen encoder, enter beside it: one-channel maps are added to the feature maps
after five stages, and style codes become a vector beside the pooled features, in front of the neck. Read
for facts: CTPLab/IID_representation_learning b9dc135 (MIT, with CUDA operators under NVIDIA's
non-commercial licence, none of which are used here).

What is reduced:

- The published latents come from a ReStyle encoder into a StyleGAN2, both trained beforehand on
  RxRx1-WILDS (GPU-days), with weights under no explicit licence. Here an auto-encoder of 5.6 million
  parameters learns in the first `iid_lite_pretrain_epochs` of the run, on the training images alone, by 5
  times the mean squared error. Its perceptual and MoCo losses need further networks and are left out. 20
  epochs see as many images as ReStyle's 100,000 batches of 8.
- It sees images as the classifier does: standardised, augmented and mixed; there the encoder gets the
  image in [-1, 1] before standardisation and mixing, and the generator's average image beside it.
- Maps and style vector have the published shapes: sides of 1/2 to 1/32 of the image's, 14 codes of 512
  numbers. Images of less than 64 pixels are enlarged for the encoder.

What differs in form: the maps enter after stem, res1, res2, res3 and res4, the first of them averaged to
the stem's size. There they enter after the first convolution (at half the image's side, before its batch
norm) and after the pooling, layer2, layer3 and layer4; a StagedNet's stem is one piece.

Optimiser and schedule are the run's in both phases: the auto-encoder has the rates of the first epochs,
the classifier those of the rest, and moments begin with each phase, because Adam skips what has no
gradient. Afterwards the auto-encoder has none. Epochs of pre-training add no accuracy: give the run that
many more.

In the multiplications of ResNet-50's forward pass on 3 x 256 x 256, the encoder's are 0.14 and the
decoder's 0.27. A step costs ERM's and one encoder pass; in pre-training, three passes of the
auto-encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abra_wilds.config.fields import option
from abra_wilds.errors import InputError
from abra_wilds.functional.double_head import double_head
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.methods.base import Method
from abra_wilds.methods.mixing.double_head import DoubleHeadConfig
from abra_wilds.nets.autoencoder import CODES, D_CODE, AutoEncoder
from abra_wilds.nets.injection import NoiseInjection, StyleInjection
from abra_wilds.nets.neck import class_directions, make_neck, set_bn_momentum
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput

L2 = 5.0  # weight of the squared error in ReStyle's loss


@dataclass(frozen=True)
class IIDLiteConfig(DoubleHeadConfig):
    """Neck and heads as ERM-CutMix has them; which latents enter, and how they are learned."""

    noise: bool = option(True, "add the maps to the feature maps")
    style: bool = option(True, "set the codes beside the pooled features")
    dropout: float = option(0.5, "dropout of maps and of the style vector", at_least=0, below=1)
    pretrain_epochs: int = option(
        20, "first epochs, in which the auto-encoder alone learns; 0 freezes it as it is drawn", at_least=0
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of terms without weight and of latents that do not enter."""
        found = super().idle(mix)
        if not (self.noise or self.style):
            needs = "--iid_lite_noise or --iid_lite_style"
            found |= {f"iid_lite_{name}": needs for name in ("dropout", "pretrain_epochs")}
        return found

    def first_epochs(self) -> dict[str, int]:
        """Those in which the auto-encoder alone learns."""
        return {"iid_lite_pretrain_epochs": self.pretrain_epochs} if self.noise or self.style else {}


class IIDLite(Method):
    """ERM-CutMix whose classifier also sees an auto-encoder's latents; a reduced version of IID."""

    name = "IID-lite"
    plan = BatchPlan(mix="cutmix_any")
    Config = IIDLiteConfig
    idle_parameters = True  # those of the phase that is not on
    plain_forward = False
    cfg: IIDLiteConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: IIDLiteConfig):
        super().__init__(net, info, cfg)
        if cfg.noise and net.class_token:
            raise InputError(
                "IID-lite adds maps to feature maps, and a transformer has tokens; choose another --model or "
                "--iid_lite_noise false"
            )
        E, O = cfg.width, info.n_classes
        self.neck = make_neck(net.d_feat + (D_CODE if cfg.style else 0), E)
        self.head = nn.Linear(E, O)
        self.arc_weight = class_directions(O, E) if cfg.k else None
        self.noise = nn.ModuleDict({s: NoiseInjection(cfg.dropout) for s in STAGES} if cfg.noise else {})
        self.style = StyleInjection(CODES, cfg.dropout) if cfg.style else None
        self.autoencoder = AutoEncoder(info.in_channels) if cfg.noise or cfg.style else None
        if self.autoencoder is not None and not cfg.pretrain_epochs:
            self.autoencoder.requires_grad_(False)
        set_bn_momentum(self, cfg.bn_momentum)

    def forward(self, batch: Batch) -> StepOutput:
        """The auto-encoder's loss in the first epochs, then that of both heads."""
        c = self.cfg
        early = self.context.epoch < c.pretrain_epochs
        if early and self.autoencoder is not None:
            return self.reconstruct(self.autoencoder, batch.x)
        e = self.embed(batch.x)  # (N, E)
        logits = self.classify(e)  # (N, O)
        with full_precision(e.device.type):
            loss = double_head(
                logits, e, self.arc_weight, batch.target, k=c.k, margin=c.margin, scale=c.scale
            )
        return StepOutput(loss, logits)

    def reconstruct(self, autoencoder: AutoEncoder, x: Tensor) -> StepOutput:
        """The squared error of images (N, C_in, H, W) and their reconstructions; there are no logits."""
        with full_precision(x.device.type):
            image, picture = autoencoder(at_least_fp32(x))
            error = F.mse_loss(picture, image)
        return StepOutput(L2 * error, None, {"L_rec": error.detach()})

    def features(self, x: Tensor) -> Tensor:
        """Average-pooled features (N, D) with the maps in them; (N, D + 512) followed by the style vector."""
        if self.autoencoder is None:
            return super().features(x)
        with torch.no_grad(), full_precision(x.device.type):
            codes, maps = self.autoencoder.encode(at_least_fp32(x))
        taps: dict[str, Callable[[Tensor], Tensor]] = {
            stage: partial(inject, noise=maps[STAGES.index(stage)]) for stage, inject in self.noise.items()
        }
        f = self.tapped_features(x, taps)  # (N, D)
        if self.style is None:
            return f
        with full_precision(f.device.type):
            return torch.cat([f, self.style(codes)], dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """The neck's embedding, (N, E), of standardised images (N, C_in, H, W)."""
        f = self.features(x)
        with full_precision(f.device.type):
            e: Tensor = self.neck(f)
            return e
