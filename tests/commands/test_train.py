"""The command beside training: --dry_run, --eval_only, --overwrite."""

import re

import pytest

from abra_wilds.commands.train import main
from abra_wilds.recipes.flags import parse
from abra_wilds.results.records import read_records
from tests import runs


@pytest.mark.parametrize("name", runs.CORE)
def test_dry_run_says_what_would_happen_and_writes_nothing(root, tmp_path, capsys, name):
    argv = runs.command(root, tmp_path / "run", name, n_epochs=5, gradient_accumulation_steps=3)
    assert main([*argv, "--dry_run"]) == 0
    assert not list(tmp_path.iterdir())
    shown = capsys.readouterr().out
    config = parse(argv)
    for setting, value in config.values().items():
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        line = rf"(?m)^ +{setting} +{re.escape(text)} +\({re.escape(config.origin.get(setting, 'flag'))}\)$"
        if setting != "dry_run":
            assert re.search(line, shown), setting
    assert f"preset {config.preset}; digest " in shown
    assert "an epoch: 8 batches, 3 steps, 64 images drawn, " in shown and "the run: 15 steps" in shown
    share = float(re.search(r"([\d.]+) % of the training images touched", shown)[1])
    assert (share == 100) == (name in ("ABRA", "ERM")) and 30 < share <= 100
    for split in ("train", "id_test"):
        assert re.search(rf"(?m)^{split} +64 +4 +8 +64 +9 +1 +8$", shown)
    assert f"bio-batch: one {config.data.bio_batch}; {8 if name == 'ABRA' else 4} in training" in shown
    # torchvision.models.resnet18(num_classes=9): 11,181,129 parameters, 43 MiB; models, two moments
    disk = re.search(r"disk, estimated: ([\d,]+) MiB", shown)
    memory = re.search(r"\(weights (\d+), gradients", shown)
    assert int(memory[1]) == 43 and int(disk[1]) == pytest.approx(5 * 43, abs=2)


def test_dry_run_counts_what_the_classifiers_epochs_keep(root, tmp_path, capsys):
    found = []
    for more in ({}, {"save_step": 1}):
        argv = runs.command(root, tmp_path, "IRMX", n_epochs=1, irmx_head_epochs=4, **more)
        assert main([*argv, "--dry_run"]) == 0
        found.append(int(re.search(r"disk, estimated: ([\d,]+) MiB", capsys.readouterr().out)[1]))
    assert found[1] - found[0] == pytest.approx(5 * 43, abs=5)  # resnet18, as above


def test_dry_run_touches_no_folder_that_it_would_refuse(root, tiny, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("keep")
    main([*runs.command(root, tmp_path, "ERM"), "--dry_run", "--overwrite"])
    assert (tmp_path / "thesis.txt").read_text() == "keep"


def test_dry_run_meets_bad_data_as_training_would(tmp_path, capsys):
    argv = [*runs.command(tmp_path, tmp_path / "run", "ERM"), "--dry_run"]
    assert str(tmp_path / "rxrx1_v1.0") in runs.sentence(capsys, main, argv)


@pytest.fixture(scope="module")
def stored(root, tiny, tmp_path_factory):
    """The folder of a run that kept the model of every epoch."""
    folder = tmp_path_factory.mktemp("stored")
    argv = runs.command(root, folder, "ABRA", n_epochs=3, save_step=1)
    assert main(argv) == 0
    return folder, argv


def test_eval_only_evaluates_the_best_model_again(root, tiny, stored):
    folder, argv = stored
    predictions = {path.name: path.read_bytes() for path in folder.glob("*best_pred.csv")}
    for path in folder.glob("*best_pred.csv"):
        path.unlink()
    weights = runs.state(folder, "best")
    results = (folder / "results.jsonl").read_bytes()
    assert main([*argv, "--eval_only"]) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*best_pred.csv")} == predictions
    assert runs.differences(runs.state(folder, "best"), weights) == []
    assert (folder / "results.jsonl").read_bytes() == results


@pytest.mark.parametrize("epoch", [0, 2])
def test_eval_epoch_evaluates_that_epoch(root, tiny, stored, epoch):
    folder, argv = stored
    name = f"rxrx1_split:test_seed:0_epoch:{epoch}_pred.csv"
    before = (folder / name).read_bytes()
    (folder / name).unlink()
    assert main([*argv, "--eval_only", "--eval_epoch", str(epoch)]) == 0
    assert (folder / name).read_bytes() == before
    found = [r for r in read_records(folder / "results.jsonl") if r.checkpoint == str(epoch)]
    assert {(r.split, r.epoch) for r in found} == {(split, epoch) for split in runs.SPLITS}
    row = runs.rows_of(folder / "test_eval.csv")[epoch]
    assert next(r.acc for r in found if r.split == "test") == float(row["acc_avg"])


def test_eval_epoch_that_was_not_saved_is_refused(root, tiny, stored, capsys):
    folder, argv = stored
    before = runs.content(folder)
    assert "epoch:7_model.pth" in runs.sentence(capsys, main, [*argv, "--eval_only", "--eval_epoch", "7"])
    assert runs.content(folder) == before


@pytest.mark.parametrize(("algorithm", "change"), [("deepCORAL", {}), ("ERM", {"bn_stats": "precise"})])
def test_eval_only_with_other_settings_is_refused(root, tiny, tmp_path, capsys, algorithm, change):
    """Its record would carry another method's name, or statistics that the checkpoint does not have."""
    assert main(runs.command(root, tmp_path, "ERM")) == 0
    argv = [*runs.command(root, tmp_path, algorithm, **change), "--eval_only"]
    assert "other settings" in runs.sentence(capsys, main, argv)


def test_eval_only_never_empties_the_folder(root, tiny, tmp_path):
    argv = runs.command(root, tmp_path, "ERM", n_epochs=1)
    assert main(argv) == 0
    main([*argv, "--eval_only", "--overwrite"])
    assert (tmp_path / "rxrx1_seed:0_epoch:best_model.pth").exists()


def test_overwrite_starts_anew_in_a_folder_of_a_run(root, tiny, tmp_path):
    argv = runs.command(root, tmp_path, "ERM", n_epochs=1, save_step=1)
    assert main(argv) == 0
    (tmp_path / "tensorboard").mkdir()
    assert main([*runs.command(root, tmp_path, "ERM", n_epochs=1), "--overwrite"]) == 0
    assert not list(tmp_path.glob("*epoch:0*")) and not (tmp_path / "tensorboard").exists()
    assert len(read_records(tmp_path / "results.jsonl")) == 6


@pytest.mark.parametrize(("flag", "shown"), [("true", True), ("false", False)])
def test_the_progress_bar_counts_images(root, tiny, tmp_path, capsys, flag, shown):
    assert main([*runs.command(root, tmp_path, "ERM"), "--progress_bar", flag]) == 0
    found = re.search(
        r"epoch 1: 100%.* 128/128 \[\d+:\d+<.*img/s, loss [\d.]+ acc [\d.]+\]", capsys.readouterr().err
    )
    assert (found is not None) == shown
