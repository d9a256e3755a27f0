"""leaderboard/figures.py: Figures 5 and 6 from records, whole files, and why a figure is not made."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from abra_wilds.board.figures import drawings
from abra_wilds.board.figures.ablations import ablation
from abra_wilds.board.figures.style import new_figure, note, save_figure
from abra_wilds.commands.board.figures import main as figures_main
from abra_wilds.results.records import read_records
from abra_wilds.results.runs import find_runs
from tests.board import boards
from tests.board.figures.figure_boards import made, write_values
from tests.runs import assert_says, rows_of


@pytest.fixture(scope="module")
def sweep(screen, tmp_path_factory):
    """Two settings of each ablation, one with an adaptation, and a run of ERM; never written to."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        boards.make_run(screen, folder / f"abra{seed}", seed, **boards.ADAPTED)
        boards.make_run(screen, folder / f"both{seed}", seed, abra_at=["res4", "res3"])
    boards.make_run(screen, folder / "ce", 0, abra_terms=["ce"])
    boards.make_run(screen, folder / "erm", 0, algorithm="ERM")
    return folder


def test_bars_are_mean_and_sample_deviation_over_seeds_of_runs_that_differ_in_the_flag_alone(sweep):
    bars = {(b.setting, b.tta, b.split): b for b in ablation(find_runs(sweep), "abra_at")}
    series = {("res4", "none"), ("res4", "plate_bn"), ("res3+res4", "none")}
    assert set(bars) == {(*name, split) for name in series for split in ("test", "id_test")}
    for setting, tta, folders in (
        ("res4", "none", ("abra0", "abra1")),
        ("res4", "plate_bn", ("abra0/tta_plate_bn", "abra1/tta_plate_bn")),
        ("res3+res4", "none", ("both0", "both1")),
    ):
        for split in ("test", "id_test"):
            records = [
                r for f in folders for r in read_records(sweep / f / "results.jsonl") if r.split == split
            ]
            b, accs = bars[setting, tta, split], [r.acc for r in records]
            assert b.mean == pytest.approx(statistics.mean(accs)) and b.seeds == "0 1" and b.simulated
            assert b.std == pytest.approx(abs(accs[0] - accs[1]) / 2**0.5)


def test_one_seed_has_no_deviation(sweep):
    bars = {(b.setting, b.tta, b.split): b for b in ablation(find_runs(sweep), "abra_terms")}
    assert {name[0] for name in bars} == {"CE", "CE+Arc+JS"}
    assert bars["CE", "none", "test"].std is None and bars["CE+Arc+JS", "none", "test"].std is not None


def test_a_figure_shows_the_bars_it_was_given(sweep):
    (five,) = made(sweep, 5)
    axes = five.figure.axes
    assert [a.get_title() for a in axes] == ["OOD test", "ID test"]
    for a in axes:
        heights = sorted(patch.get_height() for patch in a.patches)
        split = {"OOD test": "test", "ID test": "id_test"}[a.get_title()]
        assert np.allclose(heights, sorted(100 * row["mean"] for row in five.values if row["split"] == split))
        assert a.get_xlabel() == "insertion points" and a.get_ylabel() == "accuracy (% of images)"
    assert "Simulated data. Where ABRA" in five.figure.get_suptitle()


def test_the_command_writes_what_it_can_and_names_the_rest(sweep, tmp_path, capsys):
    assert figures_main([str(sweep), "--out", str(tmp_path / "f"), "--figure", "5", "6", "7"]) == 1
    names = [f"figure_{n}.{kind}" for n in (5, 6) for kind in ("csv", "png", "svg")]
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == names
    shown = capsys.readouterr()
    assert shown.err == ("Figure 7 was not made: it is computed from a saved model; give --checkpoint FILE\n")
    rows = rows_of(tmp_path / "f" / "figure_5.csv")
    assert {r["setting"] for r in rows} == {"res4", "res3+res4"} and rows[0]["simulated"] == "True"
    assert "<text" in (tmp_path / "f" / "figure_5.svg").read_text()


def test_the_same_values_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        figure = new_figure("title", 3, 2, simulated=False)
        figure.subplots().plot([1, 2])
        save_figure(figure, [{"x": 1}], tmp_path, name)
    for kind in ("png", "svg", "csv"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_many_experiments_have_colours_of_their_own():
    assert len({tuple(c) for c in drawings.spread_colours(24)}) == 24
    assert drawings.spread_colours(3) == list(drawings.COLOURS[:3])


def test_folders_without_a_comparison_or_with_two_are_refused(screen, tmp_path, refused_figure):
    boards.make_run(screen, tmp_path / "a", 0)
    assert "--abra_at" in refused_figure(5)
    boards.make_run(screen, tmp_path / "b", 0, abra_at=["res3"])
    for name, at in (("c", "res3"), ("d", "res4")):
        boards.make_run(screen, tmp_path / name, 0, abra_at=[at], abra_lam=0.5)
    assert_says(refused_figure(5), "--abra_at", "more than once", "abra_lam;")


def test_runs_whose_best_epoch_was_picked_otherwise_are_another_comparison(screen, tmp_path, refused_figure):
    for name, at in (("a", "res3"), ("b", "res4")):
        boards.make_run(screen, tmp_path / name, 0, abra_at=[at])
        boards.make_run(screen, tmp_path / f"{name}2", 0, abra_at=[at], val_metric="recall-macro_all")
    assert "val_metric;" in refused_figure(5)


def test_one_bar_is_never_drawn_over_another(screen, tmp_path, refused_figure):
    boards.make_run(screen, tmp_path / "a", 0)
    boards.make_run(screen, tmp_path / "b", 0, abra_at=["res3", "res4"])
    assert len(made(tmp_path, 5)[0].values) == 4
    boards.make_run(screen, tmp_path / "c", 0, abra_at=["res4", "res3"])
    assert_says(refused_figure(5), str(tmp_path / "b"), str(tmp_path / "c"), "res3+res4", "test")


def test_without_a_run_or_a_place_for_the_files_nothing_is_made(sweep, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for folder, out in ((tmp_path / "empty", "out"), (tmp_path / "absent", "out"), (sweep, "file")):
        said = refused(figures_main, folder, "--out", tmp_path / out, "--figure", 5, 6)
        assert str(tmp_path / "file" if folder == sweep else folder) in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [7, 8, 9, 10])
def test_train_is_not_compared_with_itself(tmp_path, refused_figure, number):
    write_values(tmp_path, number, [{}])
    assert "--split train" in refused_figure(number, "--split", "train", code=2)


def test_a_long_note_is_broken_into_lines_that_fit():
    figure = new_figure("title", 4, 3, simulated=False)
    note(figure, "word " * 60)
    assert max(map(len, figure.get_supxlabel().splitlines())) <= 60


def test_figures_of_records_need_no_torch(sweep, tmp_path):
    boards.script("figures.py", sweep, "--out", tmp_path, "--figure", 5, cwd=tmp_path, absent="torch wilds")
    assert (tmp_path / "figure_5.png").is_file()
