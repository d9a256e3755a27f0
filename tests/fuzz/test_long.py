"""examples/benchmarks/faults/fuzz.py: what it counts, and what it says of a parser that breaks."""

import json
from argparse import Namespace

import pytest
from hypothesis import strategies as st

from abra_wilds.errors import InputError
from tests import runs
from tests.fuzz.parsers import Parser


@pytest.fixture
def long(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(runs.REPOSITORY / "examples" / "benchmarks" / "faults"))
    return __import__("fuzz")


def test_a_record_has_inputs_outcomes_and_seconds_of_a_parser(long, tmp_path, capsys):
    args = Namespace(minutes=1.0, examples=120, only=["pack index"], seed=0, json=tmp_path / "f.json")
    assert long.run(args) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    one = found["parsers"]["pack index"]
    assert one["examples"] == one["read"] + one["refused"] == 120 and one["faults"] == {}
    assert one["seconds"] > 0 and set(found) == {"commit", "seed", "versions", "parsers"}
    assert capsys.readouterr().out.startswith("pack index: {")


def test_what_comes_out_otherwise_is_counted_and_kept_once_a_place(long):
    def breaks(number, folder):
        if number > 5:
            raise InputError("too large")
        return 1 // number

    parser = Parser(st.integers(0, 9), breaks)
    found = long.fuzz(parser, Namespace(minutes=1.0, examples=60, seed=1))
    assert found["examples"] == sum(found[kind] for kind in ("read", "refused", "fault")) == 60
    assert found["fault"] > 0 and len(found["faults"]) == 1
    ((place, example),) = found["faults"].items()
    assert place.startswith("ZeroDivisionError") and example == "0"


def test_an_unknown_parser_is_refused(long):
    with pytest.raises(InputError, match="'nothing'"):
        long.run(Namespace(only=["nothing"]))
