"""leaderboard/report.py: what is refused, each in one sentence, with nothing written."""

from __future__ import annotations

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
from tests import disks
from tests import runs as tiny
from tests.board import boards


@pytest.fixture
def refused_page(refused, tmp_path):
    """The sentence with which a page is refused; nothing is written."""
    return lambda folder, *flags: refused(report_main, folder, "--out", tmp_path / "r.html", *flags)


def test_what_cannot_be_read_is_named(refused_page, three, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for flags in ([empty], [three, "--figures", empty], [three, "--root_dir", empty]):
        tiny.assert_says(refused_page(*flags), str(empty))
    save_figure(new_figure("x", 3, 2, simulated=True), [{"x": 1}], tmp_path, "figure_9_x")
    (tmp_path / "figure_9_x.csv").unlink()
    tiny.assert_says(refused_page(three, "--figures", tmp_path), "figure_9_x.csv")
    (three / "seed1" / "train_algo.csv").write_text("a,b\n1,2\n")
    tiny.assert_says(refused_page(three), "seed1/train_algo.csv", "column epoch")
    with (three / "seed1" / RESULTS).open("a") as file:
        file.write("{}\n")
    tiny.assert_says(refused_page(three), "line 4", f"seed1/{RESULTS}")


def test_a_page_that_the_disk_cannot_hold_leaves_the_old_one_and_the_same_command_works(
    three, tmp_path, capsys
):
    out = tmp_path / "r.html"
    out.write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, tmp_path, "*r.html*", 5_000)
        said = tiny.sentence(capsys, report_main, [str(three), "--out", str(out)], code=1)
    assert said.startswith(f"No space left on device ({out}); make room there; the same command")
    assert out.read_text() == "old"
    assert report_main([str(three), "--out", str(out)]) == 0 and "</html>" in out.read_text()


def test_runs_without_a_record_are_named_and_refused_where_no_run_has_one(refused_page, three):
    for seed in (2, 1, 0):
        (three / f"seed{seed}" / RESULTS).unlink()
        shutil.rmtree(three / f"seed{seed}" / "tta_plate_bn")
        if seed:
            named = ", ".join(str(three / f"seed{k}") for k in range(seed, 3))
            assert f"Runs without a record yet: {named}." in report.report(find_runs(three))
    tiny.assert_says(refused_page(three), "record", "finished runs")


def test_a_page_that_cannot_be_written_is_refused(refused, three, tmp_path):
    (tmp_path / "file").touch()
    said = refused(report_main, three, "--out", tmp_path / "file" / "r.html")
    tiny.assert_says(said, f"--out {tmp_path / 'file'}", "cannot be made", "another folder")


def test_two_settings_of_a_method_are_refused_or_two_rows(refused_page, screen, three):
    boards.make_run(screen, three / "other", 0, lr=0.5)
    tiny.assert_says(refused_page(three), "lr", "--split_settings")
    assert any("lr 0.5" in g.label for g in read_groups(find_runs(three), True))


def test_predictions_of_other_data_or_changed_ones_are_refused(refused_page, screen, three):
    (path,) = (three / "seed0").glob("*split:test*best_pred.csv")
    lines = path.read_text().split()
    boards.rewrite(three / "seed0", "test", lines[::-1])
    flags = ("--root_dir", screen.root)
    tiny.assert_says(refused_page(three, *flags), path.name, "accuracy", "--root_dir")
    boards.rewrite(three / "seed0", "test", lines[1:])
    tiny.assert_says(refused_page(three, *flags), path.name, "accuracy", "--root_dir")
    path.write_text("0\n")
    tiny.assert_says(refused_page(three, *flags), path.name, "predict again")


def test_other_splits_of_rxrx1_are_refused(screen):
    with pytest.raises(InputError, match=r"mixed-to-test; .*--root_dir"):
        read_screen(screen.root, "rxrx1", {"split_scheme": "mixed-to-test"})
