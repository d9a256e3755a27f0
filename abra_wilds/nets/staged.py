"""A backbone as named stages that can be tapped, left early and entered late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from abra_wilds.errors import InputError

Taps = Mapping[str, Callable[[Tensor], Tensor]]
NO_TAPS: Taps = MappingProxyType({})
STAGES = ("stem", "res1", "res2", "res3", "res4")
# "conv1" is the output of the stem's first convolution.
TAP_POINTS = ("conv1", *STAGES)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class StagedNet(nn.Module):
    """stem -> res1 -> res2 -> res3 -> res4; no pooling, no head.

    Attributes:
        stages: the five stages by name.
        channels: output channels of each stage.
        class_token: whether the first position of the last stage's output is a class token.
    """

    def __init__(
        self, stages: Mapping[str, nn.Module], channels: Mapping[str, int], class_token: bool = False
    ):
        super().__init__()
        if tuple(stages) != STAGES or tuple(channels) != STAGES:
            raise ValueError(f"stages are {list(stages)}, but a StagedNet has {list(STAGES)} in this order")
        self.stages = nn.ModuleDict(stages)
        self.channels = dict(channels)
        self.class_token = class_token

    @property
    def d_feat(self) -> int:
        """Channels of the last stage."""
        return self.channels[STAGES[-1]]

    def channels_at(self, point: str) -> int:
        """Channels of what a tap sees at one of TAP_POINTS.

        Raises:
            InputError: for "conv1" where the stem does not begin with a convolution.
        """
        if point == "conv1":
            return first_convolution(self.stages[STAGES[0]])[0].out_channels
        return self.channels[point]

    def forward(
        self,
        x: Tensor,
        taps: Taps = NO_TAPS,
        after: str | None = None,
        upto: str = STAGES[-1],
        bare: bool = False,
    ) -> Tensor:
        """Run the stages behind `after` (all, if None) up to and with `upto`, and the taps of each.

        Args:
            x: (N, C_in, H, W), or the output of stage `after`.
            taps: one of TAP_POINTS -> function of what the network computes there, of the same shape.
            after: last stage that x has already been through.
            upto: last stage to run.
            bare: leave out the ReLU that ends the last stage.

        Returns:
            (N, C, h, w); of a transformer (N, C, T, 1), its tokens (see vit.py).
        """
        first = STAGES.index(after) + 1 if after else 0
        for name in STAGES[first : STAGES.index(upto) + 1]:
            stage = self.stages[name]
            if name == STAGES[0] and "conv1" in taps:
                convolution, stage = first_convolution(stage)
                x = taps["conv1"](convolution(x))
            x = without_last_relu(stage, x) if bare and name == upto else stage(x)
            if name in taps:
                x = taps[name](x)
        return x


def first_convolution(stem: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution that a stem begins with, and the rest of the stem.

    Raises:
        InputError: if it begins with anything else.
    """
    if not isinstance(stem, nn.Sequential) or not isinstance(stem[0], nn.Conv2d):
        raise InputError(
            "the stem of this model does not begin with a convolution, so nothing can act behind one; leave "
            "conv1 out of the insertion points, or choose another --model, such as resnet50"
        )
    return stem[0], stem[1:]


def without_last_relu(stage: nn.Module, x: Tensor) -> Tensor:
    """What a stage would hand to the ReLU that ends it.

    Args:
        stage: a sequence that ends in a ReLU or in a residual block of torchvision's.
        x: the stage's input.

    Raises:
        InputError: if it ends in anything else.
    """
    if not isinstance(stage, nn.Sequential):
        raise InputError(f"a {type(stage).__name__} has no ReLU at its end to stand before; shift after it")
    last: Any = stage[-1]
    x = stage[:-1](x)
    if isinstance(last, nn.ReLU):
        return x
    if not all(hasattr(last, name) for name in ("conv1", "bn1", "conv2", "bn2", "relu", "downsample")):
        raise InputError(
            f"a {type(last).__name__} does not end in a ReLU one can stand before; shift after it"
        )
    y: Tensor = last.bn2(last.conv2(last.relu(last.bn1(last.conv1(x)))))
    if hasattr(last, "conv3"):
        y = last.bn3(last.conv3(last.relu(y)))
    return y + (x if last.downsample is None else last.downsample(x))


@contextmanager
def bn_buffers_kept(net: nn.Module) -> Iterator[None]:
    """Inside, train-mode batch norms normalise by their batch and leave their buffers alone.

    The buffers are not saved and copied back: that would bump their version under a backward pass that is
    still due.
    """
    tracking = [m for m in net.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True
