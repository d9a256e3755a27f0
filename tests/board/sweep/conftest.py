"""A sweep of stand-ins."""

from __future__ import annotations

import pytest

from tests.board.sweep import sweeps


@pytest.fixture
def stage(screen, tmp_path):
    return sweeps.Stage(screen, tmp_path)


@pytest.fixture
def refused_sweep(capsys, stage):
    """The sentence with which a sweep is refused; nothing is started."""

    def check(*flags):
        assert stage(*flags) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
        assert stage.log("start") == []
        return shown.err

    return check
