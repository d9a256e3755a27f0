"""docs/claims.md: every claim of the paper, what was found, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from abra_wilds.board.claims.evidence import OPEN, Claim, Comparison, Setting
from abra_wilds.results.records import markdown
from abra_wilds.results.significance import Paired

HEAD = """# What is true

The paper's claims (Tong et al. 2026, arXiv 2603.05622), and ours of the training rule Spectral-OT
(`docs/spectral_ot.md`), each with an experiment that could refute it. The command `abra-wilds claims` makes
this page of records alone. Whoever runs a sweep with `--records` adds to them: `claims_sim` and
`claims_no_batch_effect` simulate their screens, `claims_mitocheck` needs MitoCheck's table. No record is of
real RxRx1 images: whoever has them runs the sweeps `table_2` to `table_5`, and `abra-wilds tables` tests the
same rows.

A test compares two rows, paired by data and seed. It gives the mean of the differences in points of accuracy
with its 95 % interval, the number of pairs n, and p of the two-sided paired t-test, adjusted by Holm over all
tests of this page. **Supported**: the row is ahead, with p below 0.05. **Not supported**: it is significantly
below, or the interval excludes a lead of {least:g} points. **Cannot tell here**: anything else.
"""


def page(settings: Mapping[str, Setting], claims: Sequence[Claim], least: float) -> str:
    """The page."""
    parts = [HEAD.format(least=least), "## In short\n\n" + markdown(summary(settings, claims))]
    for number, claim in enumerate(claims, start=1):
        parts.append(
            f"## {number}. {claim.text}\n\nIn the paper: {claim.paper}.\n\n{evidence(settings, claim)}"
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summary(settings: Mapping[str, Setting], claims: Sequence[Claim]) -> list[list[str]]:
    """A row a claim and setting: what came out."""
    rows = [["claim", "on", "outcome"]]
    for claim in claims:
        for where in dict.fromkeys(t.where for t in claim.tests):
            rows.append([claim.text, settings[where].title, claim.outcome(where)])
        rows += [[claim.text, settings[where].title, f"{OPEN}: not recorded"] for where in claim.unrecorded]
        if claim.open:
            rows.append([claim.text, "-", f"{OPEN}: {claim.open}"])
    return rows


def evidence(settings: Mapping[str, Setting], claim: Claim) -> str:
    """The tests of a claim as a table, or why there is none."""
    parts = [tested(settings, claim)] if claim.tests else []
    sweeps = dict.fromkeys(settings[where].sweep for where in claim.unrecorded)
    named = f"sweep{'s' if len(sweeps) > 1 else ''} {' and '.join(sweeps)}"
    parts += [f"Nothing of it is recorded of the {named}."] if sweeps else []
    parts += [f"{OPEN.capitalize()}: {claim.open}."] if claim.open else []
    return "\n\n".join(parts)


def tested(settings: Mapping[str, Setting], claim: Claim) -> str:
    """The tests of a claim as a table."""
    cells = [["on", "ahead by the claim", "of", "difference", "balanced", "n", "p (Holm)", "outcome"]]
    cells += [cells_of(settings, test) for test in claim.tests]
    files = ", ".join(sorted({f"`leaderboard/records/{settings[t.where].records}`" for t in claim.tests}))
    decided = f" The verdict is that of {' and '.join(claim.verdict_by)}." if claim.verdict_by else ""
    return f"{markdown(cells)}\n\nRecords: {files}.{decided}"


def cells_of(settings: Mapping[str, Setting], test: Comparison) -> list[str]:
    """A test's row."""
    setting = settings[test.where]
    p = "-" if test.p is None else f"{test.p:.2g}"
    outcome = test.outcome + (f" ({test.part})" if test.part else "")
    return [
        f"{test.where}, {setting.split}",
        named(*test.higher),
        named(*test.lower),
        interval(test.found),
        "-" if test.balanced is None else interval(test.balanced),
        str(test.found.n),
        p,
        outcome,
    ]


def named(row: str, tta: str) -> str:
    """A row with its adaptation."""
    return row if tta == "none" else f"{row}, {tta}"


def interval(found: Paired) -> str:
    """A difference with its 95 % interval."""
    return f"{found.difference:+.1f}" + ("" if found.margin is None else f" ± {found.margin:.1f}")
