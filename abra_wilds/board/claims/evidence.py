"""Each claim's tests, from records alone: two rows, paired by data and seed, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from abra_wilds.config.files import read_settings
from abra_wilds.errors import InputError
from abra_wilds.results.records import read_rows
from abra_wilds.results.significance import Paired, holm, paired_t

SPEC = Path(__file__).with_name("claims.yaml")
LEVEL = 0.05
KEYS = ("row", "tta", "split", "seed", "acc", "data_sha256")
PAIR = ("higher", "lower", "tta", "lower_tta")  # keys of a test that name what it compares
SUPPORTED, REFUTED, OPEN = "supported", "not supported", "cannot tell here"
Series = Mapping[
    tuple[str, int], tuple[float, float | None]
]  # (data, seed) -> accuracy and balanced, in percent


@dataclass(frozen=True)
class Setting:
    """Where claims are tested.

    Attributes:
        title: in words.
        records: name of the file.
        split: whose accuracy counts.
        rows: (row, adaptation) -> data and seed -> accuracies.
        sweep: whose records these are, of which some or all may not be there yet; "" where all must be.
    """

    title: str
    records: str
    split: str
    rows: Mapping[tuple[str, str], Series]
    sweep: str = ""

    def lacks(self, test: Mapping[str, str]) -> bool:
        """Whether a sweep has not recorded one of the rows of a test of the spec."""
        higher, lower = pair_of(**{key: test[key] for key in PAIR if key in test})
        a, b = self.rows.get(higher, {}), self.rows.get(lower, {})
        return bool(self.sweep) and not a.keys() & b.keys()

    def series(self, row: str, tta: str) -> Series:
        """Accuracies of a row.

        Raises:
            InputError: if the records have none of it.
        """
        if (row, tta) not in self.rows:
            raise InputError(
                f"{self.records} has no record of row {row!r} with adaptation {tta!r} on {self.split}; "
                "restore it, or correct claims.yaml"
            )
        return self.rows[row, tta]


@dataclass(frozen=True)
class Comparison:
    """One comparison and its outcome.

    Attributes:
        where: name of the setting.
        higher: row and adaptation that the claim puts ahead.
        lower: those that it puts below.
        part: what the comparison shows, where the claim is about one of several parts.
        found: the paired test, in points of accuracy.
        balanced: the same of balanced accuracy; None where older records lack it.
        p: adjusted by Holm over all tests of the page; None where there is no test.
        outcome: SUPPORTED, REFUTED or OPEN.
    """

    where: str
    higher: tuple[str, str]
    lower: tuple[str, str]
    part: str
    found: Paired
    balanced: Paired | None
    p: float | None = None
    outcome: str = OPEN


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: in our words.
        paper: where it stands.
        tests: what could refute it.
        open: why there is no test; empty where there are some.
        verdict_by: the parts that decide; empty for all tests.
        unrecorded: the settings of sweeps that have recorded none of its tests.
    """

    text: str
    paper: str
    tests: tuple[Comparison, ...]
    open: str = ""
    verdict_by: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()

    def outcome(self, where: str) -> str:
        """What a setting says: the verdict of its tests where they agree, else that it cannot be said."""
        found = {
            t.outcome
            for t in self.tests
            if t.where == where and (not self.verdict_by or t.part in self.verdict_by)
        }
        return found.pop() if len(found) == 1 else OPEN


def read_claims(records: Path, spec: Path = SPEC) -> tuple[dict[str, Setting], list[Claim]]:
    """The settings and the claims with their outcomes.

    Args:
        records: the folder of the records that the spec names.
        spec: YAML as in claims.yaml.

    Raises:
        InputError: if the spec or a record that it names is missing or unusable.
    """
    content = read_settings(spec, "claims")
    settings = {name: read_setting(records, **s) for name, s in content["settings"].items()}
    named = [[(t, settings[t["where"]].lacks(t)) for t in c.get("tests", ())] for c in content["claims"]]
    tests = [[read_test(settings, **t) for t, lacking in of if not lacking] for of in named]
    decided = iter(decide([t for of in tests for t in of], read_least(spec)))
    claims = [
        Claim(
            c["claim"],
            c["paper"],
            tuple(next(decided) for _ in of),
            c.get("open", ""),
            tuple(c.get("verdict_by", ())),
            tuple(dict.fromkeys(t["where"] for t, _ in all_ if t["where"] not in {t.where for t in of})),
        )
        for c, all_, of in zip(content["claims"], named, tests, strict=True)
    ]
    return settings, claims


def read_least(spec: Path = SPEC) -> float:
    """The lead in points that a claim needs."""
    return float(read_settings(spec, "claims")["least"])


def read_setting(folder: Path, title: str, records: str, split: str, sweep: str = "") -> Setting:
    """A setting with its records.

    Raises:
        InputError: if they are missing, unless they are those of a sweep.
    """
    rows: dict[tuple[str, str], dict[tuple[str, int], tuple[float, float | None]]] = {}
    path = folder / records
    if not path.is_file() and not sweep:
        raise InputError(
            f"{path} is missing, and claims are made of records alone; restore it, or run its study"
        )
    for r in read_rows(path, KEYS, "a study"):
        if r["split"] == split:
            balanced = r.get("acc_balanced")
            values = 100 * r["acc"], None if balanced is None else 100 * balanced
            rows.setdefault((r["row"], r["tta"] or "none"), {})[r["data_sha256"], r["seed"]] = values
    return Setting(title, records, split, rows, sweep)


def pair_of(
    higher: str, lower: str, tta: str = "none", lower_tta: str | None = None
) -> tuple[tuple[str, str], tuple[str, str]]:
    """The rows and adaptations that a test compares."""
    return (higher, tta), (lower, tta if lower_tta is None else lower_tta)


def read_test(
    settings: Mapping[str, Setting],
    where: str,
    higher: str,
    lower: str,
    tta: str = "none",
    lower_tta: str | None = None,
    part: str = "",
) -> Comparison:
    """A comparison of two rows over the data and seeds that both have; its outcome is still open.

    Raises:
        InputError: if they have none in common.
    """
    one, other = pair_of(higher, lower, tta, lower_tta)
    a, b = (settings[where].series(*of) for of in (one, other))
    common = sorted(a.keys() & b.keys())
    if not common:
        raise InputError(
            f"{settings[where].records} has {higher!r} and {lower!r} with no seed in common; run one more"
        )
    found = paired_t([a[k][0] for k in common], [b[k][0] for k in common])
    pairs = [(x, y) for k in common if (x := a[k][1]) is not None and (y := b[k][1]) is not None]
    balanced = paired_t(*zip(*pairs, strict=True)) if pairs else None
    return Comparison(where, one, other, part, found, balanced)


def decide(tests: Sequence[Comparison], least: float) -> list[Comparison]:
    """Tests with Holm's p over all of them that have one, and what each says.

    Supported: the row is ahead, at 5 % after Holm. Not supported: it is significantly below, or the 95 %
    interval excludes a lead of `least` points.
    """
    ps = [t.found.p for t in tests if t.found.p is not None]
    adjusted = iter(holm(ps))
    decided = []
    for t in tests:
        p = None if t.found.p is None else next(adjusted)
        decided.append(replace(t, p=p, outcome=outcome_of(t.found, p, least)))
    return decided


def outcome_of(found: Paired, p: float | None, least: float) -> str:
    """What a paired test says of a claim that its difference is positive."""
    if p is None or found.margin is None:
        return OPEN
    if p < LEVEL:
        return SUPPORTED if found.difference > 0 else REFUTED
    return REFUTED if found.difference + found.margin < least else OPEN
