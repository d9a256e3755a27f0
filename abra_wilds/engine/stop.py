"""Ending a run in good order when the system or a person asks for it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from abra_wilds.dist import all_gather, is_main, world
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.errors import Stopped

# What a person sends, what a cluster sends before it takes a machine away, and what some send earlier still.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """Remembers the first signal that asks the run to end, and ends it where nothing is half done."""

    def __init__(self) -> None:
        self.number = 0
        self._before = {n: signal.getsignal(n) for n in SIGNALS}

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal; a second one does what it does without us, which is to end the process at once."""
        self.number = number
        self.restore()
        if is_main():
            name = signal.Signals(number).name
            sys.stderr.write(f"{name}: the run ends after this step; a second signal ends it at once\n")

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, folder: RunFolder, epoch: int, together: bool = True) -> None:
        """End the run if a signal came; of several processes all end, wherever it came.

        Args:
            folder: of the run.
            epoch: the first that is not complete.
            together: whether all processes are here now, so that they can be asked.

        Raises:
            Stopped: with what is left, and how to go on.
        """
        if world() > 1:
            self.number = max(all_gather(self.number)) if together else 0
        if self.number:
            name = signal.Signals(self.number).name
            raise Stopped(f"stopped by {name}; {folder.kept(epoch)}; --resume continues there", self.number)


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Inside, signals wait for the end of a step; the main thread alone gets any."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    for number in SIGNALS:
        signal.signal(number, request.ask)
    try:
        yield request
    finally:
        request.restore()
