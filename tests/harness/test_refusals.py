"""What cannot be run inside a checkout is refused by one sentence, before it costs an epoch."""

import hashlib
import json
import shutil

import pytest

from abra_wilds import run_config
from abra_wilds.__main__ import main
from abra_wilds.commands.train import main as own_main
from abra_wilds.harness import algorithm
from tests import runs
from tests.harness import inside
from tests.runs import assert_says, content

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def line(checkout, root, tmp_path):
    """The command line of a tiny run into `run`; a change to None leaves a flag out."""

    def line(algorithm="ABRA", *more, root=root, **changes):
        return [*inside.line(checkout.path, root, tmp_path / "run", algorithm, **changes), *map(str, more)]

    return line


@pytest.mark.parametrize("more", [[], ["--download", "false"]])
def test_missing_data_are_said_before_anything_is_written(line, refusal, tmp_path, more):
    said = refusal(line("ABRA", *more, root=tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere" / "rxrx1_v1.0") in said
    assert not (tmp_path / "run").exists() and not (tmp_path / "nowhere").exists()


def test_a_missing_image_is_said_by_its_path_before_anything_is_written(line, refusal, sim_root, tmp_path):
    def lose(rows):
        rows.loc[rows.index[5], "well"] = "Z99"
        return rows

    root = runs.small_root(sim_root, tmp_path / "root", lose)
    assert_says(refusal(line(root=root)), "1 of 256 images", "Z99_s")
    assert not (tmp_path / "run").exists()


def test_a_truncated_image_ends_the_run_with_its_path(line, refusal, sim_root, tmp_path):
    root = runs.small_root(sim_root, tmp_path / "root")
    images = root / "rxrx1_v1.0" / "images"
    images.unlink()
    shutil.copytree(sim_root / "rxrx1_v1.0" / "images", images)
    cut = images / "HEPG2-03" / "Plate1" / "B02_s1.png"
    cut.write_bytes(cut.read_bytes()[:1500])
    assert str(cut) in refusal(line(root=root, n_epochs=1))


def test_a_folder_that_is_not_empty_is_left_alone(line, refusal, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert_says(refusal(line()), "--resume", "--overwrite")
    assert content(tmp_path / "run") == {"notes.txt": b"mine"}


def test_overwrite_empties_the_folder_of_an_earlier_run(line, tmp_path):
    argv = line("abra:ERM", n_epochs=1)
    assert main(argv) == 0
    assert main([*argv, "--seed", "1", "--overwrite"]) == 0
    models = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert models == ["rxrx1_seed:1_epoch:best_model.pth", "rxrx1_seed:1_epoch:last_model.pth"]


def test_evaluating_without_a_model_is_refused_and_writes_nothing(line, refusal, tmp_path):
    assert str(tmp_path / "run") in refusal(line("ABRA", "--eval_only"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert "epoch:best_model.pth" in refusal(line("ABRA", "--eval_only"))
    assert "epoch:7_model.pth" in refusal(line("ABRA", "--eval_only", "--eval_epoch", 7))
    assert content(tmp_path / "run") == {}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 0.5}, "lr (was 0.001, is 0.5)"),
        ({"batch_size": 4}, "batch_size (was 8, is 4)"),
        ({"n_groups_per_batch": 2}, "n_groups_per_batch (was 1, is 2)"),
    ],
)
@pytest.mark.parametrize("mode", ["--resume", "--eval_only"])
def test_another_setting_is_named_and_nothing_is_touched(line, refusal, tmp_path, mode, changes, named):
    settings = {"lr": 0.001, "n_epochs": 1}
    assert main(line(**settings)) == 0
    before = content(tmp_path / "run")
    assert_says(refusal(line("ABRA", mode, **{**settings, **changes})), named, "--log_dir")
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("mode", ["--resume", "--eval_only"])
def test_a_run_of_another_algorithm_is_refused(line, refusal, tmp_path, mode):
    assert main(line("abra:ERM", n_epochs=1)) == 0
    assert "algorithm (was ERM, is ABRA)" in refusal(line("ABRA", mode, n_epochs=1))
    (tmp_path / "run" / "config.json").unlink()
    assert_says(refusal(line("ABRA", mode, n_epochs=1)), "_model.pth", "ABRA")


def test_weights_that_cannot_be_had_are_said_before_anything_is_written(line, refusal, tmp_path):
    weights = {"pretrained": None, "pretrained_model_path": tmp_path / "none.pth"}
    assert_says(refusal(line(**weights)), str(tmp_path / "none.pth"))
    assert not (tmp_path / "run").exists() or content(tmp_path / "run") == {}


def test_a_run_of_our_own_loop_can_be_evaluated_in_the_checkout(line, root, tmp_path):
    assert own_main(runs.command(root, tmp_path / "run", "ERM", n_epochs=1)) == 0
    assert main(line("abra:ERM", "--eval_only", n_epochs=1)) == 0


@pytest.mark.parametrize("mode", ["--resume", "--eval_only"])
def test_a_folder_of_our_own_loop_from_before_loops_were_named_is_still_taken(root, tmp_path, mode):
    argv = runs.command(root, tmp_path / "run", "ERM", n_epochs=1)
    assert own_main(argv) == 0
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["values"]["loop"]
    local = {name for name in saved["values"] if name not in run_config("ERM").values(local=False)}
    numbers = {name: value for name, value in saved["values"].items() if name not in local}
    canonical = json.dumps(numbers, sort_keys=True, separators=(",", ":"))
    saved["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(saved))
    assert own_main([*argv, mode]) == 0


def test_a_damaged_checkpoint_is_refused_by_its_path(line, refusal, tmp_path):
    assert main(line("ABRA", n_epochs=1)) == 0
    last = tmp_path / "run" / "rxrx1_seed:0_epoch:last_model.pth"
    last.write_bytes(last.read_bytes()[:500])
    assert str(last) in refusal(line("ABRA", "--resume", n_epochs=1))


@pytest.mark.parametrize("algorithm", ["ABRA", "abra:ERM"])
def test_a_loss_that_is_not_finite_ends_the_run_with_exit_code_1(line, refusal, tmp_path, algorithm):
    sentence = refusal(line(algorithm, lr=1e30, warmup_epochs=0), code=1)
    assert "no epoch was completed" in sentence
    assert not list((tmp_path / "run").glob("*_model.pth"))


def test_an_interrupt_says_how_to_go_on(line, monkeypatch, capsys):
    runs.stop_at(monkeypatch, 1, algorithm)
    assert main(line()) == 130
    assert "--resume continues" in capsys.readouterr().err


def test_the_folder_says_in_which_checkout_the_run_was_made(line, checkout, tmp_path):
    argv = line("ABRA", "--new_stem", n_epochs=1)
    assert main(argv) == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert str(checkout.path) in json.dumps(saved["command"]) and "--new_stem" in saved["command"]
    assert checkout.commit() in json.dumps(saved)


@pytest.mark.parametrize("first", ["ours", "checkout"])
def test_a_run_is_not_resumed_in_the_other_loop(line, root, tmp_path, first):
    argv = {"ours": runs.command(root, tmp_path / "run", "ERM"), "checkout": line("abra:ERM")}
    commands = {"ours": own_main, "checkout": main}
    second = "checkout" if first == "ours" else "ours"
    assert commands[first](argv[first]) == 0
    assert commands[second]([*argv[second], "--resume"]) == 2


# What our own command refuses before training, and a checkout meets by a traceback or after an epoch.
LATE = [
    ("abra:ERM", {"batch_size": 7}, ("--batch_size 7", "1 image")),
    ("abra:groupDRO", {"batch_size": 7}, ("--batch_size 7", "1 image")),
    ("ABRA", {"val_metric": "f1"}, ("--val_metric 'f1'", "acc_avg")),
    ("ABRA", {"evaluate_all_splits": False, "eval_splits": "dev"}, ("--eval_splits", "'dev'", "id_test")),
    ("ABRA", {"groupby_fields": "donor"}, ("donor", "plate")),
    ("ABRA", {"gradient_accumulation_steps": 99}, ("--gradient_accumulation_steps 99",)),
    ("abra:deepCORAL", {"n_groups_per_batch": 3}, ("--batch_size 8", "--n_groups_per_batch 3")),
    ("abra:deepCORAL", {"batch_size": 128}, ("--batch_size 128", "64 images")),
    ("abra:deepCORAL", {"n_groups_per_batch": 16, "batch_size": 32}, ("16", "4 bio-batches")),
    ("ABRA", {"frac": 0.001}, ("frac=0.001",)),
]


@pytest.mark.parametrize(("algorithm", "changes", "parts"), LATE, ids=[str(c) for _, c, _ in LATE])
def test_what_our_own_command_refuses_is_refused_here_before_training(
    line, refusal, tmp_path, monkeypatch, algorithm, changes, parts
):
    monkeypatch.setattr("abra_wilds.harness.algorithm.step", None)
    assert_says(refusal(line(algorithm, **changes)), *parts)


def test_a_flag_of_the_checkout_with_a_bad_value_ends_with_exit_code_2(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line("ABRA", "--use_wandb", "maybe"))
    assert ended.value.code == 2 and "--use_wandb" in capsys.readouterr().err


def test_one_command_line_after_another_can_be_run_in_one_process(line, tmp_path):
    argv = line("ABRA", n_epochs=1)
    assert main(argv) == 0
    first = content(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert main(argv) == 0
    same = {name for name in first if name.endswith(".csv")}
    again = content(tmp_path / "run")
    assert len(same) > 10 and all(again[name] == first[name] for name in same)


def test_several_processes_are_refused(line, refusal, monkeypatch, tmp_path):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert_says(refusal(line()), "2 processes", "examples/run_expt.py")
    assert not (tmp_path / "run").exists()
