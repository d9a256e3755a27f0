"""ABRA, adversarial batch representation augmentation (Tong et al. 2026, arXiv 2603.05622).

Eqs. 1-14 and Algorithm 1.

No reference code is public. Where the text is silent, `abra_config` names the choice. One difference of form:
phase 1 differentiates by K alone, so both phases share one backbone forward (`two_forward` gives Algorithm 1
as written).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from abra_wilds.dist import broadcast, means_across_ranks
from abra_wilds.functional.losses import (
    arcface,
    arcface_two_term,
    cosine_logits,
    cross_entropies,
    js_divergence,
)
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.stats import group_of_row, grouped_stats, instance_moments, pooled_stats
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.perturbation import StatPerturbation
from abra_wilds.methods.abra.reach import ShiftReach, remark_on
from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import BATCH_NORMS, STAGES, StagedNet, bn_buffers_kept
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput, Target

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Insertion:
    """A representation at an insertion point, with the statistics of its bio-batches.

    Attributes:
        x: (N, C, h, w), or pooled (N, C) where nothing but pooling follows.
        mu: (C,), or (N, C) where the batch holds several bio-batches.
        sigma: like mu.
    """

    x: Tensor
    mu: Tensor
    sigma: Tensor

    def detach(self) -> Insertion:
        """The same point as a constant."""
        return Insertion(self.x.detach(), self.mu.detach(), self.sigma.detach())


class Perturbations(nn.ModuleDict):
    """The perturbation of each insertion point by name."""

    def __getitem__(self, key: str) -> StatPerturbation:
        return cast(StatPerturbation, super().__getitem__(key))


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
        self.at = tuple(sorted(cfg.at, key=STAGES.index))
        self.neck = nn.LayerNorm(D) if cfg.neck == "layernorm" else nn.Identity()
        refuse_batch_norm(self.neck)
        own = cfg.weights[1] > 0 and not cfg.share_arc_weight
        self.idle_parameters = cfg.by_cosine  # the classifier, or its bias
        bound = D**-0.5
        self.arc_weight = (
            nn.Parameter(torch.empty(info.n_classes, D).uniform_(-bound, bound)) if own else None
        )
        self.perturb = Perturbations(
            {
                p: StatPerturbation(
                    net.channels[p],
                    cfg.k_init,
                    cfg.k_init_relative,
                    cfg.k_bound,
                    in_sigma=cfg.k_unit == "sigma",
                )
                for p in self.at
            }
        )
        self.reach = ShiftReach()

    @property
    def scalable(self) -> bool:
        """Not where dL_adv/dK passes through stages of the backbone."""
        return self.at == STAGES[-1:]

    def forward(self, batch: Batch) -> StepOutput:
        """Algorithm 1: phase 1 moves K only, phase 2 gives the loss of theta."""
        c = self.cfg
        if c.prob < 1 and broadcast(torch.rand(())).item() >= c.prob:  # All processes ascend, or none.
            return self.clean_only(batch)
        if c.two_forward:
            with torch.no_grad():
                points = self.clean(batch, literal=True)
            noise = self.draw(points, batch)
            logs = self.explore(points[0], noise, batch)
            points = self.clean(batch, observe=False)
        else:
            points = self.clean(batch)
            noise = self.draw(points, batch)
            logs = self.explore(points[0], noise, batch)  # Phase 1: the worst bio-batch. Only K moves.

        noise = noise if c.reuse_noise else self.draw(points, batch)
        with bn_buffers_kept(self.net):  # running statistics stay those of clean features
            f_t = self.shifted(points[0], noise, batch, detach=c.detach_stats)  # (N, D)
        f = self.leave(self.at[-1], points[-1].x)  # (N, D)
        clean, p = self.task_loss(f, batch.target)  # Phase 2: learn on both.
        hard, q = self.task_loss(f_t, batch.target)
        with full_precision(f.device.type):
            js = js_divergence(p.detach() if c.js_detach_clean else p, q)  # Eq. 14
            loss = (0.5 if c.reduce == "mean" else 1.0) * (clean + hard)  # Eq. 13
            if "js" in c.terms:
                loss = loss + c.js_weight * js
        logs |= {"L_clean": clean.detach(), "L_shifted": hard.detach(), "R_JS": js.detach()}
        logs |= self.reach.measure(p, q, batch.groups, self.context)
        return StepOutput(loss, p, logs | self.summary(points, noise))

    def predict(self, x: Tensor) -> Tensor:
        """Class logits, (N, O), of clean features; K does not enter."""
        return self.classify(self.neck(self.features(x)))

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

    def task_loss(self, f: Tensor, target: Target) -> Pair:
        """Eq. 10, lambda L_CE + (1 - lambda) L_arc, of features (N, D); and the class logits (N, O)."""
        c = self.cfg
        f = self.neck(at_least_fp32(f))
        logits = self.classify(f)
        w_ce, w_arc = c.weights
        with full_precision(f.device.type):
            loss = logits.new_zeros(())
            if w_ce:
                loss = loss + w_ce * cross_entropies(logits, target).mean()
            if w_arc:
                arc = arcface if c.soft_arc == "dense" else arcface_two_term
                loss = loss + w_arc * arc(f, self.directions, target, c.margin, c.scale)
        return loss, logits

    def clean_only(self, batch: Batch) -> StepOutput:
        """The loss of a batch that is left unperturbed."""
        loss, logits = self.task_loss(self.features(batch.x), batch.target)
        return StepOutput(loss, logits, {"L_clean": loss.detach()})

    def clean(self, batch: Batch, observe: bool = True, literal: bool = False) -> list[Insertion]:
        """One pass of the backbone up to the last insertion point: the clean representation at each.

        The perturbations observe the points' sigma, once a step. In the literal phase 1 it is the shifted
        pass that moves the running statistics behind the first point, as a forward of its own would.
        """
        points: list[Insertion] = []
        X, after = batch.x, None
        for name in self.at:
            with bn_buffers_kept(self.net) if literal and points else nullcontext():
                X = self.net(
                    self.onward(X) if points else X, after=after, upto=name, bare=self.cfg.before_relu
                )
            after = name
            points.append(self.arrive(name, X, batch))
            if observe:
                sigma = points[-1].sigma.detach()
                self.perturb[name].observe(sigma.mean(0) if sigma.dim() == 2 else sigma)
        return points

    def arrive(self, name: str, X: Tensor, batch: Batch) -> Insertion:
        """Statistics (Eq. 1) of the map (N, C, h, w) that reaches an insertion point."""
        with full_precision(X.device.type):
            X = at_least_fp32(X)
            mean, var = instance_moments(X)
            if self.cfg.stats_over == "group" and len(batch.groups) > 1:
                of = group_of_row(batch.groups, len(batch))  # (N,)
                mu, sigma = (s[of] for s in grouped_stats(mean, var, batch.groups, self.cfg.eps))  # (N, C)
            else:
                mu, sigma = pooled_stats(mean, var, self.cfg.eps)  # (C,)
        return Insertion(mean if self.pooled(name) else X, mu, sigma)

    def pooled(self, name: str) -> bool:
        """Whether the shift may be applied after pooling: Eq. 7 is affine per channel, so the two commute."""
        return self.cfg.pooled_path and name == STAGES[-1] and not self.cfg.before_relu

    def onward(self, x: Tensor) -> Tensor:
        """What the next stage sees of a representation that left an insertion point."""
        return x.relu() if self.cfg.before_relu else x

    def leave(self, name: str, x: Tensor) -> Tensor:
        """Pooled features (N, D) of what left an insertion point."""
        return x if self.pooled(name) else at_least_fp32(self.net(self.onward(x), after=name)).mean((2, 3))

    def shifted(
        self,
        start: Insertion,
        noise: list[Pair],
        batch: Batch,
        K: list[Pair] | None = None,
        detach: bool = False,
    ) -> Tensor:
        """Pooled features (N, D) after shifting at every point; later points see what earlier ones did.

        With detach, statistics are constants at every point.
        """
        point, x = start, start.x
        for i, name in enumerate(self.at):
            if i > 0:
                X = self.net(self.onward(x), after=self.at[i - 1], upto=name, bare=self.cfg.before_relu)
                point = self.arrive(name, X, batch)
            if detach:
                point = Insertion(point.x, point.mu.detach(), point.sigma.detach())
            with full_precision(point.x.device.type):
                perturb = self.perturb[name]
                x = perturb(
                    point.x, point.mu, point.sigma, noise[i], K[i] if K else None, self.cfg.clamp_sigma
                )
        return self.leave(self.at[-1], x)

    def draw(self, points: list[Insertion], batch: Batch) -> list[Pair]:
        """Standard normal noise for mean and deviation at every insertion point (Eq. 8).

        Returns:
            A pair for each point; (C,) each, or (N, C) where rows differ.
        """

        def noise(mu: Tensor) -> Tensor:
            C = mu.shape[-1]
            if self.cfg.noise_shape == "image":
                return torch.randn(len(batch), C, dtype=mu.dtype, device=mu.device)
            if mu.dim() == 1:
                return torch.randn(C, dtype=mu.dtype, device=mu.device)
            per_group = torch.randn(len(batch.groups), C, dtype=mu.dtype, device=mu.device)
            return per_group[group_of_row(batch.groups, len(batch))]

        return [(noise(point.mu), noise(point.mu)) for point in points]

    def explore(self, start: Insertion, noise: list[Pair], batch: Batch) -> dict[str, Tensor]:
        """Phase 1: K <- K + alpha dL_adv/dK (Eqs. 10, 12) on constants; returns L_adv before and after.

        The two values are computed on steps whose logs will be read.
        """
        start, logs = start.detach(), {}
        log = self.context is None or self.context.log
        # The literal algorithm lets its own forward move the running statistics; the shared one must not.
        with nullcontext() if self.cfg.two_forward else bn_buffers_kept(self.net):
            for i in range(self.cfg.ascent_steps):
                K = [self.perturb[name].leaves() for name in self.at]
                with torch.enable_grad():
                    adv, _ = self.task_loss(self.shifted(start, noise, batch, K), batch.target)
                    with full_precision(adv.device.type):
                        grads = means_across_ranks(torch.autograd.grad(adv, [k for pair in K for k in pair]))
                for name, g_mu, g_sigma in zip(self.at, grads[::2], grads[1::2], strict=True):
                    self.perturb[name].ascend(g_mu, g_sigma, self.alpha)
                if log and i == 0:
                    logs["L_adv"] = adv.detach()
        if log:
            with torch.no_grad(), bn_buffers_kept(self.net):
                logs["L_adv_after"], _ = self.task_loss(self.shifted(start, noise, batch), batch.target)
        return logs

    @property
    def alpha(self) -> float:
        """Ascent step: theta's learning rate unless set, since Algorithm 1 writes one alpha for both."""
        if self.cfg.alpha is not None:
            return self.cfg.alpha * self.cfg.alpha_scale
        if self.context is None:
            raise RuntimeError(
                "ABRA steps K by theta's learning rate: set method.context, or ABRAConfig(alpha=...)"
            )
        return self.context.lr * self.cfg.alpha_scale

    def summary(self, points: list[Insertion], noise: list[Pair]) -> dict[str, Tensor]:
        """The perturbations' logs, with the insertion point in the name where there are several."""
        logs: dict[str, Tensor] = {}
        for name, point, pair in zip(self.at, points, noise, strict=True):
            ending = f"_{name}" if len(self.at) > 1 else ""
            found = self.perturb[name].summary(point.sigma.detach(), pair)
            logs |= {key + ending: value for key, value in found.items()}
        return logs


def refuse_batch_norm(neck: nn.Module) -> None:
    """Raise where a batch norm would stand between insertion point and heads.

    Raises:
        ValueError: since a shift that a whole batch shares is cancelled by the batch norm behind it.
    """
    if any(isinstance(m, BATCH_NORMS) for m in neck.modules()):
        raise ValueError(
            "a batch norm between ABRA's insertion point and the heads cancels the shift; use layernorm"
        )
