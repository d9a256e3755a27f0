"""leaderboard/figures.py: Figures 7-10 from values of saved models, which are given apart."""

from __future__ import annotations

import numpy as np
import pytest

from abra_wilds.commands.board.figures import main as figures_main
from abra_wilds.results.files import sha256
from tests.board import boards
from tests.board.figures.figure_boards import made, points, shifts, sizes, write_values
from tests.runs import assert_says, rows_of

PLATES = {"train_loader": "plate", "groupby_fields": ["experiment", "plate"]}


def test_figure_7_has_a_violin_for_each_size_and_model_and_a_line_without_adaptation(tmp_path):
    write_values(tmp_path, 7, sizes())
    write_values(tmp_path, 7, sizes((0.5, 0.6)), method="ABRA")
    (seven,) = made(tmp_path, 7)
    (axes,) = seven.figure.axes
    violins = [c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection"]
    dots = np.concatenate([c.get_offsets() for c in axes.collections if c not in violins])
    assert len(violins) == 4
    assert sorted(dots[:, 1]) == pytest.approx([20, 20, 30, 30, 50, 50, 60, 60])
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx([25, 25])
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"ERM", "ABRA", "without adaptation"}


def test_figure_8_draws_medians_and_says_whether_adaptation_is_advisable(tmp_path, capsys):
    write_values(tmp_path, 8, shifts())
    out = tmp_path / "out"
    assert figures_main([str(tmp_path), "--out", str(out), "--figure", "8"]) == 0
    assert "TTA is advisable for this data, because 4 of 4 bio-batches of test" in capsys.readouterr().out
    (eight,) = made(tmp_path, 8)
    kl, mmd = eight.figure.axes
    assert [line.get_ydata() for line in kl.lines] == [pytest.approx([0.25] * 2), pytest.approx([2.25] * 2)]
    assert [line.get_ydata() for line in mmd.lines] == [pytest.approx([v / 9] * 2) for v in (0.25, 2.25)]
    assert eight.sentence.split()[0] in eight.figure.get_supxlabel()
    assert len(rows_of(out / "figure_8_ERM_seed0_best.csv")) == 16


def test_figure_9_has_a_panel_for_each_line_and_every_point_in_its_own(tmp_path):
    write_values(tmp_path, 9, points())
    (nine,) = made(tmp_path, 9)
    shown = [a for a in nine.figure.axes if a.get_visible()]
    assert [a.get_title() for a in shown] == ["HEPG2", "HUVEC", "RPE"] and len(nine.figure.axes) == 4
    for a in shown:
        grey, *own = a.collections
        assert len(grey.get_offsets()) == 24 and sum(len(c.get_offsets()) for c in own) == 8
        assert a.get_xlabel() == "PCA 1 (no unit)"
    assert "PCA of embeddings" in nine.figure.get_suptitle()


def test_models_that_saw_other_data_do_not_share_a_figure(tmp_path, refused_figure):
    write_values(tmp_path, 7, sizes())
    write_values(tmp_path, 7, sizes(split="id_test"), method="ABRA")
    assert "split (id_test, test)" in refused_figure(7)


def test_damaged_values_and_those_of_an_earlier_model_are_refused(tmp_path, refused_figure):
    path = write_values(tmp_path, 8, shifts())
    model = tmp_path / "ERM" / "rxrx1_seed:0_epoch:best_model.pth"
    model.write_bytes(b"trained again")
    assert f"earlier {model.name}" in refused_figure(8)
    write_values(tmp_path, 8, shifts(), about={"checkpoint_sha256": sha256(model)})
    assert made(tmp_path, 8)
    write_values(tmp_path, 8, shifts(), about={"config_sha256": "0", "checkpoint_sha256": sha256(model)})
    assert f"earlier {model.name}" in refused_figure(8)
    path.write_text(path.read_text() + "{")
    assert f"{path} is damaged" in refused_figure(8)


def test_a_checkpoint_elsewhere_or_none_at_all_is_refused(tmp_path, refused_figure):
    write_values(tmp_path, 8, shifts())
    for path in (tmp_path.parent / "x_seed:0_epoch:best_model.pth", tmp_path / "no.pth"):
        said = refused_figure(7, "--checkpoint", path, code=2)
        assert "CHECKPOINT" in said.upper() and str(path) in said


def test_models_of_one_method_and_seed_are_distinguished_by_their_settings(tmp_path):
    write_values(tmp_path, 7, sizes((0.2, 0.3)))
    write_values(tmp_path, 7, sizes((0.5, 0.6)), run="AdaBN", **PLATES)
    write_values(tmp_path, 7, sizes((0.8, 0.9)), method="ABRA")
    (seven,) = made(tmp_path, 7)
    (axes,) = seven.figure.axes
    assert len(axes.lines) == 3
    shown = [" ".join(t.get_text().split()) for t in axes.get_legend().get_texts()]
    flags = "bn_stats precise, groupby_fields ['experiment', 'plate'], train_loader plate"
    assert len(shown) == 4 and shown[0] == "ABRA" and f"ERM [{flags}]" in shown
    said = {row["settings"] for row in seven.values if row["acc"] in (0.5, 0.6)}
    assert said == {flags}
    assert {row["settings"] for row in seven.values if row["method"] == "ABRA"} == {""}


@pytest.mark.parametrize(("number", "rows"), [(8, shifts()), (9, points())])
def test_models_of_one_method_and_seed_have_files_of_their_own(tmp_path, number, rows):
    write_values(tmp_path, number, rows)
    write_values(tmp_path, number, rows, run="other", lr=0.5)
    both = made(tmp_path, number)
    digests = [one.values[0]["config_sha256"][:8] for one in both]
    assert [one.name for one in both] == [f"figure_{number}_ERM_seed0_best_{d}" for d in digests]
    assert len(set(digests)) == 2
    assert "The run's lr 0.5." in " ".join(both[1].figure.get_supxlabel().split())


def test_seeds_of_the_same_settings_keep_their_names(tmp_path):
    for seed in (0, 1):
        write_values(tmp_path, 8, shifts(), run=f"s{seed}", seed=seed)
    assert [one.name for one in made(tmp_path, 8)] == [f"figure_8_ERM_seed{k}_best" for k in (0, 1)]


def test_the_same_model_twice_is_refused(tmp_path, refused_figure):
    for name in ("a", "b"):
        write_values(tmp_path, 8, shifts(), run=name)
    assert_says(refused_figure(8), "seed 0 of ERM", str(tmp_path / "a"), str(tmp_path / "b"))


def test_figures_of_values_that_are_there_need_no_torch(tmp_path):
    for number, rows in ((7, sizes()), (8, shifts()), (9, points())):
        write_values(tmp_path / "runs", number, rows)
    flags = ["runs", "--out", "out", "--figure", 7, 8, 9]
    out, _, _ = boards.script("figures.py", *flags, cwd=tmp_path, absent="torch wilds")
    assert "TTA is advisable" in out
    assert len(list((tmp_path / "out").iterdir())) == 9


@pytest.mark.slow
def test_the_command_computes_figures_from_a_saved_model(root, tmp_path, monkeypatch):
    from abra_wilds import fit, run_config
    from abra_wilds.analysis import embeddings

    boards.runs.use_tiny_backbone(monkeypatch)
    monkeypatch.setattr(embeddings, "umap_class", lambda: None)
    run = tmp_path / "runs" / "ERM"
    fit(run_config("ERM", **boards.runs.settings(root, run, "ERM", n_epochs=1)))
    flags = ("--figure", "7", "8", "9", "10", "--draws", "2", "--tta_group", "experiment")
    words = [str(tmp_path / "runs"), "--out", str(tmp_path / "f"), *flags]
    assert figures_main([*words, "--checkpoint", str(run / "rxrx1_seed:0_epoch:best_model.pth")]) == 1
    names = ["figure_7", "figure_9_ERM_seed0_best", "figure_10_ERM_seed0_best"]
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    assert {p.name for p in (tmp_path / "f").iterdir()} == expected, "8: halves of 8 images are too few"
    rows = rows_of(tmp_path / "f" / "figure_7.csv")
    drawn = [(size, draw) for size in ("4", "8", "16") for draw in ("0", "1")]
    assert [(r["size"], r["draw"]) for r in rows] == [("", "0"), *drawn, ("32", "0")]


@pytest.mark.slow
def test_figure_7_has_a_violin_each_of_erm_and_of_adabn_which_is_erm_too(root, tmp_path, monkeypatch):
    """As in Table 3, whose runs differ in how they were trained and in nothing that names them."""
    from abra_wilds import fit, run_config

    boards.runs.use_tiny_backbone(monkeypatch)
    adabn = {**PLATES, "bn_stats": "precise", "tta": "plate_bn", "tta_min": 4}
    for name, flags in (("ERM", {}), ("AdaBN", adabn)):
        run = tmp_path / "runs" / name / "seed0"
        fit(run_config("ERM", **(boards.runs.settings(root, run, "ERM", n_epochs=1) | flags)))
    models = sorted(map(str, tmp_path.glob("runs/*/seed0/*_epoch:best_model.pth")))
    words = [str(tmp_path / "runs"), "--out", str(tmp_path / "f"), "--figure", "7", "--draws", "2"]
    assert figures_main([*words, "--checkpoint", *models]) == 0
    said = {row["settings"] for row in rows_of(tmp_path / "f" / "figure_7.csv")}
    assert len(said) == 2 and any("tta plate_bn" in settings for settings in said)
