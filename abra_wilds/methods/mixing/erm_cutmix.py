"""ERM-CutMix: CutMix, a neck, cross-entropy and ArcFace (Wu et al., MIDL 2022, arXiv 2203.00332).

CutMix pairs the images of the whole batch. The pipeline is that of Sypetkowski's RxRx1 competition code,
and this row is Wu et al.'s own without its latents. Read for facts: CTPLab/IID_representation_learning
b9dc135 (MIT).

    L = (1 - k) CE(W e + b, Y) + k Arc(e, Y) / 2

with e the neck's embedding of pooled features and Y the mixed labels. Class ids are predicted by the
cross-entropy head.

Differences from that code:

- k = 0.15 is the value of its published command, which is the run with latents; none is published for
  this row.
- The cosines of ArcFace are kept 1e-6 inside (-1, 1), where the code's gradient is infinite at the ends.
- The crop's and the noise's draws come from the epoch's seed; the pixels they give are distributed alike.
- Its recipe is `abra_wilds/recipes/erm_cutmix.yaml`, but for the restarted cosine; see there.
- ImageNet's first convolution is kept unless --new_stem asks for a fresh one, as the code has it.

One step costs what ERM's costs and the neck's D E + E^2 and ArcFace's E O multiplications for an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from abra_wilds.functional.double_head import double_head
from abra_wilds.functional.precision import full_precision
from abra_wilds.methods.base import Method
from abra_wilds.methods.mixing.double_head import DoubleHeadConfig
from abra_wilds.nets.neck import class_directions, make_neck, set_bn_momentum
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput


@dataclass(frozen=True)
class ERMCutMixConfig(DoubleHeadConfig):
    """Neck and heads."""


class ERMCutMix(Method):
    """Cross-entropy and ArcFace on one embedding of mixed images."""

    name = "ERM-CutMix"
    plan = BatchPlan(mix="cutmix_any")
    Config = ERMCutMixConfig
    cfg: ERMCutMixConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: ERMCutMixConfig):
        super().__init__(net, info, cfg)
        E, O = cfg.width, info.n_classes
        self.neck = make_neck(net.d_feat, E)
        self.head = nn.Linear(E, O)
        self.arc_weight = class_directions(O, E) if cfg.k else None
        set_bn_momentum(self, cfg.bn_momentum)

    def forward(self, batch: Batch) -> StepOutput:
        """The loss of both heads."""
        e = self.embed(batch.x)  # (N, E)
        logits = self.classify(e)  # (N, O)
        c = self.cfg
        with full_precision(e.device.type):
            loss = double_head(
                logits, e, self.arc_weight, batch.target, k=c.k, margin=c.margin, scale=c.scale
            )
        return StepOutput(loss, logits)

    def embed(self, x: Tensor) -> Tensor:
        """The neck's embedding, (N, E), of standardised images (N, C_in, H, W)."""
        f = self.features(x)  # (N, D)
        with full_precision(f.device.type):
            e: Tensor = self.neck(f)
            return e
