"""Acceptance 2: every method by one command, every file, and WILDS' own evaluator agrees with the logs."""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.commands.train import main
from abra_wilds.compat.imports import import_wilds
from abra_wilds.data.augment.transforms import standardise
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.recipes.flags import parse
from abra_wilds.results.records import Record, read_records
from tests import runs


@pytest.fixture(scope="module")
def finished(root, tiny, tmp_path_factory):
    """{method: (folder, what was printed)} of one run of each."""
    found = {}
    for name in runs.CORE:
        folder, out = tmp_path_factory.mktemp(name), io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(runs.command(root, folder, name, log_every=3)) == 0
        found[name] = folder, out.getvalue()
    return found


@pytest.fixture(scope="module")
def wilds_dataset(root):
    """RxRx1-WILDS by the wilds package alone."""
    import_wilds()  # only lends WILDS a torch_scatter where there is none
    from wilds.datasets.rxrx1_dataset import RxRx1Dataset

    return RxRx1Dataset(root_dir=str(root), download=False)


def judged(dataset, folder, split, epoch):
    """WILDS' evaluation of a predictions file."""
    subset = dataset.get_subset(split)
    path = folder / f"rxrx1_split:{split}_seed:0_epoch:{epoch}_pred.csv"
    y_pred = torch.from_numpy(np.loadtxt(path, dtype=int))
    results, _ = dataset.eval(y_pred, subset.y_array, subset.metadata_array)
    return {name: float(value) for name, value in results.items()}


@pytest.mark.parametrize("name", runs.CORE)
def test_wilds_own_evaluator_gives_the_logged_accuracies(finished, wilds_dataset, name):
    folder, printed = finished[name]
    records = {(r.split, r.checkpoint): r for r in read_records(folder / "results.jsonl")}
    assert set(records) == {(split, e) for split in runs.SPLITS for e in ("best", "last")}
    for (split, epoch), record in records.items():
        results = judged(wilds_dataset, folder, split, epoch)
        logged = runs.rows_of(folder / f"{split}_eval.csv")[record.epoch]
        assert {k: float(v) for k, v in logged.items()} == {"epoch": record.epoch, **results}
        assert record.acc == results["acc_avg"]
        cells = {c: results[f"acc_cell_type:{c}"] for c in ("HEPG2", "HUVEC")}
        assert record.acc_by_cell == cells
        subset = wilds_dataset.get_subset(split)
        y_pred = np.loadtxt(folder / record.predictions, dtype=int)
        recalls = [np.mean(y_pred[y == c] == c) for y in [subset.y_array.numpy()] for c in np.unique(y)]
        assert record.acc_balanced == pytest.approx(np.mean(recalls))
        assert set(record.class_mix) == {"plate", "experiment"}
        shown = (record.acc, record.acc_balanced, *cells.values())
        row = [name, epoch, split, "64", *(f"{100 * v:.1f}" for v in shown)]
        assert row in [line.split() for line in printed.splitlines()]


@pytest.mark.parametrize("name", runs.CORE)
def test_best_is_the_first_epoch_with_the_highest_val_accuracy(finished, name):
    folder = finished[name][0]
    accs = [float(row["acc_avg"]) for row in runs.rows_of(folder / "val_eval.csv")]
    saved = runs.state(folder, "best")
    assert (saved["epoch"], saved["best_val_metric"]) == (int(np.argmax(accs)), max(accs))
    assert runs.state(folder, "last")["epoch"] == 1


@pytest.mark.parametrize("name", runs.CORE)
def test_csv_columns_are_those_of_wilds(finished, name):
    folder = finished[name][0]
    for split in ("train", *runs.SPLITS):
        assert [int(row["epoch"]) for row in runs.rows_of(folder / f"{split}_eval.csv")] == [0, 1]
        algo = runs.rows_of(folder / f"{split}_algo.csv")
        assert {"epoch", "batch", "objective", "loss_avg", "acc_avg", "count"} < set(algo[0])
        assert {"loss_group:0", "acc_group:0", "count_group:0"} < set(algo[0])
        per_epoch = [sum(float(r["count"]) for r in algo if r["epoch"] == e) for e in ("0", "1")]
        assert per_epoch == [64, 64]
        for r in algo:
            by_group = [float(v) for k, v in r.items() if k.startswith("count_group:")]
            assert sum(by_group) == float(r["count"])


def test_predictions_are_one_integer_a_line_in_dataset_order(finished, wilds_dataset, root, tiny):
    """Predicted again image by image, by the checkpoint, without our loaders."""
    folder = finished["ABRA"][0]
    config = run_config("ABRA", **runs.settings(root, folder))
    method = build_method(config, prepare(config).info)
    method.load_state_dict(runs.state(folder)["algorithm"])
    method.eval()
    for split in runs.SPLITS:
        text = (folder / f"rxrx1_split:{split}_seed:0_epoch:last_pred.csv").read_text()
        assert re.fullmatch(r"(\d+\n){64}", text)
        subset = wilds_dataset.get_subset(split)
        images = [torch.from_numpy(np.array(subset[k][0])).permute(2, 0, 1)[None] for k in range(64)]
        with torch.no_grad():
            again = [int(method.predict(standardise(x)).argmax()) for x in images]
        assert again == [int(line) for line in text.split()]


def test_abra_logs_what_the_issue_lists(finished):
    row = runs.rows_of(finished["ABRA"][0] / "train_algo.csv")[-1]
    wanted = {"L_adv", "L_adv_after", "R_JS", "K_rel_mean", "K_rel_max", "flipped", "acc_avg", "lr"}
    assert wanted < set(row)
    assert all(np.isfinite(float(row[name])) for name in wanted)


def test_abra_logs_the_same_columns_where_the_first_batches_are_not_perturbed(root, tiny, tmp_path):
    fit(run_config("ABRA", **runs.settings(root, tmp_path, abra_prob=0.3, log_every=1)))
    rows = runs.rows_of(tmp_path / "train_algo.csv")
    assert {"L_adv", "R_JS", "K_rel_max"} < set(rows[0])


@pytest.mark.parametrize("name", runs.CORE)
def test_config_json_keeps_every_value_with_its_origin(finished, root, name):
    folder = finished[name][0]
    saved = json.loads((folder / "config.json").read_text())
    config = parse(runs.command(root, folder, name, log_every=3))
    assert set(saved["values"]) == {"algorithm", "loop", "world", *saved["origin"]} == set(config.values())
    assert saved["values"] == json.loads(json.dumps(config.values()))
    assert saved["origin"] == dict(config.origin)
    origins = {"flag", "method", "training batches", "default", f"preset {config.preset}"}
    assert set(saved["origin"].values()) == origins
    assert saved["origin"]["log_every"] == "flag" and saved["origin"]["lr"] == f"preset {config.preset}"
    assert (saved["digest"], saved["preset"]) == (config.digest(), config.preset)
    assert saved["bio_batch"] == ("plate" if name == "ABRA" else "experiment")
    assert saved["versions"]["torch"] == torch.__version__ and saved["command"] == sys.argv


@pytest.mark.parametrize("name", runs.CORE)
def test_a_record_holds_what_it_documents(finished, root, name):
    folder = finished[name][0]
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    config = parse(runs.command(root, folder, name, log_every=3))
    for line in lines:
        assert list(line) == [f.name for f in dataclasses.fields(Record)]
        got = {k: line[k] for k in ("method", "dataset", "simulated", "backbone", "seed", "tta", "n")}
        assert list(got.values()) == [name, "rxrx1", False, "resnet18", 0, None, 64]
        plate = name == "ABRA"
        assert line["bn_stats"] == ("precise" if plate else "running")
        assert line["bio_batch"] == ("plate" if plate else "experiment")
        assert (line["train_loader"], line["preset"]) == (config.data.train_loader, config.preset)
        content = (folder / line["predictions"]).read_bytes()
        assert line["predictions_sha256"] == hashlib.sha256(content).hexdigest()
        assert line["config_sha256"] == config.digest()
        assert {"python", "torch", "wilds", "numpy"} <= set(line["versions"])
        assert line["commit"] and line["wall_s"] > 0


def test_the_run_ends_with_one_table_that_is_also_in_the_log(finished):
    folder, printed = finished["ABRA"]
    table = printed[printed.index("Accuracy in percent on rxrx1") :]
    head = table.splitlines()[1].split()
    assert head == ["checkpoint", "split", "n", "average", "balanced", "HEPG2", "HUVEC"]
    assert [line.split()[1:3] for line in table.splitlines()[2:8]] == [
        [epoch, split] for epoch in ("best", "last") for split in runs.SPLITS
    ]
    assert (folder / "log.txt").read_text().rstrip().endswith(table.rstrip())


def test_simulated_images_are_named_as_such(sim_root, tiny, tmp_path, capsys):
    root = runs.small_root(sim_root, tmp_path / "root")
    (root / "rxrx1_v1.0" / "SIMULATED.json").write_text("{}")
    records = fit(run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", n_epochs=1)))
    assert all(record.simulated for record in records)
    printed = capsys.readouterr().out
    assert "rxrx1 (simulated)" in printed and "Accuracy in percent on simulated data" in printed


def test_records_name_the_experiment_where_it_is_the_bio_batch(root, tiny, tmp_path):
    run = runs.settings(root, tmp_path, groupby_fields=["experiment"], n_epochs=1, save_best=False)
    records = fit(run_config("ABRA", **run))
    assert {record.bio_batch for record in records} == {"experiment"}
    assert {record.checkpoint for record in records} == {"last"}


def test_switched_off_outputs_are_not_written(root, tiny, tmp_path, capsys):
    off = {"save_pred": False, "save_last": False, "no_group_logging": True, "evaluate_all_splits": False}
    assert main(runs.command(root, tmp_path, "ERM", n_epochs=1, **off)) == 0
    assert runs.names_in(tmp_path) == {n for n in runs.files() if not re.search(r"pred|last|test_", n)}
    assert not any("group:" in column for column in runs.rows_of(tmp_path / "train_algo.csv")[0])
    assert "no predictions were written" in capsys.readouterr().out


def test_save_step_keeps_models_and_predictions_of_every_such_epoch(root, tiny, tmp_path):
    fit(run_config("ERM", **runs.settings(root, tmp_path, "ERM", n_epochs=3, save_step=2)))
    numbered = {name for name in runs.names_in(tmp_path) if re.search(r"epoch:\d", name)}
    assert numbered == {
        "rxrx1_seed:0_epoch:1_model.pth",
        *(f"rxrx1_split:{split}_seed:0_epoch:1_pred.csv" for split in runs.SPLITS),
    }


def test_the_tracker_writes_curves(root, tiny, tmp_path):
    pytest.importorskip("tensorboard")
    fit(run_config("ERM", **runs.settings(root, tmp_path, "ERM", n_epochs=1, tracker="tensorboard")))
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", runs.CORE)
def test_the_command_itself_runs_each_method_on_a_resnet(root, wilds_dataset, tmp_path, name):
    argv = runs.command(root, tmp_path, name, n_epochs=1)
    done = runs.process("examples/run_expt.py", *argv)
    assert done.returncode == 0, done.stderr
    assert runs.names_in(tmp_path) == runs.files()
    for record in read_records(Path(tmp_path) / "results.jsonl"):
        assert record.acc == judged(wilds_dataset, tmp_path, record.split, record.checkpoint)["acc_avg"]
