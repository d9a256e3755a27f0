"""published.json: complete, consistent with itself, and with a footnote wherever the paper is not."""

from __future__ import annotations

import json

import pytest

from abra_wilds import METHODS
from abra_wilds.config.datasets import SPLIT_SCHEMES
from abra_wilds.config.model import MODELS
from abra_wilds.simulate import preset
from tests import runs

PATH = runs.REPOSITORY / "abra_wilds" / "board" / "published.json"
PUBLISHED = json.loads(PATH.read_text())
ROWS = PUBLISHED["rows"]
LINES = ("HEPG2", "HUVEC", "RPE", "U2OS")


def known(row):
    """A short name of a row."""
    return f"{row['table']}-{row['row']}-{row['tta']}-{row['split']}"


def mean_of_cells(row):
    """The mean of a row's cell lines, weighted by their experiments."""
    weights = PUBLISHED["experiments"][f"{row['dataset']} {row['split_scheme']} {row['split']}"]
    return sum(weights[line] * row["cells"][line][0] for line in LINES) / sum(weights.values())


def of_table(number):
    return [row for row in ROWS if row["table"] == number]


def test_every_table_has_all_its_rows():
    """Eight rows without and three with adaptation in Tables 2-4; twelve by three splits; two and three."""
    assert {n: len(of_table(n)) for n in range(2, 7)} == {2: 11, 3: 11, 4: 11, 5: 36, 6: 5}
    assert len({known(row) for row in ROWS}) == len(ROWS) == 74


def test_every_row_names_things_that_exist_and_its_source():
    for row in ROWS:
        assert row["method"] in (None, *METHODS), known(row)
        assert row["backbone"] in MODELS and row["split_scheme"] in SPLIT_SCHEMES[row["dataset"]]
        assert row["source"] == f"arXiv 2603.05622, Table {row['table']}"
        assert tuple(row["cells"]) in ((), LINES) and (row["cells"] == {}) == (row["table"] == 5)
        assert all(0 <= mean <= 100 and 0 <= std < 5 for mean, std in [*row["cells"].values(), row["total"]])
        assert row["seeds"] in (3, 5)


def test_one_row_stands_on_each_line():
    lines = [line.strip().rstrip(",") for line in PATH.read_text().splitlines() if '"table":' in line]
    assert [json.loads(line) for line in lines] == ROWS


def test_the_weights_are_the_official_numbers_of_experiments():
    full = preset("full")
    both = tuple(a + b for a, b in zip(full.val_experiments, full.test_experiments, strict=True))
    expected = {
        "rxrx1_6ch official test": both,
        "rxrx1 official test": full.test_experiments,
        "rxrx1 official id_test": full.train_experiments,
    }
    found = {
        name: tuple(weights[line] for line in LINES) for name, weights in PUBLISHED["experiments"].items()
    }
    assert found == expected


@pytest.mark.parametrize("row", [row for row in ROWS if row["cells"]], ids=known)
def test_a_total_is_the_mean_of_its_cells_or_a_footnote_gives_that_mean(row):
    mean = mean_of_cells(row)
    if abs(mean - row["total"][0]) > 0.15:
        assert f"give {mean:.2f}" in row["footnote"]
    else:
        assert row["footnote"] is None


def test_the_rows_whose_totals_are_off_are_those_of_the_audit():
    off = {(r["table"], r["row"], r["tta"] is not None) for r in ROWS if r["cells"] and r["footnote"]}
    assert off == {
        (4, "SimCLR", False),
        (4, "BYOL", False),
        (4, "DINOv2", False),
        (4, "AdaBN", True),
        (6, "Gradient Reversal", False),
        (6, "Gradient Reversal", True),
    }


def test_the_tables_agree_on_abra_without_adaptation():
    def total(table, split):
        return next(
            r["total"] for r in of_table(table) if (r["row"], r["tta"], r["split"]) == ("ABRA", None, split)
        )

    assert (total(5, "test"), total(5, "id_test")) == (total(3, "test"), total(4, "id_test"))


def test_only_rows_with_batch_statistics_are_non_standard():
    assert all((row["submission"] == "standard") == (row["tta"] is None) for row in of_table(5))
