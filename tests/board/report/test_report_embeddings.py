"""The section of embeddings: read from metrics.json in folders of runs, refused where it is damaged."""

import json

import pytest

from abra_wilds.board.report.embeddings import embedding_tables
from abra_wilds.board.report.page import report
from abra_wilds.errors import InputError
from abra_wilds.results.runs import find_runs
from tests.board import boards
from tests.board.report.report_boards import Page

NAMES = ("model", "untrained backbone", "channel statistics", "plate position")
ENTRY = {
    "metric": "mAP, treatments",
    "better": "higher",
    "caveat": "rises with <fewer> treatments",
    **dict(zip(NAMES, (0.61, 0.22, 0.31, 0.05), strict=True)),
    "chance": dict.fromkeys(NAMES, 0.04),
    "interval": dict.fromkeys(NAMES) | {"model": [0.55, 0.67]},
}


@pytest.fixture
def runs(tmp_path):
    boards.make_run(boards.make_screen(tmp_path / "screen"), tmp_path / "runs", 0)
    return find_runs(tmp_path / "runs")


def test_a_page_shows_the_baselines_beside_the_model(runs):
    assert embedding_tables(runs) == [] and "embed MODEL --metrics" in report(runs)
    folder = runs[0].path / "embed_best_none"
    folder.mkdir()
    content = {"method": "ABRA", "splits": ["val", "test"], "metrics": [ENTRY]}
    (folder / "metrics.json").write_text(json.dumps(content))
    page = report(runs)
    rows = Page(page).table("metrics of embeddings", "ABRA, seed 0, embed_best_none, val, test")
    assert rows[0] == ["Features", "mAP, treatments"]
    assert rows[1:5] == [
        ["model", "0.610 [0.55, 0.67]"],
        ["untrained backbone", "0.220"],
        ["channel statistics", "0.310"],
        ["plate position", "0.050"],
    ]
    assert rows[5:] == [["chance, model", "0.040"], ["wanted", "higher"]]
    assert "&lt;fewer&gt;" in page and "<fewer>" not in page


@pytest.mark.parametrize("text", ["", "[]", '{"metrics": [{}], "method": "ABRA", "splits": []}'])
def test_a_damaged_file_is_refused(runs, text):
    (runs[0].path / "embed_last_none").mkdir()
    (runs[0].path / "embed_last_none" / "metrics.json").write_text(text)
    with pytest.raises(InputError, match="holds no metrics"):
        report(runs)
