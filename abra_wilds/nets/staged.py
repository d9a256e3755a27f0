"""A backbone as named stages that can be tapped, left early and entered late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.errors import InputError
from abra_wilds.functional.precision import half_precision

Taps = Mapping[str, Callable[[Tensor], Tensor]]
StageCall = Callable[..., Tensor]
NO_TAPS: Taps = MappingProxyType({})
STAGES = ("stem", "res1", "res2", "res3", "res4")
# "conv1" is the output of the stem's first convolution.
TAP_POINTS = ("conv1", *STAGES)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class StagedNet(nn.Module):
    """stem -> res1 -> res2 -> res3 -> res4; no pooling, no head.

    Attributes:
        stages: the five stages by name.
        channels: output channels of each stage.
        class_token: whether the first position of the last stage's output is a class token.
        amp: the half precision that it runs in, by autocast of its own; None for that of its surroundings.
        channels_last: whether feature maps have their channels last in memory; weights follow by `to`.
        published: what files of its builder call its tensors -> its own names.
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
        self.amp: torch.dtype | None = None
        self.channels_last = False
        self.published: Mapping[str, str] = {}
        self._compile: Callable[[StageCall], StageCall] | None = None
        self._compiled: dict[Sequence[str], StageCall] = {}

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
        """Run the stages after `after` (all, if None) up to and with `upto`, and the taps of each.

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
        names = STAGES[first : STAGES.index(upto) + 1]
        x = self._laid_out(x)
        with half_precision(x.device.type, self.amp):
            if not taps and not bare:
                return self._through(names, x)
            for name in names:
                stage = self.stages[name]
                run: StageCall = partial(self._through, (name,))
                if name == STAGES[0] and "conv1" in taps:
                    convolution, stage = first_convolution(stage)
                    x, run = taps["conv1"](convolution(x)), stage
                x = without_last_relu(stage, x) if bare and name == upto else run(x)
                if name in taps:
                    x = taps[name](x)
        return x

    def enter(self, x: Tensor, *args: Any) -> Tensor:
        """What leaves the stem (N, C, h, w), given what else it takes beside images (see `PatchStem`)."""
        x = self._laid_out(x)
        with half_precision(x.device.type, self.amp):
            return self._through(STAGES[:1], x, *args)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile stages that run in a row together, when they first do; arguments are torch.compile's.

        Keys of the state dict stay, and copies are not compiled. Between taps each stage is compiled for
        itself; one that is entered or left in its middle (`conv1`, `bare`) runs as it is written.
        """
        self._compile, self._compiled = partial(torch.compile, *args, **kwargs), {}

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_compile": None, "_compiled": {}}

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def _through(self, names: Sequence[str], x: Tensor, *args: Any) -> Tensor:
        """What comes out of some stages in a row; only the stem takes more than the map before it."""
        run = self._compiled.get(names)
        if run is None:
            run = in_a_row([self.stages[name] for name in names], "_".join(names))
            if self._compile is not None and names:
                run = self._compiled[names] = self._compile(run)
        return run(x, *args)


def in_a_row(stages: Sequence[nn.Module], name: str) -> StageCall:
    """Stages one after the other, as one function of this name.

    Torch keeps what it learns about the shapes of inputs by the name of the code. Without names of their own,
    what it compiles for one row of stages would allow for the shapes of all others.
    """

    def run(x: Tensor, *args: Any) -> Tensor:
        for stage in stages:
            x, args = stage(x, *args), ()
        return x

    run.__code__ = run.__code__.replace(co_name=name)
    return run


def first_convolution(stem: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution that a stem begins with, and the rest of the stem.

    Raises:
        InputError: if it begins with anything else.
    """
    if not isinstance(stem, nn.Sequential) or not isinstance(stem[0], nn.Conv2d):
        raise InputError(
            "the stem of this model does not begin with a convolution, so nothing can act after one; leave "
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
