"""The report about runs on a screen of one's own: its plates by name, from its table alone."""

from __future__ import annotations

import shutil

import pytest

from abra_wilds import fit, run_config
from abra_wilds.board.report.page import report
from abra_wilds.board.report.screen import by_plate, plates, read_screen, scored
from abra_wilds.commands.board.report import main as report_main
from abra_wilds.results.runs import find_runs, read_entries
from tests import runs
from tests.board.report.report_boards import Page
from tests.data.own.own_tables import small_rows, write_screen

FLAGS = {"label_column": "Metadata_Drug", "split": ["test=0.25", "val=0.25"], "target_resolution": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of ERM and the screen's table, whose images are gone."""
    top = tmp_path_factory.mktemp("own")
    table = write_screen(top / "screen", size=32)
    flags = {"dataset": None, "root_dir": None, "screen": str(table), **FLAGS, "batch_size": 6, "n_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ERM", **runs.settings(table, top / "run", "ERM", **flags)))
    for path in (top / "screen").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    return top


def test_plates_have_their_names_and_shares_by_the_labels(folder):
    (run,) = find_runs(folder / "run")
    screen = read_screen(folder / "screen" / "load_data.csv", "screen", run.values)
    entry = next(e for e in read_entries(run) if e.record.split == "test" and e.record.checkpoint == "best")
    rows = scored(entry, screen)
    labels = small_rows().set_index(["Metadata_Plate", "Metadata_Well", "Metadata_Site"])["Metadata_Drug"]
    predicted = [screen.names[int(line)] for line in entry.predictions.read_text().split()]
    known = [labels[key] for key in zip(rows["plate"], rows["well"], rows["site"], strict=True)]
    assert [p == y for p, y in zip(predicted, known, strict=True)] == rows["right"].tolist()
    shown, message = plates(rows, screen.least)
    assert {p.name.split()[-1] for p in shown} == set(rows["plate"]) and message.startswith("All")
    shares = rows.groupby("plate")["right"].mean()
    assert {r[1]: r[2] for r in by_plate(rows)[1]} == {p: f"{100 * v:.1f}" for p, v in shares.items()}
    assert 'viewBox="-1.8 -1.8 14.2 10.2"' in shown[0].svg  # 96 wells


def test_the_command_takes_the_table_as_root_dir(folder, tmp_path, refused):
    argv = [str(folder / "run"), "--out", str(tmp_path / "r.html")]
    assert report_main([*argv, "--root_dir", str(folder / "screen" / "load_data.csv")]) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Plate maps of ERM, OOD test" in text
    confused = Page(text).table("most frequent confusions", "best")
    assert all("(" in row[0] for row in confused[1:])
    without = report(find_runs(folder / "run"))
    assert "or the table or folder of a screen" in without and "Plate maps of" not in without
    said = refused(report_main, *argv, "--root_dir", folder / "nothing.csv")
    runs.assert_says(said, "nothing.csv is not there")
