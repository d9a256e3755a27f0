"""Acceptance 6: a run that was killed and resumed ends as the run that was not, bit for bit, on a CPU."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from abra_wilds.commands.train import main
from abra_wilds.results.records import read_records
from tests import runs

# 16 steps an epoch for ABRA, and 8 for IRM, whose annealing step is the 13th.
CASES = {
    "ABRA": {"batch_size": 4, "n_epochs": 3, "log_every": 3, "save_step": 2},
    "IRM": {"n_epochs": 3, "log_every": 2, "irm_penalty_anneal_iters": 12, "irm_lambda": 30.0},
    "groupDRO": {"n_epochs": 3, "log_every": 1, "group_dro_step_size": 0.5, "gradient_accumulation_steps": 3},
}
KILL_AT = {"ABRA": 25, "IRM": 14, "groupDRO": 13}


@pytest.fixture(scope="module")
def whole_runs(root, tiny, tmp_path_factory):
    """{method: folder} of uninterrupted runs."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in CASES}
    for name, folder in folders.items():
        assert main(runs.command(root, folder, name, **CASES[name])) == 0
    return folders


def interrupted(root, folder, name, n, **changes):
    """A run that was stopped in this process before its n-th step."""
    with pytest.MonkeyPatch.context() as patch:
        runs.stop_at(patch, n)
        assert main(runs.command(root, folder, name, **{**CASES[name], **changes})) == 130
    return folder


def assert_same_run(folder, reference):
    """Weights, K, optimiser, best metric, every csv and every record agree."""
    for epoch in ("last", "best"):
        a, b = (runs.comparable(runs.state(f, epoch)) for f in (folder, reference))
        assert runs.differences(a, b) == []
    assert runs.texts(folder) == runs.texts(reference)
    a, b = (read_records(f / "results.jsonl") for f in (folder, reference))
    assert len(a) == len(b) and all(x.same_result(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["ABRA", "IRM"])
def test_kill_9_inside_an_epoch_and_resume_equal_the_uninterrupted_run(
    root, tiny, whole_runs, tmp_path, name
):
    folder = tmp_path / "run"
    argv = runs.command(root, folder, name, **CASES[name])
    runs.kill_at(argv, folder, KILL_AT[name])
    assert runs.state(folder)["epoch"] == 0
    broken = [row for row in runs.rows_of(folder / "train_algo.csv") if row["epoch"] == "1"]
    assert broken and not (folder / "results.jsonl").exists()
    assert main([*argv, "--resume"]) == 0
    assert_same_run(folder, whole_runs[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [3, 19])
def test_an_interrupted_run_resumes_alike_wherever_it_stopped(root, tiny, whole_runs, tmp_path, name, n):
    folder = interrupted(root, tmp_path / "run", name, n)
    assert main([*runs.command(root, folder, name, **CASES[name]), "--resume"]) == 0
    assert_same_run(folder, whole_runs[name])


def test_the_last_checkpoint_holds_K_optimiser_and_progress(whole_runs):
    saved = runs.state(whole_runs["ABRA"])
    progress = {"epoch", "best_val_metric", "best_epoch", "seconds", "flops", "images", "steps", "picked"}
    assert set(saved) == {"algorithm", "optimizer", *progress}
    assert {"perturb.res4.K_mu", "perturb.res4.K_sigma"} < set(saved["algorithm"])
    assert saved["algorithm"]["perturb.res4.seen"] == 48
    assert all(int(s["step"]) == 48 for s in saved["optimizer"]["state"].values())
    assert runs.state(whole_runs["IRM"])["algorithm"]["_extra_state"] == {"updates": 24}
    # IRM's optimiser forgot its moments at the annealing step, the 13th of 24.
    assert {int(s["step"]) for s in runs.state(whole_runs["IRM"])["optimizer"]["state"].values()} == {12}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.5}, "lr (was 0.01, is 0.5)"),
        ({"batch_size": 8}, "batch_size (was 4, is 8)"),
        ({"seed": 1}, "seed (was 0, is 1)"),
        ({"abra_k_bound": "inf"}, "abra_k_bound (was 0.5, is inf)"),
        ({"n_epochs": 4}, "n_epochs (was 3, is 4)"),
        ({"algorithm": "ERM"}, "algorithm (was ABRA, is ERM)"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_named(root, tiny, whole_runs, capsys, change, named):
    folder = whole_runs["ABRA"]
    before = runs.content(folder)
    argv = runs.command(root, folder, **{"algorithm": "ABRA", **CASES["ABRA"], **change})
    assert named in runs.sentence(capsys, main, [*argv, "--resume"])
    assert runs.content(folder) == before


def test_what_an_older_version_did_not_record_was_its_default(root, tiny, whole_runs, tmp_path, capsys):
    """Also where it is the method, or the preset, that now asks for that value."""
    folder = shutil.copytree(whole_runs["ABRA"], tmp_path / "run")
    content = json.loads((folder / "config.json").read_text())
    values = {k: v for k, v in content["values"].items() if not k.startswith(("tta", "pairs", "loop"))}
    (folder / "config.json").write_text(json.dumps({**content, "values": values, "digest": "of then"}))
    argv = [*runs.command(root, folder, **CASES["ABRA"]), "--resume"]
    said = runs.sentence(capsys, main, [*argv, "--tta", "plate_bn", "--tta_min", "2"])
    assert "tta (was none, is plate_bn), tta_min (was 16, is 2)" in said
    assert main(argv) == 0


def test_where_a_run_happens_may_change_on_resume(root, tiny, whole_runs, tmp_path):
    folder = interrupted(root, tmp_path / "run", "ABRA", 19)
    local = {"loader_kwargs": {"num_workers": 1}, "progress_bar": False, "log_every": 3}
    assert main([*runs.command(root, folder, **{**CASES["ABRA"], **local}), "--resume"]) == 0
    assert_same_run(folder, whole_runs["ABRA"])


def test_resuming_a_finished_run_changes_nothing(root, tiny, whole_runs, tmp_path):
    folder = shutil.copytree(whole_runs["ABRA"], tmp_path / "run")
    before = runs.content(folder)
    assert main([*runs.command(root, folder, **CASES["ABRA"]), "--resume"]) == 0
    now = runs.content(folder)
    assert now.keys() == before.keys()
    assert {name for name in now if now[name] != before[name]} <= {"log.txt", "config.json"}


def test_resume_without_anything_to_resume_starts_a_run(root, tiny, whole_runs, tmp_path):
    assert main([*runs.command(root, tmp_path, "IRM", **CASES["IRM"]), "--resume"]) == 0
    assert_same_run(tmp_path, whole_runs["IRM"])


def test_resuming_asks_for_no_imagenet_weights(root, tiny, tmp_path, monkeypatch):
    """A resumed run takes its weights from its checkpoint: it must not need the network again."""
    asked = []

    def backbone(name, in_channels, pretrained, new_stem):
        asked.append(pretrained)
        return runs.tiny_backbone(name, in_channels, False, new_stem)

    monkeypatch.setitem(runs.backbones.BACKBONES, "resnet18", backbone)
    folder = interrupted(root, tmp_path / "run", "ABRA", 19, pretrained=True)
    assert main([*runs.command(root, folder, **{**CASES["ABRA"], "pretrained": True}), "--resume"]) == 0
    assert asked == [True, False]


def test_a_checkpoint_has_its_name_only_when_it_is_whole(root, tiny, tmp_path, monkeypatch):
    """While it is written it has a temporary name, and what a kill leaves of that is not mistaken for one."""
    seen, save = [], torch.save

    def watched(state, target):
        seen.append(Path(target.name).name)
        save(state, target)

    monkeypatch.setattr(torch, "save", watched)
    argv = runs.command(root, tmp_path, "ERM", n_epochs=1, save_best=False)
    assert main(argv) == 0
    assert seen and all(name.startswith(".") and name.endswith(".tmp") for name in seen)
    (tmp_path / seen[0]).write_bytes(b"half")
    assert main([*argv, "--resume"]) == 0
    assert main([*argv, "--overwrite"]) == 0
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_checkpoint_is_refused_in_one_sentence(root, tiny, tmp_path, capsys):
    folder = interrupted(root, tmp_path / "run", "ABRA", 19)
    path = folder / "rxrx1_seed:0_epoch:last_model.pth"
    path.write_bytes(path.read_bytes()[:1000])
    before = runs.texts(folder)
    assert str(path) in runs.sentence(
        capsys, main, [*runs.command(root, folder, **CASES["ABRA"]), "--resume"]
    )
    assert runs.texts(folder) == before


@pytest.mark.parametrize("kept", [0, 20, -100])
def test_a_csv_that_a_kill_cut_short_is_fixed_on_resume(root, tiny, whole_runs, tmp_path, kept):
    """A kill can leave a file without content, with half a header, or with half a row."""
    folder = interrupted(root, tmp_path / "run", "ABRA", 8)
    path = folder / "train_algo.csv"
    path.write_bytes(path.read_bytes()[:kept])
    assert main([*runs.command(root, folder, **CASES["ABRA"]), "--resume"]) == 0
    assert runs.texts(folder) == runs.texts(whole_runs["ABRA"])


@pytest.mark.slow
def test_the_command_itself_survives_kill_9_on_a_resnet(root, tmp_path):
    """Killed from outside, at a moment that the log files choose."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    options = {"n_epochs": 3, "log_every": 2, "batch_size": 4}

    def start(log_dir, *more):
        argv = [sys.executable, "examples/run_expt.py", *runs.command(root, log_dir, **options), *more]
        return subprocess.Popen(argv, cwd=runs.REPOSITORY, stdout=subprocess.DEVNULL)

    def rows():
        path = folder / "train_algo.csv"
        return runs.rows_of(path) if path.exists() else []

    assert start(whole).wait(300) == 0
    process, end = start(folder), time.monotonic() + 300
    while not any(row["epoch"] == "1" for row in rows()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not any(row["epoch"] == "1" for row in runs.rows_of(folder / "train_eval.csv"))
    assert start(folder, "--resume").wait(300) == 0
    assert_same_run(folder, whole)
