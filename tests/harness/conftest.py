"""The checkouts: the stand-in of this folder, and a real one where $WILDS_CHECKOUT names it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from abra_wilds.__main__ import main
from abra_wilds.harness.checkout import Checkout, find_checkout
from abra_wilds.harness.register import registered
from tests.engine.conftest import tiny
from tests.harness.inside import STAND_IN

__all__ = ["tiny"]
collect_ignore = ["fake_checkout"]  # it imports by bare names, which only a checkout opened by us has
CHECKOUTS = {"stand-in": STAND_IN}
if os.environ.get("WILDS_CHECKOUT"):
    CHECKOUTS["real"] = Path(os.environ["WILDS_CHECKOUT"])


@pytest.fixture(params=CHECKOUTS)
def checkout(request: pytest.FixtureRequest) -> Checkout:
    """Each checkout in turn; never written to."""
    return find_checkout(CHECKOUTS[request.param])


@pytest.fixture
def names(checkout: Checkout) -> dict[str, str]:
    """Our methods' names in the checkout."""
    with registered(checkout) as harness:
        return dict(harness.names)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must end with this exit code; returns the one sentence it ends with."""

    def refusal(argv: list[str], code: int = 2) -> str:
        capsys.readouterr()
        assert main(argv) == code
        lines = capsys.readouterr().err.splitlines()
        assert sum(text.startswith("error: ") for text in lines) == 1 and "Traceback" not in "".join(lines)
        assert re.fullmatch(r"error: .{20,}", lines[-1])
        return lines[-1].removeprefix("error: ")

    return refusal
