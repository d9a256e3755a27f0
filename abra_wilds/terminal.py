"""How every command refuses: one sentence on stderr and an exit code. Torch-free."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from abra_wilds.errors import WORKER_KILLED, InputError, RunAborted, Stopped


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage, so that every refusal is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint."""
        raise InputError(message)


def text_never_fails() -> None:
    """Let output show by escapes what its encoding lacks, which would end a run at its log's next line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


# What each refusal of the system asks for; a command that is repeated without it is refused again.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give yourself the right to it, or name another place"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "name another place"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL), "name it otherwise"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit that `ulimit -n` shows"),
    errno.EROFS: "name a place that can be written",
    errno.ENOMEM: "free some memory",
    errno.EADDRINUSE: "end the process that has it, or start with another --master_port",
}
CLOSED = "the program that the output was piped to has ended; write the output into a file"
RESUMING = "--resume continues after the last complete epoch"


def exit_cleanly(body: Callable[[], int], onward: str = "the same command goes on or starts again") -> int:
    """Run a command; what it raises becomes one sentence on stderr.

    The exit code is 2 for a refusal, 1 for a lost run or a file that the system refuses, and 128 and the
    signal's number for an end that was asked for (130 by SIGINT, 143 by SIGTERM, 138 by SIGUSR1).

    Args:
        body: returns an exit code.
        onward: what follows an interruption, for whoever pressed the keys or has done what was asked.
    """
    text_never_fails()
    try:
        code = body()
        sys.stdout.flush()  # a closed pipe is met here, and not by the interpreter when it exits
        return code
    except InputError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except RunAborted as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except RuntimeError as fault:
        # Torch raises the death of a worker wherever the main thread happens to be, and without a type.
        if not str(fault).startswith(("DataLoader worker", "Pin memory thread exited")):
            raise
        print(f"error: {WORKER_KILLED}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _drop_output()
        print(f"error: {CLOSED}; {onward}", file=sys.stderr)
        return 1
    except OSError as fault:
        if fault.errno is None:  # not from the system
            raise
        # A full disk, a folder in a file's place, a missing right: errno without its number says it.
        where = f" ({fault.filename})" if fault.filename else ""
        print(f"error: {fault.strerror or fault}{where}; {remedy(fault)}; {onward}", file=sys.stderr)
        return 1
    except Stopped as fault:
        print(fault, file=sys.stderr)
        return fault.code
    except KeyboardInterrupt:
        print(f"interrupted; {onward}", file=sys.stderr)
        return 130


def remedy(fault: OSError) -> str:
    """What to do about a refusal of the system, as the middle of a sentence."""
    return REMEDIES.get(fault.errno or 0, "see to what it names")


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that the interpreter does not fail at its exit."""
    with suppress(OSError, ValueError):  # of tests, whose output is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def alone(
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """A job of `abra-wilds` as a script of its own; returns its exit code.

    Args:
        doc: what --help says of it.
        add_arguments: declares its flags.
        run: does it.
        argv: arguments; None takes this process'.
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return exit_cleanly(lambda: run(parser.parse_args(argv)))
