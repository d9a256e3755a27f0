"""The page of quality control: which plates and wells not to trust first, then maps, stains and limits.

Letters: n sites, P plates, C channels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.analysis.qc.judge import LIMITS
from abra_wilds.analysis.qc.measures import MEASURES
from abra_wilds.analysis.qc.run import Quality
from abra_wilds.board.figures.style import COLOURS, new_figure, plain
from abra_wilds.board.report.curves import inline_svg
from abra_wilds.board.report.maps import Format, format_of, plate_map
from abra_wilds.board.report.page import render
from abra_wilds.data.datasets.quality import FLAG
from abra_wilds.results.records import counted

# First word of a reason -> the letter of its wells in maps.
LETTERS = {"empty": "E", "blank": "N", "saturated": "S", "blurred": "B", "bright": "L", "dim": "D"}
MEANING = {
    "E": "empty: almost no nuclei",
    "N": "a channel without signal",
    "S": "a saturated channel",
    "B": "blurred",
    "L": "far too bright",
    "D": "far too dim",
}
SHADES = 5
MOST_WELLS, MOST_MAPS, MOST_MEASURED, MOST_PLATES = 40, 24, 4, 60
FARTHEST = 8  # times the others' contrast, where the figure ends


@dataclass(frozen=True)
class Map:
    """A plate map with what stands below it."""

    caption: str
    svg: str


def quality_page(quality: Quality, name: str, *, simulated: bool) -> tuple[str, str]:
    """The page as HTML, and its first sentence.

    Args:
        quality: of a data set.
        name: of the data set.
        simulated: whether its images were made by our simulator.
    """
    summary = summarise(quality)
    wells = quality.wells()
    bad = quality.plates[quality.plates[FLAG] != ""]
    lost = bad.loc[bad[FLAG].str.contains("sites flagged"), "Metadata_Plate"]
    listed = wells[~wells["Metadata_Plate"].isin(lost)]
    page = render(
        "quality.html.j2",
        title=f"Quality of {name}",
        simulated=simulated,
        summary=summary,
        plates=[[f"{r.Metadata_Plate}", r.Metadata_QC] for r in bad.itertuples()],
        wells=well_rows(listed),
        lost=len(lost),
        n_wells=len(listed),
        maps=flag_maps(quality, wells),
        letters=MEANING,
        measured=measure_maps(quality),
        stains=stain_table(quality),
        stain_figure=stain_figure(quality, simulated) if np.isfinite(quality.stain).any() else None,
        least_plates=LIMITS.least_plates,
        limits=LIMITS.said(),
        nuclear=quality.channels[quality.nuclear],
        channels=", ".join(quality.channels),
    )
    return page, summary


def summarise(quality: Quality) -> str:
    """How much is not to be trusted, in a few sentences."""
    flagged = (quality.sites["reasons"] != "").to_numpy()
    wells, lost = quality.wells(), quality.plates[FLAG] != ""
    n_wells = quality.sites.groupby(["Metadata_Plate", "Metadata_Well"]).ngroups
    half = int((2 * wells["flagged"] >= wells["sites"]).sum())
    kinds = pd.Series(
        [kind_of(r) for text in quality.sites["reasons"] for r in text.split("; ") if r], dtype=object
    )
    why = ", ".join(f"{kind} {n:,}" for kind, n in kinds.value_counts().items())
    named = quality.plates.loc[lost, "Metadata_Plate"].tolist()
    plates = f": {', '.join(named[:8])}{' and others' if len(named) > 8 else ''}" if named else ""
    return (
        f"{int(lost.sum()):,} of {counted(len(lost), 'plate')} should not be trusted{plates}. "
        f"{half:,} of {n_wells:,} wells should not be trusted, since half of their sites or more are "
        "flagged. "
        f"{int(flagged.sum()):,} of {len(flagged):,} sites ({100 * flagged.mean():.1f} %) are flagged"
        f"{f' ({why})' if why else ''}."
    )


def kind_of(reason: str) -> str:
    """The first word of a reason."""
    return reason.partition(" ")[0]


def well_rows(wells: pd.DataFrame) -> list[list[str]]:
    """Plate and well, sites flagged, and why; those of which most is flagged first."""
    order = wells.assign(share=wells["flagged"] / wells["sites"]).sort_values(
        ["share", "flagged"], ascending=False, kind="stable"
    )
    return [
        [f"{r.Metadata_Plate} {r.Metadata_Well}", f"{r.flagged} of {r.sites}", r.why]
        for r in order.head(MOST_WELLS).itertuples()
    ]


def flag_maps(quality: Quality, wells: pd.DataFrame) -> tuple[list[Map], str]:
    """Maps of the plates with most flagged wells, and which these are."""
    form = format_of(quality.sites["Metadata_Well"].unique())
    if form is None:
        return [], "Wells are not named A01 to AF48, so there are no maps."
    n = np.array([(wells["Metadata_Plate"] == p).sum() for p in quality.plates["Metadata_Plate"]])
    whole = (quality.plates[FLAG] != "").to_numpy()
    order = np.lexsort((-n, ~whole))
    chosen = [k for k in order if n[k] or whole[k]][:MOST_MAPS]
    others = int(((n > 0) | whole).sum()) - len(chosen)
    caption = f"Plates with a flag, {len(chosen)} of {len(n)}" + (
        f"; {others} more with flags are in qc_plates.csv." if others else "; the others have none."
    )
    return [flag_map(quality, k, form) for k in chosen], caption


def flag_map(quality: Quality, number: int, form: Format) -> Map:
    """A plate's wells, with a letter where sites are flagged."""
    own = quality.sites[quality.plate == number]
    row = quality.plates.iloc[number]
    kinds: dict[str, str] = {}
    letters: dict[str, str] = {}
    for well, reasons in own.groupby("Metadata_Well")["reasons"]:
        found = Counter(kind_of(r) for text in reasons if text for r in text.split("; "))
        letter = LETTERS[found.most_common(1)[0][0]] if found else ""  # of as many, the first
        kinds[str(well)] = f"q{letter}" if letter else "w1"
        letters |= {str(well): letter} if letter else {}
    why = f": {row[FLAG]}" if row[FLAG] else ""
    alt = f"{row['Metadata_Plate']}{why}; {len(letters)} of {len(kinds)} wells with flagged sites."
    caption = f"{row['Metadata_Plate']}{why} ({len(letters)} of {len(kinds)} wells)"
    return Map(caption, plate_map(alt, form, kinds, letters))


def measure_maps(quality: Quality) -> list[tuple[str, list[Map]]]:
    """Of the plates with most flagged sites, a map of each measure that varies over a plate by handling."""
    form = format_of(quality.sites["Metadata_Well"].unique())
    if form is None:
        return []
    flagged = np.bincount(quality.plate, quality.sites[FLAG] != "")
    found = []
    for number in np.argsort(-flagged, kind="stable")[:MOST_MEASURED]:
        rows = quality.plate == number
        wells = quality.sites.loc[rows, "Metadata_Well"]
        shown = {"sharpness, median over channels": np.median(of(quality, "sharpness")[rows], 1)}
        shown[f"foreground of {quality.channels[quality.nuclear]}"] = of(quality, "foreground")[
            rows, quality.nuclear
        ]
        shown |= {f"mean of {c}": of(quality, "mean")[rows, k] for k, c in enumerate(quality.channels)}
        maps = [shade_map(name, values, wells, form) for name, values in shown.items()]
        found.append((str(quality.plates["Metadata_Plate"][number]), maps))
    return found


def of(quality: Quality, name: str) -> NDArray[np.float64]:
    """One measure, (n, C)."""
    return quality.measures[:, :, MEASURES.index(name)]


def shade_map(name: str, values: NDArray[np.float64], wells: pd.Series[Any], form: Format) -> Map:
    """A measure over a plate in SHADES shades, from its lowest well to its highest."""
    means = pd.Series(np.nan_to_num(values, nan=np.nanmin(values)), wells.to_numpy()).groupby(level=0).mean()
    low, high = float(means.min()), float(means.max())
    steps = ((means - low) / (high - low or 1) * SHADES).clip(0, SHADES - 1).astype(int)
    caption = f"{name}: {low:.3g} to {high:.3g}"
    return Map(caption, plate_map(caption, form, {str(w): f"w{k}" for w, k in steps.items()}))


def stain_table(quality: Quality) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each plate's contrast over the median of the others', farthest plates first."""
    far = np.argsort(-np.nan_to_num(np.abs(np.log2(np.maximum(quality.stain, 1e-6)))).max(1), kind="stable")[
        :MOST_PLATES
    ]
    rows = [
        [
            str(quality.plates["Metadata_Plate"][k]),
            *("-" if np.isnan(v) else f"{v:.2f}" for v in quality.stain[k]),
        ]
        for k in far
    ]
    return ["Plate", *quality.channels], rows


def stain_figure(quality: Quality, simulated: bool) -> str:
    """Contrast of every plate over the others', a panel a channel."""
    C, P = len(quality.channels), len(quality.plates)
    shown = np.clip(quality.stain, 1 / FARTHEST, FARTHEST)
    across = min(3, C)
    down = -(-C // across)
    figure = new_figure("Contrast of stains by plate", 2 + 3 * across, 0.6 + 2.2 * down, simulated=simulated)
    axes = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    for panel in axes[C:]:
        panel.set_visible(False)
    for k, channel in enumerate(quality.channels):
        bad = np.array([f"stain {channel} x" in text for text in quality.plates[FLAG]])
        axes[k].axhline(1, color="#000000", linewidth=0.6)
        axes[k].plot(np.flatnonzero(~bad), shown[~bad, k], ".", color=COLOURS[0])
        axes[k].plot(np.flatnonzero(bad), shown[bad, k], "x", color=COLOURS[1], markersize=8)
        axes[k].set_yscale("log", base=2)
        axes[k].yaxis.set_major_formatter("{x:g}")
        axes[k].set_title(channel, fontsize=10)
        plain(axes[k], "plate, in the data set's order", "x the others'")
    alt = "Contrast of each plate over the median of the others by channel; the table below has the values."
    return inline_svg(figure, "stains", f"{alt} {P} plates; crosses are flagged.")
