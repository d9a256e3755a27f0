"""DINOv2 (Oquab et al. 2024, arXiv 2304.07193) of a vision transformer, and a linear classifier.

A student learns from a teacher that averages it: class tokens across crops (DINO), hidden patches (iBOT), and
class tokens that keep apart (KoLeo). Read for facts: facebookresearch/dinov2 b8931f7 and lightly-ai/lightly
e8d317f. Its settings for RxRx1 are unpublished; the defaults of its own flags are those of the official
ssl_default_config.yaml, made for another network and data set ("our settings"). Optimiser, rate and weight
decay are the run's, so by default ABRA's Adam at 1e-2 on published weights with a fresh patch embedding:
`abra_wilds/recipes/dinov2.yaml` has the official ones, from random weights. Published DINOv2 weights need no
pre-training here, but images of another size and the patch embedding that they came with: see
`abra_wilds/recipes/dinov2_lvd.yaml`; they are extra data.

Differences from the official code:
- Views of data/views.py: square crops, turns and both flips, blur and jitter; no colour operations.
- The transformer is timm's, without stochastic depth (0.3 there) and, but for DINOv2's own, LayerScale.
- Centres, as in the default configuration, and no Sinkhorn-Knopp. The teacher's temperature rises once an
  epoch, not once a step. A mask has exactly the drawn number of patches; there, fewer are possible.
- Weight decay is constant and the same for all parameters; there it rises from 0.04 to 0.4 and spares biases
  and norms. Layer-wise rates, the slower patch embedding and prototypes frozen in the first epoch are kept.
- Heads run in float32 or better, also under autocast.

Differences from lightly's example: teacher and student start equal, also where weights were loaded after the
teacher was built; one head serves class tokens and patches; masks are drawn from torch's generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.config.fields import option, require
from abra_wilds.errors import InputError
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.ssl import block_masks, momentum_at, patch_loss, projection_spread, ramp
from abra_wilds.methods.base import Method
from abra_wilds.methods.ssl.probe import ProbeConfig, linear_evaluation
from abra_wilds.nets.heads import dino_head, lightly
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.nets.teacher import follow, frozen, frozen_copy
from abra_wilds.nets.vit import PatchStem
from abra_wilds.types import Batch, BatchPlan, DataInfo, HeadPhase, StepOutput, ViewPlan

GLOBAL_AREA, LOCAL_AREA = (0.32, 1.0), (0.05, 0.32)  # shares of the image that crops show
Groups = list[tuple[Iterable[nn.Parameter], float]]


@dataclass(frozen=True)
class DINOv2Config(ProbeConfig):
    """Defaults of the official ssl_default_config.yaml."""

    prototypes: int = option(65536, "prototypes that tokens are assigned to", at_least=1)
    hidden: int = option(2048, "width of the head", at_least=1)
    bottleneck: int = option(256, "length of what the prototypes see", at_least=1)
    momentum: float = option(
        0.992, "the teacher's momentum at the start; it ends at 1 along a cosine", at_least=0, at_most=1
    )
    student_temp: float = option(0.1, "temperature of the student's assignments", above=0)
    teacher_temp: float = option(0.07, "temperature of the teacher's assignments after warm-up", above=0)
    teacher_temp_start: float = option(0.04, "temperature of the teacher's assignments at the start", above=0)
    teacher_temp_epochs: int = option(30, "epochs over which the teacher's temperature rises", at_least=0)
    center_momentum: float = option(
        0.9, "momentum of the centres of the teacher's scores", at_least=0, at_most=1
    )
    mask_prob: float = option(0.5, "share of the global crops that are masked", above=0, at_most=1)
    mask_ratio: tuple[float, ...] = option(
        (0.1, 0.5), "least and largest share of hidden patches", at_least=0, at_most=1
    )
    ibot_weight: float = option(1.0, "weight of the loss of hidden patches", at_least=0)
    koleo_weight: float = option(0.1, "weight of the loss that keeps class tokens apart", at_least=0)
    n_local: int = option(8, "local crops of every image", at_least=0)
    global_size: int = option(224, "side of the two global crops in pixels", at_least=1)
    local_size: int = option(96, "side of a local crop in pixels", at_least=1)
    freeze_epochs: int = option(1, "epochs during which the prototypes stay as they are", at_least=0)
    layer_decay: float = option(
        0.9, "factor on the learning rate from a block to the one before it", above=0, at_most=1
    )
    patch_lr: float = option(
        0.2, "further factor on the learning rate of the patch embedding", above=0, at_most=1
    )
    patch_mean: bool = option(False, "classify class token and mean patch, not the class token alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = len(self.mask_ratio) == 2 and self.mask_ratio[0] <= self.mask_ratio[1]
        require(ordered, "dinov2_mask_ratio", "two shares in ascending order", self.mask_ratio)


class DINOv2(Method):
    """Self-distillation without labels, by class tokens across crops and by hidden patches."""

    name = "DINOv2"
    plain_forward = False
    backbone = "vit_small"
    plan = BatchPlan(mixes=("none",))
    preset = "paper"
    Config = DINOv2Config

    def __init__(self, net: StagedNet, info: DataInfo, cfg: DINOv2Config):
        super().__init__(net, info, cfg)
        self.patch, self.prefix = tokens_of(net)
        check_sizes(cfg, self.patch)
        C = net.d_feat
        self.head = nn.Linear(2 * C if cfg.patch_mean else C, info.n_classes)
        self.mask_token = nn.Parameter(torch.zeros(C))
        self.projector, teacher = (dino_head(C, cfg.hidden, cfg.bottleneck, cfg.prototypes) for _ in range(2))
        teacher.load_state_dict(self.projector.state_dict())
        self.teacher_projector = frozen(teacher)
        self.teacher_net = frozen_copy(net)
        losses = lightly("loss")
        self.dino = losses.DINOLoss(
            cfg.prototypes, student_temp=cfg.student_temp, center_momentum=cfg.center_momentum
        )
        center = lightly("models.modules.center").Center
        self.patch_center = center((1, cfg.prototypes), momentum=cfg.center_momentum)
        self.koleo = losses.KoLeoLoss()
        self.idle_parameters = cfg.freeze_epochs > 0  # the prototypes until then
        self.updates = 0

    def forward(self, batch: Batch) -> StepOutput:
        """DINO + ibot_weight * iBOT + koleo_weight * KoLeo; moves the two centres."""
        cfg, now = self.cfg, self.context
        if self.updates == 0:
            self.follow_student(0.0)
        self.projector.get_submodule("last_layer").requires_grad_(now.epoch >= cfg.freeze_epochs)
        x = torch.cat(batch.views[:2])  # (2N, C_in, H, W)
        grid = (x.shape[2] // self.patch[0], x.shape[3] // self.patch[1])
        masks, hidden, weight = block_masks(len(x), grid, cfg.mask_prob, cfg.mask_ratio, x.device)
        cls, patches = self.tokens(self.net, x, masks)  # (2N, D), (2N T, D)
        local = [self.tokens(self.net, torch.cat(batch.views[2:]))[0]] if cfg.n_local else []
        t_cls, t_patches = self.targets(x, hidden)  # (2N, K), (M, K)
        temp = ramp(cfg.teacher_temp_start, cfg.teacher_temp, now.epoch, cfg.teacher_temp_epochs)
        with full_precision(x.device.type):
            s_cls = self.projector(torch.cat([cls, *local])).chunk(2 + cfg.n_local)  # (N, K) each
            s_patches = self.projector(patches[hidden])  # (M, K)
            dino = self.dino(list(t_cls.chunk(2)), list(s_cls), teacher_temp=temp)
            ibot = patch_loss(
                (t_patches - self.patch_center.value) / temp, s_patches / cfg.student_temp, weight
            )
            self.patch_center.update(t_patches)
            koleo = sum(self.koleo(view) for view in cls.chunk(2))
            loss = dino + cfg.ibot_weight * ibot + cfg.koleo_weight * koleo
            logs = {"dino": dino.detach(), "ibot": ibot.detach(), "koleo": koleo.detach()}
            if now.log:
                to_bottleneck = self.projector.get_submodule("layers")
                logs["spread"] = projection_spread(to_bottleneck(cls.detach().chunk(2)[0]))
        return StepOutput(loss, None, logs)

    def tokens(self, net: nn.Module, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens (N, D) and patches (N T, D), float32 or better, of a view (N, C_in, H, W).

        Args:
            net: the student's or the teacher's.
            x: the view.
            mask: (N, h, w) bool, patches to hide.
        """
        staged: Any = net
        stem = staged.enter(x, mask, self.mask_token)  # (N, D, prefix + T, 1)
        t = at_least_fp32(staged(stem, after="stem")).squeeze(3)  # (N, D, prefix + T)
        return t[:, :, 0], t[:, :, self.prefix :].transpose(1, 2).flatten(0, 1)

    @torch.no_grad()
    def targets(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's scores of unmasked views: of class tokens (N, K), of the patches `hidden` (M, K)."""
        cls, patches = self.tokens(self.teacher_net, x)
        with full_precision(x.device.type):
            return self.teacher_projector(cls), self.teacher_projector(patches[hidden])

    def features(self, x: Tensor) -> Tensor:
        """Class tokens (N, D) of standardised images; `patch_mean` appends the mean patches, (N, 2D)."""
        cls, patches = self.tokens(self.net, x)
        if not self.cfg.patch_mean:
            return cls
        return torch.cat([cls, patches.reshape(len(x), -1, cls.shape[1]).mean(1)], 1)

    def after_step(self) -> None:
        """The teacher follows."""
        self.follow_student(momentum_at(self.cfg.momentum, self.context.progress))
        self.updates += 1

    def follow_student(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        follow(self.teacher_net, self.net, momentum)
        follow(self.teacher_projector, self.projector, momentum)

    def parameter_groups(self) -> Groups:
        """What is trained; each block slower by `layer_decay` than the next, the patch embedding slowest.

        The final norm and the head have the full rate; the classifier is trained afterwards.
        """
        decay, stages = self.cfg.layer_decay, self.net.stages
        stem: Any = stages["stem"]
        rest: list[Any] = [stages[name] for name in STAGES[1:]]
        blocks = [block for part in rest for block in part.blocks]
        slow = decay ** (len(blocks) + 1)
        embedding = list(stem.vit.patch_embed.parameters())
        inside = {id(p) for p in embedding}
        first = [p for p in stem.parameters() if id(p) not in inside]
        full = [*self.projector.parameters(), *(p for part in rest for p in part.norm.parameters())]
        groups: Groups = [(embedding, slow * self.cfg.patch_lr), ([*first, self.mask_token], slow)]
        groups += [(b.parameters(), decay ** (len(blocks) - i)) for i, b in enumerate(blocks)]
        return [*groups, (full, 1.0)]

    def view_plan(self) -> ViewPlan:
        """Two global and the local crops; blurred with probabilities 1, 0.1 and 0.5."""
        cfg = self.cfg
        return ViewPlan(
            (cfg.global_size,) * 2 + (cfg.local_size,) * cfg.n_local,
            (GLOBAL_AREA,) * 2 + (LOCAL_AREA,) * cfg.n_local,
            cfg.jitter,
            (1.0, 0.1) + (0.5,) * cfg.n_local,
        )

    def head_phase(self) -> HeadPhase:
        """Linear evaluation."""
        return linear_evaluation(self.cfg)

    def get_extra_state(self) -> dict[str, Any]:
        """The count of updates, a host number so that reading it never waits for the device."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over a saved count."""
        self.updates = int(state["updates"])


def tokens_of(net: StagedNet) -> tuple[tuple[int, int], int]:
    """A transformer's patch (height, width) and the number of tokens before its patches.

    Raises:
        InputError: if the network is none, or has no class token.
    """
    stem = net.stages["stem"]
    if not isinstance(stem, PatchStem) or not net.class_token:
        raise InputError(
            "--model is no ViT with a class token, which DINOv2 needs; choose --model vit_small, or a "
            "VisionTransformer of timm's by --model timm:NAME"
        )
    return stem.patch, stem.prefix_tokens


def check_sizes(cfg: DINOv2Config, patch: tuple[int, int]) -> None:
    """Raise for crops that the patch does not divide.

    Raises:
        InputError: with a side that it does.
    """
    p = patch[0] * patch[1] // math.gcd(*patch)
    for name, side in (("global_size", cfg.global_size), ("local_size", cfg.local_size)):
        near = max(round(side / p), 1) * p
        require(side % p == 0, f"dinov2_{name}", f"a multiple of the model's patch, such as {near}", side)
