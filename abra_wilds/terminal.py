"""How every command refuses: one sentence on stderr and an exit code. Torch-free."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from abra_wilds.errors import Diverged, InputError


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage, so that every refusal is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint."""
        raise InputError(message)


RESUMING = "--resume goes on after the last complete epoch"


def guarded(body: Callable[[], int], onward: str = "the same command goes on or starts again") -> int:
    """Run a command; a refusal becomes one sentence on stderr and exit code 2, a lost run exit code 1.

    Args:
        body: returns an exit code.
        onward: what follows an interruption, for whoever pressed the keys.
    """
    try:
        return body()
    except InputError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except Diverged as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {onward}", file=sys.stderr)
        return 130
