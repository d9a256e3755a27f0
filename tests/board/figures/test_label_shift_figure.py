"""--figure shift: a picture, values and a page of verdicts from what was computed of saved models."""

from __future__ import annotations

import pytest

from abra_wilds.commands.board.figures import main as figures_main
from tests.board import boards
from tests.board.figures.figure_boards import label_shifts, made, write_values
from tests.runs import assert_says, rows_of

AT = (0.1, 8)
EB = "eb_bn,controls=all"


def seeds(folder, **flags):
    """Values of two seeds of ERM, the second of which loses 4 images of 100 by eb_bn in one cell."""
    for seed, lost in enumerate(([0, 0], [4, 0])):
        write_values(folder, "shift", label_shifts({EB: {AT: lost}}), run=f"s{seed}", seed=seed, **flags)


def test_a_line_for_each_adaptation_over_alphas_and_over_sizes(tmp_path):
    seeds(tmp_path)
    (one,) = made(tmp_path, "shift")
    alphas, sizes, shifted = one.figure.axes
    assert [[t.get_text() for t in a.get_xticklabels()] for a in one.figure.axes] == [
        ["inf", "0.1"],
        ["1", "8", "all"],
        ["1", "8", "all"],
    ]
    for axes, eb in ((alphas, [72, 72]), (sizes, [72] * 3), (shifted, [72, 70, 72])):
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["none"].get_ydata() == pytest.approx([72] * len(eb))
        assert lines["plate_bn"].get_ydata() == pytest.approx([82] * len(eb))
        assert lines[EB].get_ydata() == pytest.approx(eb)
        assert lines[EB].get_linestyle() == "--" and lines["plate_bn"].get_linestyle() == "-"
    assert "alpha = inf" in sizes.get_xlabel() and "alpha = 0.1" in shifted.get_xlabel()
    assert one.figure.get_suptitle().startswith("Simulated data. ")
    assert "2 models (seeds 0, 1), 2 draws of each plate" in " ".join(one.figure.get_supxlabel().split())


def test_the_command_writes_picture_values_and_verdicts(tmp_path, capsys):
    seeds(tmp_path / "runs")
    out = tmp_path / "out"
    assert figures_main([str(tmp_path / "runs"), "--out", str(out), "--figure", "shift"]) == 0
    name = "figure_shift_ERM_best"
    assert {p.name for p in out.iterdir()} == {f"{name}.{kind}" for kind in ("png", "svg", "csv", "md")}
    assert "Cannot hurt: plate_bn." in capsys.readouterr().out
    rows = {(r["seed"], r["adapter"], r["alpha"], r["size"]): r for r in rows_of(out / f"{name}.csv")}
    assert len(rows) == 2 * 3 * 6 and float(rows["1", EB, "0.1", "8"]["acc"]) == pytest.approx(0.68)
    assert [float(rows[seed, EB, "0.1", "8"]["loss"]) for seed in "01"] == pytest.approx([0, 4])
    page = (out / f"{name}.md").read_text()
    assert f"| {EB} | no | -2.0 | -4.0 |" in page and "Simulated data." in page


def test_other_settings_are_another_figure_and_folds_of_one_seed_are_averaged(tmp_path):
    seeds(tmp_path, lr=0.1)
    write_values(tmp_path, "shift", label_shifts(), run="other", lr=0.5)
    write_values(tmp_path, "shift", label_shifts(data="e"), run="fold", lr=0.5)
    both = made(tmp_path, "shift")
    assert len({one.name for one in both}) == 2
    assert [len({r["config_sha256"] for r in one.values}) for one in both] == [1, 2]
    assert any("2 folds" in one.page for one in both)


def test_unlike_grids_are_refused(tmp_path, refused_figure):
    write_values(tmp_path, "shift", label_shifts())
    write_values(tmp_path, "shift", label_shifts(draws=3), run="b", seed=1)
    assert "other grids" in refused_figure("shift")


def test_a_model_of_one_seed_and_fold_twice_is_refused(tmp_path, refused_figure):
    for run in ("a", "b"):
        write_values(tmp_path, "shift", label_shifts(), run=run)
    assert_says(refused_figure("shift"), "seed 0 of ERM", "twice")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sizes", "8", "0"), "--sizes"),
        (("--sizes", "many"), "--sizes"),
        (("--alphas", "0"), "--alphas"),
        (("--adapters", "plate_bm"), "plate_bm"),
        (("--draws", "0"), "--draws"),
    ],
)
def test_flags_that_draw_nothing_are_refused(tmp_path, refused_figure, flags, said):
    write_values(tmp_path, "shift", label_shifts())
    assert said in refused_figure("shift", *flags, code=2)


def test_without_values_it_is_refused_and_with_them_it_needs_no_torch(tmp_path, refused_figure):
    write_values(tmp_path, "shift", label_shifts()).unlink()
    assert "--checkpoint" in refused_figure("shift")
    seeds(tmp_path / "runs")
    flags = ("runs", "--out", "out", "--figure", "shift")
    boards.script("figures.py", *flags, cwd=tmp_path, absent="torch wilds")
    assert (tmp_path / "out" / "figure_shift_ERM_best.png").is_file()


@pytest.mark.slow
def test_the_command_computes_it_from_a_saved_model(root, tmp_path, monkeypatch):
    from abra_wilds import fit, run_config

    boards.runs.use_tiny_backbone(monkeypatch)
    run = tmp_path / "runs" / "ERM"
    fit(run_config("ERM", **boards.runs.settings(root, run, "ERM", n_epochs=1)))
    flags = ("--figure", "shift", "--draws", "2", "--sizes", "4", "all", "--adapters", "plate_bn", EB)
    words = [str(tmp_path / "runs"), "--out", str(tmp_path / "f"), *flags]
    assert figures_main([*words, "--checkpoint", str(run / "rxrx1_seed:0_epoch:best_model.pth")]) == 0
    rows = rows_of(tmp_path / "f" / "figure_shift_ERM_best.csv")
    assert [(r["adapter"], r["alpha"], r["size"]) for r in rows[:2]] == [("none", "", "4"), ("none", "", "")]
    assert len(rows) == 3 * 5 * 2 and {r["adapter"] for r in rows} == {"none", "plate_bn", EB}
