"""leaderboard/report.py: what is refused, each in one sentence, with nothing written."""

from __future__ import annotations

import re
import shutil

import pytest

from abra_wilds.board.figures.style import new_figure, save_figure
from abra_wilds.board.report import page as report
from abra_wilds.board.report.parts import read_groups
from abra_wilds.board.report.screen import read_screen
from abra_wilds.commands.board.report import main as report_main
from abra_wilds.errors import InputError
from abra_wilds.results.records import RESULTS
from abra_wilds.results.runs import find_runs
from tests import runs as tiny
from tests.board import boards


@pytest.fixture
def refused(capsys, tmp_path):
    """The sentence with which a page is refused; nothing is written."""

    def check(folder, *flags):
        assert report_main([str(folder), "--out", str(tmp_path / "r.html"), *map(str, flags)]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and re.fullmatch(r"error: [^\n]{20,}\n", shown.err), shown.err
        assert not list(tmp_path.glob("*.html"))
        return shown.err

    return check


def test_bad_input_is_one_sentence_each(refused, screen, three, tmp_path):
    (tmp_path / "empty").mkdir()
    tiny.assert_says(refused(tmp_path / "empty"), "holds no run", "give one that does")
    tiny.assert_says(refused(three, "--figures", tmp_path / "empty"), "holds no figure", "leave the flag out")
    tiny.assert_says(refused(three, "--root_dir", tmp_path / "empty"), "does not exist", "--root_dir")
    (three / "seed1" / "train_algo.csv").write_text("a,b\n1,2\n")
    tiny.assert_says(refused(three), "seed1/train_algo.csv", "column epoch", "restore")


def test_a_figure_without_its_values_is_refused(refused, three, tmp_path):
    save_figure(new_figure("x", 3, 2, simulated=True), [{"x": 1}], tmp_path, "figure_9_x")
    (tmp_path / "figure_9_x.csv").unlink()
    tiny.assert_says(refused(three, "--figures", tmp_path), "figure_9_x.csv cannot be read", "anew")


def test_a_line_that_is_no_record_is_refused(refused, three):
    with (three / "seed1" / RESULTS).open("a") as file:
        file.write("{}\n")
    tiny.assert_says(refused(three), "line 4 of", "is no record", "restore")


def test_runs_without_a_record_are_named_and_refused_where_no_run_has_one(refused, three):
    for seed in (2, 1, 0):
        (three / f"seed{seed}" / RESULTS).unlink()
        shutil.rmtree(three / f"seed{seed}" / "tta_plate_bn")
        if seed:
            named = ", ".join(str(three / f"seed{k}") for k in range(seed, 3))
            assert f"Runs without a record yet: {named}." in report.report(find_runs(three))
    tiny.assert_says(refused(three), "has a record yet", "finished runs")


def test_two_settings_of_a_method_are_refused_or_two_rows(refused, screen, three):
    boards.make_run(screen, three / "other", 0, lr=0.5)
    tiny.assert_says(refused(three), "differ in more than the seed: lr", "--split_settings")
    assert any("lr 0.5" in g.label for g in read_groups(find_runs(three), True))


def test_predictions_of_other_data_or_changed_ones_are_refused(refused, screen, three, tmp_path):
    (path,) = (three / "seed0").glob("*split:test*best_pred.csv")
    lines = path.read_text().split()
    boards.rewrite(three / "seed0", "test", lines[::-1])
    flags = ("--root_dir", screen.root)
    tiny.assert_says(
        refused(three, *flags), "does not have the accuracy of its record", "--root_dir of the runs"
    )
    boards.rewrite(three / "seed0", "test", lines[1:])
    tiny.assert_says(refused(three, *flags), "does not have the accuracy", "--root_dir")
    path.write_text("0\n")
    tiny.assert_says(refused(three, *flags), "not what its record was made of", "predict again")


def test_other_splits_of_rxrx1_are_refused(screen):
    with pytest.raises(InputError, match="mixed-to-test; leave --root_dir out"):
        read_screen(screen.root, "rxrx1", "mixed-to-test")
