"""Acceptance 1: our methods train, resume and evaluate inside a checkout, which stays as it was."""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from abra_wilds import METHODS
from abra_wilds.__main__ import main
from abra_wilds.commands.train import main as own_main
from abra_wilds.engine.schedule import learning_rate
from abra_wilds.harness.arguments import read_request
from abra_wilds.harness.checkout import find_checkout
from abra_wilds.harness.register import registered
from abra_wilds.nets import backbones
from tests import runs
from tests.harness.inside import FILES, STAND_IN, committed, epochs, git, line
from tests.runs import names_in

# `abra-wilds` with the tiny network; it waits for its end after the step that the environment names.
PROGRAM = """
import os, sys, time
from pathlib import Path
from abra_wilds.__main__ import main
from abra_wilds.harness import algorithm
from abra_wilds.nets import backbones
from tests import runs
backbones.BACKBONES["resnet18"] = runs.tiny_backbone
wait_at, taken, step = int(os.environ.get(runs.WAIT, -1)), [0], algorithm.step
def waiting(*args, **kwargs):
    out = step(*args, **kwargs)
    taken[0] += 1
    if taken[0] == wait_at:
        (Path(sys.argv[sys.argv.index("--log_dir") + 1]) / ".reached").touch()
        time.sleep(600)
    return out
algorithm.step = waiting
sys.exit(main())
"""


def tree(folder):
    """{path: (size, time of change, content)} of everything below a folder, .git among it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module", params=["stand-in", *(["real"] if os.environ.get("WILDS_CHECKOUT") else [])])
def place(request, tmp_path_factory):
    """A checkout under git; at the end of all runs its tree is as it was at their beginning."""
    path = Path(os.environ.get("WILDS_CHECKOUT", ""))
    if request.param == "stand-in":
        path = tmp_path_factory.mktemp("clone") / "wilds"
        shutil.copytree(STAND_IN, path, ignore=shutil.ignore_patterns("__pycache__"))
        committed(path)
    before = tree(path)
    assert "examples/run_expt.py" in before and not git(path, "status", "--porcelain")
    with pytest.MonkeyPatch.context() as patch:  # as a person's interpreter is, which writes bytecode
        patch.setattr(sys, "dont_write_bytecode", False)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield path
    assert tree(path) == before
    assert git(path, "status", "--porcelain", "--ignored") == ""


@pytest.fixture(scope="module")
def names(place):
    """Our methods' names in the checkout."""
    with registered(find_checkout(place)) as harness:
        return dict(harness.names)


def evaluated_again(argv, log_dir):
    """Check --eval_only: it repeats the best epoch's rows and predictions, and writes no other file."""
    before = {s: runs.rows_of(log_dir / f"{s}_eval.csv") for s in ("train", *runs.SPLITS)}
    best = max(before["val"], key=lambda row: float(row["acc_avg"]))
    files, epoch = names_in(log_dir), best["epoch"]
    assert runs.state(log_dir, "best")["epoch"] == int(epoch)
    assert main([*argv, "--eval_only"]) == 0
    for split in runs.SPLITS:
        rows = runs.rows_of(log_dir / f"{split}_eval.csv")
        assert rows[:-1] == before[split] and rows[-1] == before[split][int(epoch)]
        again, kept = (log_dir / f"rxrx1_split:{split}_seed:0_epoch:{e}_pred.csv" for e in (epoch, "best"))
        assert again.read_text() == kept.read_text() and len(kept.read_text().splitlines()) == 64
    new = {f"rxrx1_split:{s}_seed:0_epoch:{epoch}_pred.csv" for s in runs.SPLITS}
    assert names_in(log_dir) - files == new


def own_command_takes(root, log_dir, name, tmp_path):
    """Check that our own command starts from the weights and, where settings agree, scores them alike."""
    weights = {"pretrained": None, "pretrained_model_path": log_dir / "rxrx1_seed:0_epoch:last_model.pth"}
    assert own_main(runs.command(root, tmp_path / "own", name, n_epochs=1, warmup_epochs=0, **weights)) == 0
    logged = {s: runs.rows_of(log_dir / f"{s}_eval.csv") for s in runs.SPLITS}
    code = own_main([*runs.command(root, log_dir, name), "--eval_only"])
    same = json.loads((log_dir / "config.json").read_text())["values"]["train_loader"] != "group"
    same = same or METHODS[name].plan.train_loader == "group"
    assert code == (0 if same else 2)
    if same:
        records = [json.loads(text) for text in (log_dir / "results.jsonl").read_text().splitlines()]
        for split, record in zip(runs.SPLITS, records, strict=True):
            (row, *_) = (row for row in logged[split] if int(row["epoch"]) == record["epoch"])
            assert record["split"] == split
            assert record["acc"] == pytest.approx(float(row["acc_avg"]), abs=1e-6)


@pytest.mark.parametrize("name", runs.CORE)
def test_a_method_trains_evaluates_and_its_weights_serve_our_own_command(
    place, names, tiny, root, tmp_path, name
):
    log_dir = tmp_path / "run"
    argv = line(place, root, log_dir, names[name])
    assert main(argv) == 0
    assert names_in(log_dir) == FILES
    assert all(epochs(log_dir, split) == ["0", "1"] for split in ("train", *runs.SPLITS))
    saved = json.loads((log_dir / "config.json").read_text())
    assert saved["values"]["algorithm"] == name and saved["values"]["batch_size"] == 8
    assert saved["origin"]["batch_size"] == "flag" and len(saved["digest"]) == 64
    evaluated_again(argv, log_dir)
    own_command_takes(root, log_dir, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", runs.CORE)
def test_a_method_killed_in_its_second_epoch_resumes_where_the_first_ended(
    place, names, tiny, root, tmp_path, name
):
    log_dir = tmp_path / "run"
    argv = line(place, root, log_dir, names[name], log_every=1)
    n = 8  # batches of an epoch
    env = {**os.environ, "OMP_NUM_THREADS": "1", runs.WAIT: str(n + 3)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *argv], cwd=runs.REPOSITORY, env=env)
    end = time.monotonic() + 300
    while not (log_dir / ".reached").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -9
    (log_dir / ".reached").unlink()
    killed = runs.state(log_dir)
    assert killed["epoch"] == 0 and {int(s["step"]) for s in killed["optimizer"]["state"].values()} == {n}

    assert main([*argv, "--resume"]) == 0
    assert names_in(log_dir) == FILES
    assert all(epochs(log_dir, split) == ["0", "1"] for split in ("train", *runs.SPLITS))
    logged = [(row["epoch"], row["batch"]) for row in runs.rows_of(log_dir / "train_algo.csv")]
    assert len(set(logged)) == len(logged)
    assert set(logged) >= {(str(e), str(i)) for e in (0, 1) for i in (1, n)}
    ended = runs.state(log_dir)
    assert ended["epoch"] == 1 and {int(s["step"]) for s in ended["optimizer"]["state"].values()} == {2 * n}
    request = read_request(argv[3:], names, find_checkout(place).flags())
    rates = [learning_rate(request.run.optim, step, n) for step in range(2 * n)]
    for state, step in ((killed, n - 1), (ended, 2 * n - 1)):
        assert rates[step] > 0 and rates[step - 1] != pytest.approx(rates[step])
        assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rates[step])
    evaluated_again(argv, log_dir)


def test_a_method_that_joins_the_table_runs_with_no_further_work(place, tiny, root, tmp_path, monkeypatch):
    newcomer = type("Newcomer", (METHODS["ERM"],), {"name": "Newcomer"})
    monkeypatch.setitem(METHODS, "Newcomer", newcomer)
    assert main(line(place, root, tmp_path / "run", "Newcomer", n_epochs=1)) == 0
    assert names_in(tmp_path / "run") == FILES


def test_a_backbone_that_joins_the_table_is_built(place, root, tmp_path, monkeypatch):
    """Where our own command takes its name, too."""
    built = []

    def backbone(*args, **kwargs):
        built.append(args)
        return runs.tiny_backbone(*args, **kwargs)

    monkeypatch.setitem(backbones.BACKBONES, "resnet18", backbone)
    assert main(line(place, root, tmp_path / "run", "ABRA", n_epochs=1)) == 0
    assert len(built) == 1


def test_statistics_are_reestimated_once_an_epoch_where_the_run_asks_for_it(
    place, tiny, root, tmp_path, monkeypatch
):
    seen = []

    def watching(method, *_):
        seen.append(method.training)

    monkeypatch.setattr("abra_wilds.harness.algorithm.reestimate_bn", watching)
    assert main(line(place, root, tmp_path / "run", "ABRA")) == 0
    assert len(seen) == 2
    assert main([*line(place, root, tmp_path / "run", "ABRA"), "--eval_only"]) == 0
    assert main(line(place, root, tmp_path / "running", "ABRA", bn_stats="running")) == 0
    assert len(seen) == 2


@pytest.mark.parametrize("mode", ["--eval_only", "--resume"])
def test_the_weights_that_a_run_began_with_are_not_needed_again(place, tiny, root, tmp_path, mode):
    first = line(place, root, tmp_path / "first", "ABRA", n_epochs=1)
    assert main(first) == 0
    weights = tmp_path / "first" / "rxrx1_seed:0_epoch:last_model.pth"
    changes = {"pretrained": None, "pretrained_model_path": weights, "n_epochs": 1}
    second = line(place, root, tmp_path / "second", "ABRA", **changes)
    assert main(second) == 0
    weights.unlink()
    assert main([*second, mode]) == 0


def test_a_run_started_from_python_leaves_the_same_files(place, names, tiny, root, tmp_path):
    checkout = find_checkout(place)
    with registered(checkout) as harness:
        argv = line(place, root, tmp_path / "run", "ABRA", n_epochs=1)[3:]
        sys.argv = ["run_expt.py", *harness.ready(argv)]
        runpy.run_path(str(checkout.examples / "run_expt.py"), run_name="__main__")
    assert names_in(tmp_path / "run") == FILES


def test_the_data_folder_is_not_written_to(place, tiny, root, tmp_path):
    before = tree(root)
    assert main(line(place, root, tmp_path / "run", "ABRA", n_epochs=1)) == 0
    assert tree(root) == before


@pytest.mark.slow
@pytest.mark.parametrize("start", ["example", "console"])
def test_the_commands_run_with_a_real_network(place, root, tmp_path, start):
    """A ResNet-18, one method of ours and one of the checkout's own, as a person would start them."""
    code = "import sys; from abra_wilds.__main__ import main; sys.exit(main(sys.argv[1:]))"
    begin = {"example": ["examples/run_in_wilds.py"], "console": ["-c", code, "wilds"]}[start]
    name = {"example": "ABRA", "console": "ERM"}[start]
    argv = line(place, root, tmp_path / "run", name, pretrained=None, model_kwargs={"pretrained": False})
    if name == "ERM":
        argv = [word for word in argv if word not in ("--warmup_epochs", "1")]
    done = runs.process(*begin, *argv[1:])
    assert done.returncode == 0, done.stderr
    runs.assert_says(done.stderr, f"WILDS 2.0.0 in {place}", "abra:ERM")
    assert names_in(tmp_path / "run") == (FILES if name == "ABRA" else FILES - {"config.json"})
    assert epochs(tmp_path / "run", "val") == ["0", "1"]
