"""The page of answers: what was predicted by which model, what not to trust, then maps and predictions."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from abra_wilds.board.figures.style import COLOURS, new_figure, plain
from abra_wilds.board.report.answered import (
    LEAST_PROBABILITY,
    MOST_CLASSES,
    Answered,
    Certificate,
    read_answers,
)
from abra_wilds.board.report.curves import inline_svg
from abra_wilds.board.report.maps import format_of, plate_map
from abra_wilds.board.report.page import render
from abra_wilds.board.report.quality import MOST_MAPS, MOST_PLATES, MOST_WELLS, Map
from abra_wilds.results.records import counted

LETTERS = {
    "Q": "half of its sites or more are flagged by quality control",
    "P": f"the predicted class has a probability below {LEAST_PROBABILITY}",
    "S": f"probability is spread over more than {MOST_CLASSES:.0f} classes, exp(entropy)",
}
SHADES = 5
MOST_DRAWN, LISTED = 40, 3  # certificates in the figure, predictions a plate


def answers_page(folder: Path) -> tuple[str, str]:
    """The page about a folder of answers as HTML, and its first sentences.

    Raises:
        InputError: if it holds none.
    """
    a = read_answers(folder)
    summary = summarise(a)
    wells = doubtful(a)
    certificates = sorted(a.certificates, key=lambda c: (c.trusted, c.accuracy))
    page = render(
        "answers.html.j2",
        title=f"Answers for {a.about['screen']['source']}",
        simulated=a.about["simulated_training"],
        summary=summary,
        plates=[[plate, why] for plate, why in a.plates.items() if why],
        most_plates=MOST_PLATES,
        certificates=[certificate_row(c) for c in certificates],
        certificate_figure=certificate_figure(certificates[:MOST_DRAWN]) if certificates else None,
        most_drawn=MOST_DRAWN,
        wells=[
            [f"{r.plate} {r.well}", r.Predicted, f"{r.Probability:.2f}", r.why] for r in wells[:MOST_WELLS]
        ],
        n_wells=len(wells),
        lost=sum(why != "" for why in a.plates.values()),
        maps=maps(a),
        legend=[f"{k / SHADES:.1f} to {(k + 1) / SHADES:.1f}" for k in range(SHADES)],
        letters=LETTERS,
        frequent=frequent(a),
        n_plates=len(a.plates),
        scores=score_rows(a),
        scored=score_plates(a),
        calibrated=bool(a.wells["Calibrated"].astype(bool).all()),
        made=made_rows(a),
    )
    return page, summary


def doubtful(a: Answered) -> list[Any]:
    """The wells not to trust on plates that are not lost, flagged ones first, then the least likely."""
    own = a.wells[(a.wells["why"] != "") & ~a.wells["lost"]]
    own = own.assign(quality=own["letter"] == "Q")
    return list(
        own.sort_values(["quality", "Probability"], ascending=[False, True], kind="stable").itertuples()
    )


def summarise(a: Answered) -> str:
    """What was predicted by what, and how much of it not to trust."""
    model, how = a.about["model"], a.adaptation
    lost = [plate for plate, why in a.plates.items() if why]
    named = f": {', '.join(lost[:8])}{' and others' if len(lost) > 8 else ''}" if lost else ""
    others = a.wells[~a.wells["lost"]]
    bad = int((others["why"] != "").sum())
    kinds = {"Q": "flagged by quality control", "P": "improbable", "S": "spread over many classes"}
    counts = others["letter"].value_counts()
    why = ", ".join(f"{int(counts[k]):,} {text}" for k, text in kinds.items() if k in counts)
    plain_sites = int((a.wells["Adaptation"] == "none").sum())
    n_wells, n_plates = counted(len(a.wells), "well"), counted(len(a.plates), "plate")
    said = [
        f"{counted(a.n_sites, 'site')} in {n_wells} of {n_plates} were "
        f"predicted by the model {model['name']}, trained on {model['data']}, "
        + ("without adaptation." if how == "none" else f"adapted by {how}."),
        f"{counted(plain_sites, 'well')} could not be adapted to." if how != "none" and plain_sites else "",
        estimate(a.certificates),
        f"{len(lost):,} of {n_plates} should not be trusted{named}."
        if a.certificates or a.flagged is not None
        else "Nothing says which plates to trust: --tta eb_bn certifies them, --qc flags images.",
        f"{bad:,} of the {'other ' if lost else ''}{counted(len(others), 'well')} should not be trusted"
        f"{f' ({why})' if why else ''}."
        if len(others)
        else "",
        "" if a.flagged is None else f"Quality control flags {a.flagged:,} of {counted(a.n_sites, 'site')}.",
    ]
    against = sum(c.advice == "do not adapt" for c in a.certificates)
    if against:
        said.append(f"The advice is not to adapt for {against:,} of {len(a.certificates):,} certificates.")
    return " ".join(text for text in said if text)


def estimate(certificates: list[Certificate]) -> str:
    """Estimated accuracy of all images, with the interval of one bio-batch or the range of several."""
    if not certificates:
        return ""
    each = [c.accuracy for c in certificates]
    mean, first = fmean(each, [c.images for c in certificates]), certificates[0]
    among = f", {min(each):.0%} to {max(each):.0%} by bio-batch"
    around = f" ({first.low:.0%} to {first.high:.0%})" if len(each) == 1 else among
    return f"Estimated accuracy, without labels: {mean:.0%}{around}."


def certificate_row(c: Certificate) -> list[str]:
    """A certificate in words."""
    interval = f"{100 * c.low:.0f} to {100 * c.high:.0f}"
    trusted = "yes" if c.trusted else "no"
    return [
        c.bio_batch,
        f"{c.images:,}",
        f"{100 * c.accuracy:.0f}",
        interval,
        trusted,
        f"{c.advice}: {c.because}",
    ]


def certificate_figure(shown: list[Certificate]) -> str:
    """Estimated accuracies with their intervals, a line a bio-batch."""
    figure = new_figure("", 4.6, 0.9 + 0.26 * len(shown), simulated=False)
    axes = figure.subplots()
    for k, c in enumerate(shown):
        colour, marker = (COLOURS[0], "o") if c.trusted else (COLOURS[1], "x")
        axes.plot([100 * c.low, 100 * c.high], [k, k], color=colour, linewidth=1.5)
        axes.plot(100 * c.accuracy, k, marker, color=colour, markersize=6)
    plain(axes, "estimated accuracy, % of images", "")
    axes.set_xlim(0, 100)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), [short(c.bio_batch) for c in shown])
    axes.grid(axis="x", color="#E0E0E0", linewidth=0.6)
    alt = "; ".join(
        f"{c.bio_batch} {100 * c.accuracy:.0f} ({100 * c.low:.0f} to {100 * c.high:.0f})" for c in shown
    )
    return inline_svg(figure, "worth", f"Estimated accuracy in percent, with its interval: {alt}.")


def short(name: str) -> str:
    """A name for an axis; a dollar sign would begin a formula."""
    text = name if len(name) <= 28 else f"{name[:27]}…"
    return text.replace("$", r"\$")


def maps(a: Answered) -> tuple[list[Map], str]:
    """Maps of plates not to trust, then of those with most wells not to trust, and which these are."""
    form = format_of(a.wells["well"].unique())
    if form is None:
        return [], "Wells are not named A01 to AF48, so there are no maps."
    bad = a.wells[a.wells["why"] != ""].groupby("plate").size()
    order = sorted(a.plates, key=lambda plate: (not a.plates[plate], -int(bad.get(plate, 0))))
    drawn = []
    for plate in order[:MOST_MAPS]:
        own = a.wells[a.wells["plate"] == plate]
        shades = (own["Probability"] * SHADES).clip(0, SHADES - 1).astype(int)
        kinds = {w: f"w{k}" for w, k in zip(own["well"], shades, strict=True)}
        letters = {w: letter for w, letter in zip(own["well"], own["letter"], strict=True) if letter}
        why = f", not to trust: {a.plates[plate]}" if a.plates[plate] else ""
        caption = f"{plate}{why} ({len(letters)} of {counted(len(own), 'well')} marked)"
        drawn.append(Map(caption, plate_map(f"Probability over {caption}", form, kinds, letters)))
    left = len(order) - len(drawn)
    said = f"{len(drawn):,} of {counted(len(order), 'plate')}"
    return drawn, said + (
        f"; the {left:,} left out have as few or fewer wells not to trust." if left else "."
    )


def frequent(a: Answered) -> list[list[str]]:
    """Plate, wells, and its most frequent predictions, (at most MOST_PLATES rows)."""
    rows = []
    for plate in list(a.plates)[:MOST_PLATES]:
        own = a.wells.loc[a.wells["plate"] == plate, "Predicted"]
        counts = own.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
        listed = [f"{name} {n:,} ({n / len(own):.0%})" for name, n in counts.head(LISTED).items()]
        rows.append([plate, f"{len(own):,}", f"{len(counts):,}", ", ".join(listed)])
    return rows


def score_rows(a: Answered) -> list[list[str]]:
    """Level, how many have a label, accuracy and balanced accuracy in percent."""
    scores = a.about.get("scores", {})
    return [
        [level, f"{s['n']:,}", f"{100 * s['accuracy']:.1f}", f"{100 * s['balanced_accuracy']:.1f}"]
        for level, s in scores.items()
        if s
    ]


def score_plates(a: Answered) -> list[list[str]]:
    """Plate, wells with a label, and how many of them are right, the worst plates first."""
    known = a.wells[a.wells["label"].notna()]
    right = (known["Predicted"] == known["label"]).groupby(known["plate"], sort=False).agg(["size", "sum"])
    right["share"] = right["sum"] / right["size"]
    return [
        [str(plate), f"{int(n):,}", f"{int(hits):,}", f"{100 * share:.1f}"]
        for plate, n, hits, share in right.sort_values("share", kind="stable").itertuples()
    ]


def made_rows(a: Answered) -> list[list[str]]:
    """What the answers were made from."""
    about = a.about
    rows = {
        "model": f"{about['model']['name']}, sha256 {about['model']['sha256']}",
        "trained on": about["model"]["data"],
        "screen": f"{about['screen']['source']}, digest {about['screen']['digest']}",
        "channels": ", ".join(f"{n} (here {own})" if n != own else n for n, own in about["channels"].items()),
        "adaptation": a.adaptation,
        "commit": about["commit"] or "not known",
    }
    return [[name, str(value)] for name, value in rows.items()]
