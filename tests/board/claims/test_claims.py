"""docs/claims.md: outcomes by hand on small series, and what is missing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

import pytest
from scipy.stats import t as student

from abra_wilds.__main__ import main
from abra_wilds.board.claims.evidence import OPEN, PAIR, REFUTED, SUPPORTED, outcome_of, pair_of, read_claims
from abra_wilds.board.claims.evidence import SPEC as CLAIMS
from abra_wilds.board.claims.page import page
from abra_wilds.board.sweep.plan import plan
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.config.files import read_settings
from abra_wilds.errors import InputError
from abra_wilds.results.significance import paired_t
from tests.board import boards
from tests.runs import REPOSITORY

SPEC = """
settings:
  small: {title: made up, records: small.jsonl, split: test}
least: 1.0
claims:
  - claim: One is ahead of two.
    paper: Table 9
    tests:
      - {where: small, higher: one, lower: two}
      - {where: small, higher: three, lower: two, part: a part}
    verdict_by: [a part]
  - {claim: Nobody looked., paper: Fig. 9, open: no record}
"""
ACCURACIES = {"one": [0.50, 0.52, 0.55], "two": [0.40, 0.41, 0.46], "three": [0.40, 0.41, 0.45]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "claims.yaml").write_text(SPEC)
    lines = [
        {
            "row": row,
            "tta": None,
            "split": "test",
            "seed": s,
            "acc": acc,
            "data_sha256": "d",
            "acc_balanced": acc / 2,
        }
        for row, accs in ACCURACIES.items()
        for s, acc in enumerate(accs)
    ]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_a_test_is_the_paired_t_test_of_points_and_holms_p_over_the_page(folder):
    _, (claim, nobody) = read_claims(folder, folder / "claims.yaml")
    ahead, below = claim.tests
    gaps = [100 * (a - b) for a, b in zip(ACCURACIES["one"], ACCURACIES["two"], strict=True)]
    se = stdev(gaps) / 3**0.5
    p = 2 * student.sf(mean(gaps) / se, 2)
    assert ahead.found.difference == pytest.approx(mean(gaps))
    assert ahead.found.margin == pytest.approx(student.ppf(0.975, 2) * se)
    assert ahead.balanced.difference == pytest.approx(mean(gaps) / 2)
    assert ahead.p == pytest.approx(2 * p) and ahead.outcome == SUPPORTED
    assert below.found.difference == pytest.approx(-1 / 3) and below.outcome == OPEN
    assert claim.outcome("small") == OPEN, "the part named by verdict_by decides"
    assert nobody.open == "no record" and not nobody.tests


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([5.0, 6.0, 5.5], [1.0, 2.0, 1.4], SUPPORTED),
        ([1.0, 2.0, 1.4], [5.0, 6.0, 5.5], REFUTED),
        ([1.0, 2.0, 3.0], [1.1, 1.9, 3.0], REFUTED),  # a lead of a point is excluded
        ([1.0, 9.0, 3.0], [5.0, 2.0, 3.0], OPEN),
        ([1.0], [0.0], OPEN),
    ],
)
def test_what_a_difference_says(a, b, expected):
    found = paired_t(a, b)
    assert outcome_of(found, found.p, least=1.0) == expected


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "small.jsonl").unlink(), "small.jsonl is missing"),
        (lambda f: (f / "small.jsonl").write_text('{"row": 1}\n'), "line 1 of"),
        (lambda f: (f / "claims.yaml").write_text(SPEC.replace("three", "four")), "no record of row 'four'"),
    ],
)
def test_claims_without_their_records_are_refused(folder, damage, words):
    damage(folder)
    with pytest.raises(InputError, match=words):
        read_claims(folder, folder / "claims.yaml")


def test_records_of_a_sweep_are_taken_as_far_as_they_are_there(folder):
    spec = SPEC.replace(
        "split: test}", "split: test}\n  swept: {title: t, records: swept.jsonl, split: test, sweep: sw}"
    )
    spec = spec.replace("{where: small, higher: three", "{where: swept, higher: three").replace(
        "verdict_by: [a part]", ""
    )
    (folder / "claims.yaml").write_text(spec)
    settings, (claim, _) = read_claims(folder, folder / "claims.yaml")
    assert [t.where for t in claim.tests] == ["small"] and claim.unrecorded == ("swept",)
    text = page(settings, [claim], 1.0)
    assert (
        "| One is ahead of two. | t | cannot tell here: not recorded |" in text and "of the sweep sw." in text
    )
    lines = (folder / "small.jsonl").read_text().splitlines(keepends=True)
    (folder / "swept.jsonl").write_text("".join(line for line in lines if '"three"' in line))
    _, (claim, _) = read_claims(folder, folder / "claims.yaml")
    assert claim.unrecorded == ("swept",), "the other row is not there yet"
    (folder / "swept.jsonl").write_text("".join(lines))
    _, (claim, _) = read_claims(folder, folder / "claims.yaml")
    assert [t.where for t in claim.tests] == ["small", "swept"] and claim.unrecorded == ()
    assert claim.tests[1].found.difference == pytest.approx(-1 / 3)


def test_rows_that_claims_name_of_a_sweep_are_those_of_its_spec_with_its_adaptations(like_mitocheck):
    content = read_settings(CLAIMS, "claims")
    swept = {name: s["sweep"] for name, s in content["settings"].items() if "sweep" in s}
    known = {}
    for sweep in set(swept.values()):
        planned = plan(read_spec(boards.SPECS[sweep]), Path("RUNS"), screen=like_mitocheck[sweep])
        known[sweep] = {
            (run.label, name) for run in planned for name in ("none", *(a.name for a in run.adaptations))
        }
    tests = [t for claim in content["claims"] for t in claim.get("tests", ()) if t["where"] in swept]
    assert len(tests) > 40
    for t in tests:
        pair = pair_of(**{key: t[key] for key in PAIR if key in t})
        assert set(pair) <= known[swept[t["where"]]] and pair[0] != pair[1], t
    assert all(content["settings"][name]["records"] == f"{sweep}.jsonl" for name, sweep in swept.items())


def test_the_page_in_docs_is_what_the_command_makes_of_the_records(tmp_path):
    out = tmp_path / "claims.md"
    assert main(["claims", "--records", str(REPOSITORY / "leaderboard" / "records"), "--out", str(out)]) == 0
    made = out.read_text()
    assert made == (REPOSITORY / "docs" / "claims.md").read_text()
    assert made.count("\n## ") == 17 and "simulated" in made
