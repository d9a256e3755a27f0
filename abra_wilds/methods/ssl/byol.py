"""Bootstrap your own latent (BYOL; Grill et al. 2020, arXiv 2006.07733) and a linear classifier.

Read for facts: lightly-ai/lightly e8d317f. Its settings for RxRx1 are unpublished; these are ours.
Differences from lightly: the teacher starts equal to the student, projector included, also where weights
were loaded after it was built. Views of data/views.py replace colour operations and solarisation, the run's
optimiser LARS. The teacher normalises by its batch, as in the paper; its running statistics follow the
student's by the same moving average as its weights do, and its own passes leave them alone. The classifier
is trained on the online encoder. By default a run starts from ImageNet's weights, which were learned with
labels, at ABRA's rate of 1e-2; `abra_wilds/recipes/byol.yaml` starts from random ones at a tenth of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.config.fields import option
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.ssl import momentum_at, projection_spread
from abra_wilds.methods.base import Method
from abra_wilds.methods.ssl.probe import ProbeConfig, linear_evaluation
from abra_wilds.nets.heads import byol_predictor, byol_projector, lightly
from abra_wilds.nets.staged import StagedNet, bn_buffers_kept
from abra_wilds.nets.teacher import follow, frozen_copy
from abra_wilds.types import Batch, BatchPlan, DataInfo, HeadPhase, StepOutput, ViewPlan


@dataclass(frozen=True)
class BYOLConfig(ProbeConfig):
    """Teacher, heads and views."""

    momentum: float = option(
        0.99, "the teacher's momentum at the start; it ends at 1 along a cosine", at_least=0, at_most=1
    )
    hidden: int = option(4096, "width of projector and predictor", at_least=1)
    out: int = option(256, "length of a projection", at_least=1)
    min_area: float = option(0.2, "smallest share of the image that a view shows", above=0, at_most=1)


class BYOL(Method):
    """An online network predicts the teacher's projection of the other view; there are no negatives."""

    name = "BYOL"
    plain_forward = False
    plan = BatchPlan(mixes=("none",))
    preset = "paper"
    Config = BYOLConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: BYOLConfig):
        super().__init__(net, info, cfg)
        self.projector = byol_projector(net.d_feat, cfg.hidden, cfg.out)
        self.predictor = byol_predictor(cfg.out, cfg.hidden)
        self.teacher_net = frozen_copy(net)
        self.teacher_projector = frozen_copy(self.projector)
        self.cosine = lightly("loss").NegativeCosineSimilarity()
        self.updates = 0

    def forward(self, batch: Batch) -> StepOutput:
        """2 - 2 cos(prediction, target), in both directions; in [0, 8]."""
        if self.updates == 0:
            self.follow_student(0.0)
        features = [self.features(v) for v in batch.views]  # (N, D) each
        targets = [self.target(v) for v in batch.views]  # (N, out) each
        with full_precision(targets[0].device.type):
            z = [self.projector(f) for f in features]  # (N, out) each
            p = [self.predictor(projection) for projection in z]  # (N, out) each
            loss = 4 + 2 * (self.cosine(p[0], targets[1]) + self.cosine(p[1], targets[0]))
        return StepOutput(loss, None, {"spread": projection_spread(z[0])} if self.context.log else {})

    @torch.no_grad()
    def target(self, x: Tensor) -> Tensor:
        """The teacher's projections, (N, out), of a view (N, C_in, H, W)."""
        with bn_buffers_kept(self.teacher_net), bn_buffers_kept(self.teacher_projector):
            f = at_least_fp32(self.teacher_net(x)).mean((2, 3))  # (N, D)
            with full_precision(f.device.type):
                z: Tensor = self.teacher_projector(f)
        return z

    def after_step(self) -> None:
        """The teacher follows."""
        self.follow_student(momentum_at(self.cfg.momentum, self.context.progress))
        self.updates += 1

    def follow_student(self, momentum: float) -> None:
        """Move the teacher's weights and running statistics towards the student's."""
        follow(self.teacher_net, self.net, momentum)
        follow(self.teacher_projector, self.projector, momentum)

    def parameter_groups(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """Encoder, projector and predictor; the classifier is trained afterwards, the teacher never."""
        student = (self.net, self.projector, self.predictor)
        return [([p for part in student for p in part.parameters()], 1.0)]

    def view_plan(self) -> ViewPlan:
        """Two views, the first always blurred, the second with probability 0.1."""
        area = (self.cfg.min_area, 1.0)
        return ViewPlan((0, 0), (area, area), self.cfg.jitter, (1.0, 0.1))

    def head_phase(self) -> HeadPhase:
        """Linear evaluation."""
        return linear_evaluation(self.cfg)

    def get_extra_state(self) -> dict[str, Any]:
        """The count of updates, a host number so that reading it never waits for the device."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over a saved count."""
        self.updates = int(state["updates"])
