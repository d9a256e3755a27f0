"""The checkouts: the stand-in of this folder, and a real one where $WILDS_CHECKOUT names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from abra_wilds.harness.checkout import Checkout, find_checkout

collect_ignore = ["fake_checkout"]  # it imports by bare names, which only a checkout opened by us has
STAND_IN = Path(__file__).parent / "fake_checkout"
CHECKOUTS = {"stand-in": STAND_IN}
if os.environ.get("WILDS_CHECKOUT"):
    CHECKOUTS["real"] = Path(os.environ["WILDS_CHECKOUT"])


@pytest.fixture(params=CHECKOUTS)
def checkout(request: pytest.FixtureRequest) -> Checkout:
    """Each checkout in turn; never written to."""
    return find_checkout(CHECKOUTS[request.param])
