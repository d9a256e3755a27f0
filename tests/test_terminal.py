"""What the system refuses ends in a sentence whose advice helps, and a closed pipe in no traceback."""

import errno
import os
import subprocess
import sys

import pytest

from abra_wilds.terminal import CLOSED, REMEDIES, RESUMING, exit_cleanly, remedy
from tests import runs


def refused(capsys, fault, *onward):
    def body():
        raise fault

    assert exit_cleanly(body, *onward) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "the right"),
        (errno.EROFS, "can be written"),
        (errno.ENAMETOOLONG, "name it otherwise"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EISDIR, "another place"),
        (errno.EIO, "see to what it names"),
    ],
)
def test_a_refusal_names_the_file_what_to_do_and_how_to_go_on(capsys, number, asked):
    said = refused(capsys, OSError(number, os.strerror(number), "/a/b"), RESUMING)
    runs.assert_says(said, "error: ", os.strerror(number), "(/a/b)", asked, RESUMING)
    assert said.count("\n") == 1


def test_every_remedy_is_the_middle_of_a_sentence():
    assert all(text[0].islower() and not text.endswith((".", ";")) for text in REMEDIES.values())
    assert remedy(OSError("no number")) == "see to what it names"


def test_a_broken_pipe_is_not_to_be_fixed_but_to_be_replaced_by_a_file(capsys):
    said = refused(capsys, BrokenPipeError(errno.EPIPE, "Broken pipe"), RESUMING)
    assert said == f"error: {CLOSED}; {RESUMING}\n"


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_into_a_closed_pipe_ends_in_one_sentence(lines):
    """One line stays in the buffer until the end, many meet the closed pipe at once."""
    program = (
        "import sys\nfrom abra_wilds.terminal import exit_cleanly\n"
        f"def body():\n    [print('line') for _ in range({lines})]\n    return 0\n"
        "sys.exit(exit_cleanly(body))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == f"error: {CLOSED}; the same command goes on or starts again\n"
