"""ABRA, adversarial batch representation augmentation (Tong et al. 2026, arXiv 2603.05622).

Algorithm 1; its phases (Eqs. 9-14) are in `loss.py`, Eqs. 7, 8 and 12 in `perturbation.py`, the way through
insertion points in `insertion.py`.

No reference code is public. Where the text is silent, `config.py` names the choice. One difference of form:
phase 1 differentiates by K alone, so both phases share one backbone forward (`two_forward` gives Algorithm 1
as written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from abra_wilds.dist import broadcast
from abra_wilds.functional.losses import arcface, arcface_two_term, cosine_logits
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.insertion import Perturbations
from abra_wilds.methods.abra.loss import ascend, clean_step, robust_loss, task_losses
from abra_wilds.methods.abra.perturbation import Insertion, Pair
from abra_wilds.methods.abra.reach import ShiftReach, remark_on
from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import BATCH_NORMS, STAGES, StagedNet, bn_buffers_kept
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput, Target


class ABRA(Method):
    """Learn on features and on their worst plausible bio-batch shift."""

    name = "ABRA"
    plan = BatchPlan(
        "plate",
        groupby_fields=("experiment", "plate"),
        uniform_over_groups=True,
        mix="cutmix",
        min_group_rows=2,
    )
    preset: ClassVar[str] = "paper"
    Config = ABRAConfig
    cfg: ABRAConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: ABRAConfig):
        super().__init__(net, info, cfg)
        D = net.d_feat
        self.neck = nn.LayerNorm(D) if cfg.neck == "layernorm" else nn.Identity()
        refuse_batch_norm(self.neck)
        own = cfg.weights[1] > 0 and not cfg.share_arc_weight
        self.idle_parameters = cfg.by_cosine  # the classifier, or its bias
        bound = D**-0.5
        self.arc_weight = (
            nn.Parameter(torch.empty(info.n_classes, D).uniform_(-bound, bound)) if own else None
        )
        self.perturb = Perturbations(net, cfg)
        self.reach = ShiftReach()

    @property
    def scalable(self) -> bool:
        """Not where dL_adv/dK passes through stages of the backbone."""
        return self.perturb.at == STAGES[-1:]

    def forward(self, batch: Batch) -> StepOutput:
        """Algorithm 1: phase 1 moves K only, phase 2 gives the loss of theta."""
        c = self.cfg
        if c.prob < 1 and broadcast(torch.rand(())).item() >= c.prob:  # All processes ascend, or none.
            return clean_step(self.features(batch.x), batch.target, self.task_losses)
        with torch.no_grad() if c.two_forward else nullcontext():
            points = self.perturb.clean(self.net, batch, literal=c.two_forward)
        noise = self.perturb.draw(points, batch)
        logs = self.explore(points[0], noise, batch)  # Phase 1: the worst bio-batch. Only K moves.

        if c.two_forward:
            points = self.perturb.clean(self.net, batch, observe=False)
        noise = noise if c.reuse_noise else self.perturb.draw(points, batch)
        f = self.perturb.leave(self.net, points[-1].x)  # (N, D)
        with bn_buffers_kept(self.net):  # running statistics stay those of clean features
            f_t = self.perturb.shifted(self.net, points[0], noise, batch, detach=c.detach_stats)  # (N, D)
        loss, (p, q), terms = robust_loss(  # Phase 2: both.
            f,
            f_t,
            batch.target,
            self.task_losses,
            c.js_weight if "js" in c.terms else 0.0,
            summed=c.reduce == "sum",
            detach_clean=c.js_detach_clean,
        )
        logs |= terms | self.reach.measure(p, q, batch.groups, self.context)
        return StepOutput(loss, p, logs | self.perturb.summary(points, noise))

    def explore(self, start: Insertion, noise: Sequence[Pair], batch: Batch) -> dict[str, Tensor]:
        """Phase 1 on constants; returns L_adv before, and after where logs will be read."""
        start = start.detach()
        adversary = partial(self.adversary, start, noise, batch)
        # The literal algorithm lets its own forward move the running statistics; the shared one must not.
        with nullcontext() if self.cfg.two_forward else bn_buffers_kept(self.net):
            logs = {"L_adv": ascend(self.perturb.shifts, adversary, self.alpha, self.cfg.ascent_steps)}
        if not self.context.log:
            return {}
        with torch.no_grad(), bn_buffers_kept(self.net):
            return logs | {"L_adv_after": adversary()}

    def adversary(
        self, start: Insertion, noise: Sequence[Pair], batch: Batch, K: Sequence[Pair] | None = None
    ) -> Tensor:
        """L_adv (Eq. 10): the mean loss of shifted features; K stand in for the buffers."""
        f_t = self.perturb.shifted(self.net, start, noise, batch, K)
        return self.task_losses(f_t, batch.target)[0].mean()

    @property
    def alpha(self) -> float:
        """Ascent step: theta's learning rate unless set, since Algorithm 1 writes one alpha for both."""
        rate = self.context.lr if self.cfg.alpha is None else self.cfg.alpha
        return rate * self.cfg.alpha_scale

    def task_losses(self, f: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Each image's lambda L_CE + (1 - lambda) L_arc from features (N, D); and the class logits (N, O)."""
        c = self.cfg
        return task_losses(
            self.neck(at_least_fp32(f)),
            target,
            classify=self.classify,
            arc_weight=self.directions,
            weights=c.weights,
            margin=c.margin,
            scale=c.scale,
            arc=arcface if c.soft_arc == "dense" else arcface_two_term,
        )

    def embed(self, x: Tensor) -> Tensor:
        """Clean features (N, D) after the neck; K does not enter."""
        found: Tensor = self.neck(self.features(x))
        return found

    def classify(self, f: Tensor) -> Tensor:
        """Class logits, (N, O), of features (N, D).

        Where cross-entropy has no weight they are ArcFace's scaled cosines: no label reaches the classifier.
        """
        if not self.cfg.by_cosine:
            return super().classify(f)
        with full_precision(f.device.type):
            return self.cfg.scale * cosine_logits(f, self.directions)

    @property
    def directions(self) -> Tensor:
        """ArcFace's class directions V, (O, D)."""
        return self.head.weight if self.arc_weight is None else self.arc_weight

    def remark(self, logs: Mapping[str, float]) -> str | None:
        """Tells when the perturbation does next to nothing."""
        return remark_on(logs)


def refuse_batch_norm(neck: nn.Module) -> None:
    """Raise where a batch norm would stand between insertion point and heads.

    Raises:
        ValueError: since a shift that a whole batch shares is cancelled by the batch norm after it.
    """
    if any(isinstance(m, BATCH_NORMS) for m in neck.modules()):
        raise ValueError(
            "a batch norm between ABRA's insertion point and the heads cancels the shift; use layernorm"
        )
