"""leaderboard/figures.py: values from records and rows, whole files, and why a figure is not made."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest

from abra_wilds.files import sha256
from abra_wilds.records import read_records
from tests.leaderboard import boards

import drawings  # isort: skip
import figures  # isort: skip
from ablations import ablation  # isort: skip
from figure_style import new_figure, note, save_figure  # isort: skip

ABOUT = {
    **{"method": "ERM", "dataset": "rxrx1", "simulated": True, "backbone": "resnet18", "seed": 0},
    **{"checkpoint": "best", "config_sha256": "a", "checkpoint_sha256": "b", "group": "plate"},
}


@pytest.fixture(scope="module")
def sweep(screen, tmp_path_factory):
    """Two settings of each ablation, one with an adaptation, and a run of ERM; never written to."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        tta = {"tta": "plate_bn", "adapted": {"tta": "plate_bn"}}
        boards.make_run(screen, folder / f"abra{seed}", seed, **tta)
        boards.make_run(screen, folder / f"both{seed}", seed, abra_at=["res4", "res3"])
    boards.make_run(screen, folder / "ce", 0, abra_terms=["ce"])
    boards.make_run(screen, folder / "erm", 0, algorithm="ERM")
    return folder


def write_rows(folder, name, rows, method="ERM", **about):
    """Rows as abra_wilds.analysis leaves them in a run's folder."""
    path = folder / method / "analysis" / f"{name}_seed:0_epoch:best.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({**ABOUT, "method": method, **about, **row}) + "\n" for row in rows))
    return path


def sizes(accs=(0.2, 0.3), split="test"):
    """Rows of Figure 7."""
    rest = {"split": split, "fewest": 4, "largest": 4, "n": 64}
    drawn = [{"size": size, "draw": k, "acc": acc, **rest} for size in (4, 8) for k, acc in enumerate(accs)]
    return [{"size": None, "draw": 0, "acc": 0.25, **rest}, *drawn]


def shifts(far=9.0):
    """Rows of Figure 8."""
    return [
        {
            **{"split": split, "bio_batch": f"{split}{k}", "images": 16, "layer": f"res{d}.bn", "depth": d},
            **{"kl": value * (k + 1), "mmd": value * (k + 1) / 9},
            **{"kl_near": value * (k + 1), "mmd_near": value * (k + 1)},
        }
        for split, value in (("train", 0.1), ("test", 0.1 * far))
        for k in range(4)
        for d in (1, 2)
    ]


def points(n=24):
    """Rows of Figure 9."""
    rest = {"projection": "PCA", "statistics": "running", "plate": "1", "well": "B02", "site": "1", "of": 99}
    return [
        {
            **{"x": k % 5, "y": k % 7, "split": ("train", "test")[k % 2], **rest},
            **{"cell_type": line, "experiment": f"{line}-0{1 + k % 2}"},
        }
        for k in range(n)
        for line in (("HEPG2", "HUVEC", "RPE")[k % 3],)
    ]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made(folder, number):
    return list(figures.figures_of(folder, number))


def test_bars_are_mean_and_sample_deviation_over_seeds_of_runs_that_differ_in_the_flag_alone(sweep):
    bars = {(b.setting, b.tta, b.split): b for b in ablation(sweep, "abra_at")}
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
    bars = {(b.setting, b.tta, b.split): b for b in ablation(sweep, "abra_terms")}
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
    assert figures.main([str(sweep), "--out", str(tmp_path / "f"), "--figure", "5", "6", "7"]) == 1
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


def test_figure_7_has_a_violin_for_each_size_and_model_and_a_line_without_adaptation(tmp_path):
    write_rows(tmp_path, "batch_size", sizes())
    write_rows(tmp_path, "batch_size", sizes((0.5, 0.6)), method="ABRA")
    (seven,) = made(tmp_path, 7)
    (axes,) = seven.figure.axes
    violins = [c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection"]
    dots = np.concatenate([c.get_offsets() for c in axes.collections if c not in violins])
    assert len(violins) == 4
    assert sorted(dots[:, 1]) == pytest.approx([20, 20, 30, 30, 50, 50, 60, 60])
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx([25, 25])
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"ERM", "ABRA", "without adaptation"}


def test_figure_8_draws_medians_and_says_whether_adaptation_is_advisable(tmp_path, capsys):
    write_rows(tmp_path, "bn_shift", shifts())
    out = tmp_path / "out"
    assert figures.main([str(tmp_path), "--out", str(out), "--figure", "8"]) == 0
    assert "TTA is advisable for this data, because 4 of 4 bio-batches of test" in capsys.readouterr().out
    (eight,) = made(tmp_path, 8)
    kl, mmd = eight.figure.axes
    assert [line.get_ydata() for line in kl.lines] == [pytest.approx([0.25] * 2), pytest.approx([2.25] * 2)]
    assert [line.get_ydata() for line in mmd.lines] == [pytest.approx([v / 9] * 2) for v in (0.25, 2.25)]
    assert eight.sentence.split()[0] in eight.figure.get_supxlabel()
    assert len(rows_of(out / "figure_8_ERM_seed0_best.csv")) == 16


def test_figure_9_has_a_panel_for_each_line_and_every_point_in_its_own(tmp_path):
    write_rows(tmp_path, "points_running", points())
    (nine,) = made(tmp_path, 9)
    shown = [a for a in nine.figure.axes if a.get_visible()]
    assert [a.get_title() for a in shown] == ["HEPG2", "HUVEC", "RPE"] and len(nine.figure.axes) == 4
    for a in shown:
        grey, *own = a.collections
        assert len(grey.get_offsets()) == 24 and sum(len(c.get_offsets()) for c in own) == 8
        assert a.get_xlabel() == "PCA 1 (no unit)"
    assert "PCA of embeddings" in nine.figure.get_suptitle()


def test_many_experiments_have_colours_of_their_own():
    assert len({tuple(c) for c in drawings.spread_colours(24)}) == 24
    assert drawings.spread_colours(3) == list(drawings.COLOURS[:3])


def refused(capsys, folder, number, *more):
    out = folder / "out"
    code = figures.main([str(folder), "--out", str(out), "--figure", str(number), *map(str, more)])
    shown = capsys.readouterr().err
    assert code in (1, 2) and shown.count("\n") == 1 and not list(out.glob("*"))
    return shown


def test_folders_without_a_comparison_or_with_two_are_refused(screen, tmp_path, capsys):
    assert "holds no run, which is a folder with a config.json" in refused(capsys, tmp_path, 5)
    boards.make_run(screen, tmp_path / "a", 0)
    assert "has no two runs of ABRA that differ in --abra_at alone" in refused(capsys, tmp_path, 5)
    boards.make_run(screen, tmp_path / "b", 0, abra_at=["res3"])
    for name, at in (("c", "res3"), ("d", "res4")):
        boards.make_run(screen, tmp_path / name, 0, abra_at=[at], abra_lam=0.5)
    sentence = refused(capsys, tmp_path, 5)
    assert "compares --abra_at more than once" in sentence and "also differ in abra_lam;" in sentence


def test_models_that_saw_other_data_do_not_share_a_figure(tmp_path, capsys):
    write_rows(tmp_path, "batch_size", sizes())
    write_rows(tmp_path, "batch_size", sizes(split="id_test"), method="ABRA")
    assert "its models differ in split (id_test, test)" in refused(capsys, tmp_path, 7)


def test_damaged_values_and_those_of_an_earlier_model_are_refused(tmp_path, capsys):
    path = write_rows(tmp_path, "bn_shift", shifts())
    model = tmp_path / "ERM" / "rxrx1_seed:0_epoch:best_model.pth"
    model.write_bytes(b"trained again")
    assert f"was computed from an earlier {model.name}" in refused(capsys, tmp_path, 8)
    write_rows(tmp_path, "bn_shift", shifts(), checkpoint_sha256=sha256(model))
    assert made(tmp_path, 8)
    path.write_text(path.read_text() + "{")
    assert f"{path} is damaged; remove it" in refused(capsys, tmp_path, 8)


def test_a_checkpoint_elsewhere_or_none_at_all_is_refused(tmp_path, capsys):
    sentence = refused(capsys, tmp_path, 7, "--checkpoint", tmp_path.parent / "x_seed:0_epoch:best_model.pth")
    assert "does not lie in" in sentence
    assert "CHECKPOINT must be an existing" in refused(
        capsys, tmp_path, 7, "--checkpoint", tmp_path / "no.pth"
    )


def test_a_long_note_is_broken_into_lines_that_fit():
    figure = new_figure("title", 4, 3, simulated=False)
    note(figure, "word " * 60)
    assert max(map(len, figure.get_supxlabel().splitlines())) <= 60


def test_figures_of_records_need_no_torch(sweep, tmp_path):
    bare = "import runpy, sys; sys.modules.update(torch=None, wilds=None); "
    path = boards.SCRIPTS / "figures.py"
    start = (
        f"sys.path.insert(0, {str(boards.SCRIPTS)!r}); del sys.argv[0]; sys.argv.insert(0, 'figures.py'); "
    )
    code = f"{bare}{start}runpy.run_path({str(path)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, str(sweep), "--out", str(tmp_path), "--figure", "5"]
    done = subprocess.run(command, cwd=boards.runs.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure_5.png").is_file()


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
    assert figures.main([*words, "--checkpoint", str(run / "rxrx1_seed:0_epoch:best_model.pth")]) == 1
    names = ["figure_7", "figure_9_ERM_seed0_best", "figure_10_ERM_seed0_best"]
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    assert {p.name for p in (tmp_path / "f").iterdir()} == expected, "8: halves of 8 images are too few"
    rows = rows_of(tmp_path / "f" / "figure_7.csv")
    drawn = [(size, draw) for size in ("4", "8", "16") for draw in ("0", "1")]
    assert [(r["size"], r["draw"]) for r in rows] == [("", "0"), *drawn, ("32", "0")]
