"""Sweeps over folds, screens of one's own and simulated ones, and the records that they leave in one file."""

from __future__ import annotations

import json

import pytest
import yaml

from abra_wilds.board.claims.evidence import read_setting
from abra_wilds.board.sweep import build
from abra_wilds.board.sweep.collect import collect
from abra_wilds.board.sweep.plan import plan
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.errors import InputError
from abra_wilds.results.records import RESULTS, read_records
from tests.board import boards
from tests.board.sweep.sweeps import sweep_main
from tests.data.own.own_tables import SHARED

CONTROLS = (
    "C2 + CutMix",
    "C3 + ArcFace",
    "C4 + one bio-batch a batch",
    "C6 + perturbation by fixed K",
    "C5 + JS",
)

OURS = (
    "Spectral-OT",
    *(f"Spectral-OT, {choice}" for choice in ("half of the images", "channels apart", "independent draws")),
)


@pytest.mark.parametrize("name", ["claims_sim", "claims_mitocheck"])
def test_the_claims_have_their_rows_with_all_adaptations_on_each_data_set(name, like_mitocheck):
    runs = plan(read_spec(boards.SPECS[name]), boards.Path("RUNS"), seeds=[0], screen=like_mitocheck[name])
    named = {run.label: run for run in runs}
    points = ("res1", "res2", "res3", "res3+res4", "res1+res2+res3+res4")
    terms = ("CE+JS", "CE+Arc")
    ours = [of for of in OURS if name == "claims_sim" or "channels" not in of]  # MitoCheck has one channel
    assert list(named) == ["ERM", "ERM, one bio-batch a batch", *ours, *CONTROLS, "ABRA", *terms, *points]
    assert {a.name for run in runs for a in run.adaptations} >= {"plate_bn_experiment", "eb_bn_experiment"}
    assert all(len(run.adaptations) >= 2 and run.checkpoint == "last" for run in runs)
    m, d = named["ABRA"].config.method, named["ABRA"].config.data
    assert (m.at, set(m.terms), d.train_loader, d.mix) == (("res4",), {"ce", "arc", "js"}, "plate", "cutmix")
    assert [named[label].config.method.at for label in points[:2]] == [("res1",), ("res2",)]


def test_where_experiments_do_not_differ_they_are_of_one_cell_line_and_nothing_is_mixed():
    runs = plan(read_spec(boards.SPECS["claims_no_batch_effect"]), boards.Path("RUNS"), seeds=[0])
    simulated = read_spec(boards.SPECS["claims_no_batch_effect"]).simulate
    rows = {"ERM", "ERM, one bio-batch a batch", OURS[0], *CONTROLS[2:], "ABRA"}
    assert {run.label for run in runs} == rows
    assert {run.config.data.mix for run in runs} == {"none"}
    assert simulated["batch_effect"] == 0 and simulated["train_experiments"] == (0, 16, 0, 0)


def test_folds_test_every_date_once_in_folders_of_their_own(like_mitocheck):
    spec = read_spec(boards.SPECS["claims_mitocheck"])
    planned = plan(
        spec, boards.Path("RUNS"), only=["ERM"], seeds=[1], screen=like_mitocheck["claims_mitocheck"]
    )
    assert [str(run.folder) for run in planned] == [f"RUNS/ERM/fold{k}/seed1" for k in (1, 2, 3, 4)]
    assert [run.config.screen.division.fold for run in planned] == [(k, 4) for k in (1, 2, 3, 4)]
    assert planned[0].name == "ERM fold1 seed 1" and planned[0].splits == ("test", "id_test")
    with pytest.raises(InputError, match=r"row 'ERM' .*--screen"):
        plan(spec, boards.Path("RUNS"))


def write(folder, name, **content):
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


ROWS = [
    {"label": label, "algorithm": "ERM", "settings": {"lr": lr}} for label, lr in (("a", 0.1), ("b", 0.2))
]


def test_a_spec_like_another_has_its_own_keys_and_settings_and_leaves_rows_out(tmp_path):
    write(tmp_path, "one.yaml", seeds=[0, 1], settings={"n_epochs": 3, "frac": 0.5}, rows=ROWS, simulate={})
    like = {"same_as": "one.yaml", "seeds": [4], "settings": {"n_epochs": 7}, "without": ["a"]}
    spec = read_spec(
        write(tmp_path, "two.yaml", simulate={"preset": "midi", "test_experiments": [1, 1, 0, 0]}, **like)
    )
    (run,) = plan(spec, tmp_path)
    assert (run.label, run.config.train.seed, run.config.optim.n_epochs, run.config.data.frac) == (
        "b",
        4,
        7,
        0.5,
    )
    assert spec.simulate == {"preset": "midi", "test_experiments": (1, 1, 0, 0)} and spec.name == "two"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": {}}, "folds of"),
        ({"folds": [3]}, "a fold of"),
        ({"checkpoint": "first"}, "best or last; got 'first'"),
    ],
)
def test_folds_and_checkpoints_that_are_none_are_refused(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        read_spec(write(tmp_path, "spec.yaml", seeds=[0], rows=ROWS, **changes))


def test_a_sweep_makes_its_simulated_screen_once_and_not_for_a_dry_run(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        build, "ensure", lambda root, config, workers: made.append((root, config.batch_effect))
    )
    monkeypatch.setattr(build, "run_all", lambda runs, launcher, slots: 0)
    spec = write(tmp_path, "spec.yaml", seeds=[0], rows=ROWS, simulate={"preset": "mini", "batch_effect": 0})
    words = [str(spec), "--out", str(tmp_path / "runs"), "--devices", "cpu"]
    assert sweep_main([*words, "--dry_run"]) == 0 and made == []
    assert sweep_main(words) == 0 and made == [(tmp_path / "runs" / "screen", 0)]
    assert sweep_main([*words, "--root_dir", str(tmp_path / "else")]) == 0 and made[1][0] == tmp_path / "else"


def test_records_of_finished_runs_are_collected_with_their_rows_and_older_ones_kept(stage, tmp_path):
    path = tmp_path / "records" / "two.jsonl"
    assert stage("--only", "ERM", "--records", str(path)) == 0
    first = [json.loads(line) for line in path.read_text().splitlines()]
    kept = {**first[0], "row": "of another machine"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*first, kept]))
    assert stage("--records", str(path)) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counts = {row["row"]: sum(r["row"] == row["row"] for r in rows) for row in rows}
    # Two seeds of three splits each, ABRA's also adapted.
    assert counts == {"ERM": 6, "of another machine": 1, "ABRA (ours)": 12} and rows[:7] == [*first, kept]
    of_run = read_records(stage.run("ERM seed 0").folder / RESULTS)
    assert {r["acc"] for r in first if r["seed"] == 0} == {r.acc for r in of_run if r.checkpoint == "best"}
    series = read_setting(path.parent, "t", path.name, "test").series("ABRA (ours)", "plate_bn")
    assert [seed for _, seed in series] == [0, 1]
    path.write_text("{}\n")
    with pytest.raises(InputError, match="no row of a sweep"):
        collect(stage.planned, path)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/real is not here")
def test_a_row_of_mitochecks_claims_runs_from_its_table_to_records(tmp_path):
    spec = yaml.safe_load(boards.SPECS["claims_mitocheck"].read_text())
    spec["folds"], spec["settings"]["n_epochs"] = spec["folds"][:1], 1
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "claims_sim.yaml").write_text(boards.SPECS["claims_sim"].read_text())
    words = ["--screen", str(SHARED / "mitocheck" / "load_data.csv"), "--only", "ABRA", "--seeds", "0"]
    words += ["--out", str(tmp_path / "runs"), "--records", str(tmp_path / "r.jsonl"), "--devices", "cpu"]
    assert sweep_main([str(tmp_path / "spec.yaml"), *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    sizes = {f"plate_bn_experiment{size}" for size in ("", "_b16_min8", "_b64")}
    assert {r["tta"] for r in rows} == {None, "eb_bn_experiment", *sizes}
    assert {r["split"] for r in rows} == {"test", "id_test"} and len(rows) == 10
    assert all(r["class_mix"] and 0 < r["acc_balanced"] < 1 for r in rows if r["split"] == "test")
