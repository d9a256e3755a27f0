"""SimCLR (Chen et al. 2020, arXiv 2002.05709) and a linear classifier on the frozen encoder.

Read for facts: lightly-ai/lightly e8d317f (loss, head, ImageNet recipe). Its settings for RxRx1 are
unpublished; these are ours: temperature 0.1 and head as lightly's recipe has them, views of data/views.py
instead of colour operations, the run's optimiser instead of LARS. Batches mix all bio-batches: negatives of
one plate alone would make telling plates apart useless, and those of a mixed batch make it useful, which is
the method as published. Both views pass the network as one batch, as in the authors' code, so batch norm
sees 2 N images. By default a run starts from ImageNet's weights, which were learned with labels, at ABRA's
rate of 1e-2; `abra_wilds/recipes/simclr.yaml` starts from random ones at a tenth of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from abra_wilds.config.fields import option
from abra_wilds.functional.precision import full_precision
from abra_wilds.functional.ssl import nt_xent, projection_spread
from abra_wilds.methods.base import Method
from abra_wilds.methods.ssl.probe import ProbeConfig, linear_evaluation
from abra_wilds.nets.heads import simclr_projector
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, BatchPlan, DataInfo, HeadPhase, StepOutput, ViewPlan


@dataclass(frozen=True)
class SimCLRConfig(ProbeConfig):
    """Contrast, head and views."""

    temperature: float = option(0.1, "temperature of NT-Xent (lightly's ImageNet recipe)", above=0)
    hidden: int = option(2048, "width of the projection head", at_least=1)
    out: int = option(128, "length of a projection", at_least=1)
    min_area: float = option(0.2, "smallest share of the image that a view shows", above=0, at_most=1)


class SimCLR(Method):
    """Two views of an image attract each other and repel all other images of the batch."""

    name = "SimCLR"
    plain_forward = False
    plan = BatchPlan(mixes=("none",))
    preset = "paper"
    Config = SimCLRConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: SimCLRConfig):
        super().__init__(net, info, cfg)
        self.projector = simclr_projector(net.d_feat, cfg.hidden, cfg.out)

    def forward(self, batch: Batch) -> StepOutput:
        """NT-Xent of the two views' projections."""
        f = self.features(torch.cat(batch.views))  # (2N, D)
        with full_precision(f.device.type):
            z = self.projector(f)  # (2N, out)
            loss = nt_xent(z[: len(batch)], z[len(batch) :], self.cfg.temperature)
        return StepOutput(loss, None, {"spread": projection_spread(z)} if self.context.log else {})

    def parameter_groups(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """Encoder and projection head; the classifier is trained afterwards."""
        return [([*self.net.parameters(), *self.projector.parameters()], 1.0)]

    def view_plan(self) -> ViewPlan:
        """Two views alike, each blurred with probability 0.5."""
        area = (self.cfg.min_area, 1.0)
        return ViewPlan((0, 0), (area, area), self.cfg.jitter, (0.5, 0.5))

    def head_phase(self) -> HeadPhase:
        """Linear evaluation."""
        return linear_evaluation(self.cfg)
