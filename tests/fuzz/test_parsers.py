"""Parsers of untrusted input end in a value or a sentence; and the inputs by which they once did not."""

import json

import pytest
from hypothesis import HealthCheck, given, settings

from abra_wilds.data.reading.packed import INDEX, Pack
from abra_wilds.errors import InputError
from tests.data.datasets.published import tar
from tests.fuzz.parsers import PACKED, PARSERS, SPEC, outcome, record, written

QUICK = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_or_refuses(name):
    parser = PARSERS[name]
    found = set()

    @QUICK
    @given(parser.inputs)
    def check(given_input):
        found.add(outcome(parser, given_input))

    check()
    assert found == {"read", "refused"}, "inputs are nearly right: some are read, some are not"


def index(**changes):
    return json.dumps({**PACKED, "files": [{**PACKED["files"][0], **changes}]}).encode()


BROKE = [
    ("config.json", b"null"),
    ("config.json", json.dumps({k: v for k, v in written().items() if k != "preset"}).encode()),
    ("config.json", b"[" * 100_000),
    ("results.jsonl", (b"[" * 100_000, b"")),
    ("predictions", b"9" * 30),
    ("predictions", b"1\nx\n2"),
    ("recipe", b"a: 2026-13-45"),
    ("recipe", b"a: " + b"[" * 5000),
    ("sweep", json.dumps({**SPEC, "seeds": [[0]]}).encode()),
    ("archive", ("x.tar", tar({"a/": b"x", "a": b"y", "a/b": b"z"}, "w"))),
    ("archive", ("x.tar", tar({"x" * 300: b"x"}, "w"))),
    ("pack index", index(stems=["x/1.png", [False]])),
    ("pack index", index(bytes=[])),
    ("pack index", index(crc32=[[], []])),
    ("pack index", json.dumps({**PACKED, "format": "\n"}).encode()),
    ("archive", ("x.tar.gz", b"\x1f\x8b\x08")),
    ("pack index", index(name=[])),
    ("pack index", index(name="x" * 300)),
    ("pack index", index(stems=[], crc32=[])),
    ("checkpoint", b"\x80\x02}q\x00."),
]


@pytest.mark.parametrize(("name", "given_input"), BROKE, ids=lambda value: repr(value)[:40])
def test_what_broke_a_parser_is_refused(name, given_input):
    assert outcome(PARSERS[name], given_input) == "refused"


def test_the_inputs_themselves_are_read_where_nothing_is_changed():
    whole = json.dumps(written()).encode()
    line = json.dumps(record()).encode()
    given_inputs = {"config.json": whole, "results.jsonl": (line, line), "pack index": index()}
    given_inputs |= {"sweep": json.dumps(SPEC).encode(), "command line": ["--algorithm", "ERM"]}
    assert {outcome(PARSERS[name], value) for name, value in given_inputs.items()} == {"read"}


def test_the_index_of_a_pack_leads_to_no_other_folder(tmp_path):
    """A file of the right size beside the pack is none of it."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "a.npy").write_bytes(bytes(136))
    (tmp_path / "pack" / INDEX).write_bytes(index(name="../a.npy"))
    with pytest.raises(InputError, match=r"a\.npy has 0 bytes"):
        Pack.open(tmp_path / "pack")
