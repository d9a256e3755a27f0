"""Several forward passes as one where batch norms take statistics: of all images, whatever the passes.

Passes run side by side, one a thread, and wait for one another at each batch norm. So the statistics of a
bio-batch do not depend on how it is cut, and it is not read once for every layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.tta.bn_state import hooked, image_moments

Moments = tuple[Tensor, Tensor]  # means and biased variances of images and channels, (n, C) each
SetNorm = Callable[[nn.Module, Tensor, Tensor], None]


@torch.no_grad()
def together(
    forward: Callable[[Tensor], Tensor], passes: Sequence[Tensor], norms: Mapping[nn.Module, SetNorm]
) -> list[Tensor]:
    """Outputs of each pass, where norms are set from the images of all passes before they normalise.

    Args:
        forward: of a module in evaluation mode; images (N, C_in, H, W) -> outputs (N, ...).
        passes: images of each pass.
        norms: batch norm -> what sets its buffers, given the moments (n, C) of all n images at its input.
    """
    crew = _Crew(len(passes), norms)
    found: list[Any] = [None] * len(passes)

    def run(i: int) -> None:
        try:
            with torch.no_grad():
                crew.local.pass_number = i
                found[i] = forward(passes[i])
        except BaseException as fault:
            found[i] = fault
            crew.barrier.abort()

    with ExitStack() as stack:
        stack.callback(crew.barrier.abort)  # no thread waits on where another could not be started
        stack.enter_context(hooked([norm.register_forward_pre_hook(crew.before) for norm in norms]))
        threads = [threading.Thread(target=_on_stream(run), args=(i,)) for i in range(1, len(passes))]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join()
    faults = [f for f in found if isinstance(f, BaseException)]
    for fault in sorted(faults, key=lambda f: isinstance(f, threading.BrokenBarrierError)):
        raise fault
    return found


class _Crew:
    """The passes, as they meet at a batch norm."""

    def __init__(self, size: int, norms: Mapping[nn.Module, SetNorm]):
        self.norms, self.local = norms, threading.local()
        self.moments: list[Moments | None] = [None] * size
        self.barrier = threading.Barrier(size, self.all_here)
        self.norm: Any = None

    def before(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Hand in the moments of a pass, and go on when the norm is set."""
        self.moments[self.local.pass_number] = image_moments(args[0])
        self.norm = norm
        self.barrier.wait()

    def all_here(self) -> None:
        """Set the norm, once all passes have come to it."""
        means, variances = zip(*(m for m in self.moments if m is not None), strict=True)
        with torch.no_grad():
            self.norms[self.norm](self.norm, torch.cat(means), torch.cat(variances))


def _on_stream(run: Callable[[int], None]) -> Callable[[int], None]:
    """The same in a thread, whose stream of a GPU is the caller's."""
    if not torch.cuda.is_available():
        return run
    stream = torch.cuda.current_stream()

    def streamed(i: int) -> None:
        with torch.cuda.stream(stream):
            run(i)

    return streamed
