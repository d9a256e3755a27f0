"""The page of quality control: what it says of chosen measures, its maps, and names that would be markup."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from abra_wilds.analysis.qc.measures import MEASURES
from abra_wilds.analysis.qc.run import judged
from abra_wilds.board.report.maps import format_of, place, plate_map
from abra_wilds.board.report.quality import quality_page

CHANNELS = ("DNA", "ER")
WELLS = [f"{row}{column:02}" for row in "ABCD" for column in range(1, 6)]


def made(change=None, plates=6, wells=WELLS):
    """Plates of 20 wells with usual measures; `change` edits them as plate, well, channel, measure."""
    rng = np.random.default_rng(0)
    usual = {"focus": -2.5, "sharpness": -1, "saturated": 0, "foreground": 0.3, "contrast": 40, "mean": 30}
    values = np.empty((plates, len(wells), len(CHANNELS), len(MEASURES)))
    for k, name in enumerate(MEASURES):
        noise = rng.standard_normal(values.shape[:3])
        values[..., k] = usual.get(name, 10) * (1 + (name != "saturated") * 0.05 * noise)
    if change is not None:
        change(values)
    names = [["b", f"P<{p}>", well, "1"] for p in range(plates) for well in wells]
    columns = ["Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    table = pd.DataFrame(names, columns=columns, dtype=object)
    return judged(table, values.reshape(-1, *values.shape[2:]), CHANNELS, 0)


def faults(values):
    values[1, 7, :, MEASURES.index("foreground")] = 0  # plate 1, well B03
    values[1, 0, 1, MEASURES.index("saturated")] = 0.2  # A01
    values[4, :, 1, MEASURES.index("contrast")] /= 4


def test_the_answer_comes_first_with_names_and_numbers():
    page, summary = quality_page(made(faults), "mine", simulated=False)
    assert summary == (
        "1 of 6 plates should not be trusted: P<4>. 2 of 120 wells should not be trusted, since half of "
        "their sites or more are flagged. 2 of 120 sites (1.7 %) are flagged (saturated 1, empty 1)."
    )
    text = re.sub(r"<[^>]+>", " ", page[page.index('id="plates"') : page.index('id="maps"')])
    assert re.search(r"P&lt;4&gt;\s+stain ER x0\.2\d of the batch&#39;s", text)
    assert re.search(r"P&lt;1&gt; A01\s+1 of 1\s+saturated ER 1", text)
    assert re.search(r"P&lt;1&gt; B03\s+1 of 1\s+empty 1", text)
    assert page.index("should not be trusted") < page.index("<nav")


def test_maps_have_a_letter_at_the_flagged_wells_alone():
    page, _ = quality_page(made(faults), "mine", simulated=False)
    maps = page[page.index('id="maps"') : page.index("<details")]
    one = next(svg for svg in re.findall(r"<svg.*?</svg>", maps, re.S) if "P&lt;1&gt;" in svg)
    marks = re.findall(r'class="mark" x="([\d.]+)" y="([\d.]+)">(\w)<', one)
    assert sorted((letter, int(float(x)), int(float(y))) for x, y, letter in marks) == [
        ("E", 2, 1),
        ("S", 0, 0),
    ]
    assert 'class="qE" d="M2 1h' in one and len(re.findall(r"M\d+ \d+h", one)) == 20


def test_a_clean_screen_says_so_and_a_small_one_that_plates_are_not_compared():
    page, summary = quality_page(made(), "mine", simulated=True)
    assert summary.startswith("0 of 6 plates") and "None: no plate stands out" in page
    assert "SIMULATED DATA" in page
    page, _ = quality_page(made(plates=2), "mine", simulated=False)
    assert "Plates are compared where a screen has 5 or more" in page and "SIMULATED" not in page


def test_wells_without_names_have_no_maps():
    page, _ = quality_page(made(faults, wells=[str(k) for k in range(20)]), "mine", simulated=False)
    assert "so there are no maps" in page and "<figure" in page


def test_a_plate_that_is_mostly_flagged_is_named_and_its_wells_are_not_listed():
    def empty(values):
        values[2, :9, :, MEASURES.index("foreground")] = 0

    page, summary = quality_page(made(empty), "mine", simulated=False)
    assert "1 of 6 plates should not be trusted: P<2>" in summary
    wells = page[page.index('id="wells"') : page.index('id="maps"')]
    assert "9 of 20 sites flagged" in page and "P&lt;2&gt;" not in wells


@pytest.mark.parametrize(
    ("wells", "form"),
    [(["A01", "H12"], (8, 12)), (["A01", "H13"], (16, 24)), (["P24"], (16, 24)), (["AF48"], (32, 48))],
)
def test_the_format_is_the_smallest_that_holds_all_wells(wells, form):
    assert format_of(wells) == form
    svg = plate_map("x", form, dict.fromkeys(wells, "w0"))
    for well in wells:
        row, column = place(well)
        assert f"M{column} {row}h" in svg


def test_what_is_no_well_has_no_format():
    assert format_of(["A01", "spot 3"]) is None and place("A49") is None and place("AG01") is None
