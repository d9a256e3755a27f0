"""Tiny runs of the command: a quarter of the tiny data set, five small stages for a network.

As a program it is `examples/run_expt.py` with that network, and can be asked where to wait for its end.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from abra_wilds.nets import backbones
from abra_wilds.nets.staged import STAGES, StagedNet
from tests.helpers import tiny_vit

REPOSITORY = Path(__file__).resolve().parents[1]
SPLITS = ("val", "test", "id_test")
# The methods of the main job; every other one has its tests of runs in tests/engine/test_every_method.py.
CORE = ("ERM", "ABRA", "deepCORAL", "groupDRO", "IRM")
# What single methods need to be quick, and to fit the small data set.
OWN: dict[str, dict[str, Any]] = {
    "SimCLR": {"simclr_hidden": 16, "simclr_out": 8, "simclr_probe_epochs": 2},
    "BYOL": {"byol_hidden": 16, "byol_out": 8, "byol_probe_epochs": 2},
    "DINOv2": {
        "model": "vit_small",
        "dinov2_prototypes": 32,
        "dinov2_hidden": 16,
        "dinov2_bottleneck": 8,
        "dinov2_n_local": 2,
        "dinov2_global_size": 16,
        "dinov2_local_size": 16,
        "dinov2_probe_epochs": 2,
    },
    "IRM": {"n_groups_per_batch": 4},
    "deepCORAL": {"n_groups_per_batch": 4},
    "CS-ARM-BN": {"batch_size": 4, "tta_min": 2},
    "ARM-BN": {"tta_min": 2},
    "DANN": {"n_groups_per_batch": 4},
    "AdvBayes": {"advbayes_pre_epochs": 1, "advbayes_adv_steps": 1, "advbayes_depth": 1},
    "IID-lite": {"iid_lite_pretrain_epochs": 1, "iid_lite_width": 16},
    "ERM-CutMix": {"erm_cutmix_width": 16},
    "IRMX": {"irmx_head_epochs": 2, "irmx_domains": 4, "irmx_domain_rows": 8},
    "IRMX-PAIR": {"irmx_pair_head_epochs": 2, "irmx_pair_domains": 4, "irmx_pair_domain_rows": 8},
}
WAIT = "ABRA_TEST_WAIT_AT_STEP"


def small_root(
    sim_root: Path, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame] | None = None
) -> Path:
    """A root_dir with two lines and two plates an experiment, 64 images a split, its rows in no order.

    `change` edits the metadata.
    """
    data = folder / "rxrx1_v1.0"
    data.mkdir(parents=True)
    (data / "images").symlink_to(sim_root / "rxrx1_v1.0" / "images")
    (data / "RELEASE_v1.0.txt").touch()
    rows = pd.read_csv(sim_root / "rxrx1_v1.0" / "metadata.csv")
    rows = rows[rows["cell_type"].isin(["HEPG2", "HUVEC"]) & (rows["plate"] <= 2)]
    rows = rows.sample(frac=1, random_state=0)
    (rows if change is None else change(rows)).to_csv(data / "metadata.csv", index=False)
    return folder


def tiny_backbone(name: str, in_channels: int, pretrained: bool, new_stem: bool) -> StagedNet:
    """Five stages of convolution, batch norm and ReLU."""
    channels = dict(zip(STAGES, (8, 8, 8, 8, 12), strict=True))
    stages, before = {}, in_channels
    for stage, C in channels.items():
        stages[stage] = nn.Sequential(nn.Conv2d(before, C, 3, 2, 1, bias=False), nn.BatchNorm2d(C), nn.ReLU())
        before = C
    return StagedNet(stages, channels)


def tiny_transformer(name: str, in_channels: int, pretrained: bool, new_stem: bool) -> StagedNet:
    """Four blocks on patches of 2 pixels."""
    return tiny_vit(in_channels=in_channels)


def use_tiny_backbone(patch: Any) -> None:
    """Let --model resnet18 and vit_small mean tiny networks, through a pytest MonkeyPatch."""
    patch.setitem(backbones.BACKBONES, "resnet18", tiny_backbone)
    patch.setitem(backbones.BACKBONES, "vit_small", tiny_transformer)


def settings(root: Path, log_dir: Path, algorithm: str = "ABRA", **changes: Any) -> dict[str, Any]:
    """Flags of a run that takes a moment; a change to None leaves a flag out."""
    wanted: dict[str, Any] = {
        "dataset": "rxrx1",
        "root_dir": str(root),
        "log_dir": str(log_dir),
        "model": "resnet18",
        "pretrained": False,
        "n_epochs": 2,
        "batch_size": 8,
        "warmup_epochs": 1,
        "device": ["cpu"],
        "loader_kwargs": {"num_workers": 0},
    }
    wanted |= OWN.get(algorithm, {})
    return {name: value for name, value in {**wanted, **changes}.items() if value is not None}


def command(root: Path, log_dir: Path, algorithm: str = "ABRA", **changes: Any) -> list[str]:
    """`settings` as a command line."""
    argv = ["--algorithm", algorithm]
    for name, value in settings(root, log_dir, algorithm, **changes).items():
        if isinstance(value, dict):
            argv += [f"--{name}", *(f"{k}={v}" for k, v in value.items())]
        else:
            argv += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return argv


def child(argv: list[str], wait_at: int | None = None) -> subprocess.Popen[str]:
    """The tiny program as a process, with this process's number of threads, so that sums come out alike."""
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))
    if wait_at is not None:
        env[WAIT] = str(wait_at)
    command, pipe = [sys.executable, "-m", "tests.runs", *argv], subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=env, text=True, stdout=pipe, stderr=pipe)


def process(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """A finished process, started in the repository, with what it printed."""
    started = [sys.executable, *map(str, command)]
    return subprocess.run(started, capture_output=True, text=True, **{"cwd": REPOSITORY, **more})


def kill_at(argv: list[str], log_dir: Path, step: int, patience: float = 300) -> None:
    """Run until the step has been taken, and kill -9."""
    process = child(argv, wait_at=step)
    try:
        end = time.monotonic() + patience
        while not (log_dir / ".reached").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the run ended with {process.poll()}: {process.communicate(timeout=5)}")
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -9
    (log_dir / ".reached").unlink()


def state(log_dir: Path, epoch: str = "last", seed: int = 0, dataset: str = "rxrx1") -> dict[str, Any]:
    """The content of a checkpoint."""
    path = log_dir / f"{dataset}_seed:{seed}_epoch:{epoch}_model.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


def texts(log_dir: Path) -> dict[str, str]:
    """Every csv of a run, predictions included."""
    return {path.name: path.read_text() for path in sorted(log_dir.glob("*.csv"))}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a csv."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two nests of mappings, sequences, tensors and numbers are not bit-identical."""
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return [f"{at}: {list(a)} against {list(b)}"]
        return [d for k in a for d in differences(a[k], b[k], f"{at}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{at}: {len(a)} against {len(b)} entries"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{at}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [at]
    return [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [f"{at}: {a!r} against {b!r}"]


def comparable(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without the time it took."""
    return {k: v for k, v in checkpoint.items() if k != "seconds"}


def write_png(path: Path, seed: int = 0, side: int = 32) -> None:
    """A PNG of noise."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def files(dataset: str = "rxrx1") -> set[str]:
    """Names of everything that a run of the command leaves in its folder."""
    epochs = ("best", "last")
    return {
        *("log.txt", "config.json", "results.jsonl", "model"),
        *(f"{split}_{kind}.csv" for split in ("train", *SPLITS) for kind in ("eval", "algo")),
        *(f"{dataset}_split:{split}_seed:0_epoch:{e}_pred.csv" for split in SPLITS for e in epochs),
        *(f"{dataset}_seed:0_epoch:{e}_model.pth" for e in epochs),
    }


def names_in(folder: Path) -> set[str]:
    """Names of a folder's entries."""
    return {path.name for path in folder.iterdir()}


def content(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def stop_at(patch: Any, n: int, module: Any = None, name: str = "step") -> None:
    """Let the n-th call of a function, fit's step if no module is given, end the run as Ctrl-C does."""
    from abra_wilds.engine import fit as fit_module

    module, taken = module or fit_module, [0]
    original = getattr(module, name)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        taken[0] += 1
        if taken[0] == n:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    patch.setattr(module, name, stopping)


def sentence(capsys: Any, job: Callable[..., int], *args: Any, code: int = 2) -> str:
    """The one sentence, all that stands on stderr, with which a job ends by this exit code."""
    capsys.readouterr()
    assert job(*args) == code
    error = str(capsys.readouterr().err)
    assert re.fullmatch(r"error: [^\n]{20,}\n", error), error
    return error.removeprefix("error: ").rstrip("\n")


def refusal(
    capsys: Any, argv: list[Any], log_dir: Path, written: Sequence[str] = (), printed: str = ""
) -> str:
    """The sentence with which the command refuses: all that is shown, and log_dir holds `written` alone."""
    from abra_wilds.commands.train import main as command_main

    capsys.readouterr()
    assert command_main([str(argument) for argument in argv]) == 2
    shown = capsys.readouterr()
    assert re.fullmatch(printed, shown.out)
    assert re.fullmatch(r"error: [^\n]{20,}\n", shown.err), shown.err
    assert sorted(p.name for p in log_dir.glob("*")) == sorted(written)
    return str(shown.err.removeprefix("error: ").rstrip("\n"))


def assert_says(sentence: str, *parts: str) -> None:
    """What came, what is allowed and what to do, in this order."""
    at = 0
    for part in parts:
        assert part in sentence[at:], f"{part!r} is not in {sentence[at:]!r}"
        at = sentence.index(part, at) + len(part)


def main() -> int:
    """The command with the tiny network; it waits for the end after the step that the environment names."""
    from abra_wilds.commands import train
    from abra_wilds.engine import fit as fit_module

    backbones.BACKBONES |= {"resnet18": tiny_backbone, "vit_small": tiny_transformer}
    wait_at, taken, step = int(os.environ.get(WAIT, -1)), [0], fit_module.step
    log_dir = Path(sys.argv[sys.argv.index("--log_dir") + 1])

    def waiting(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        taken[0] += 1
        if taken[0] == wait_at:
            (log_dir / ".reached").touch()
            time.sleep(600)
        return out

    fit_module.step = waiting
    return train.main()


if __name__ == "__main__":
    sys.exit(main())


def drawn(sampler):
    """The rows of each batch that a sampler gives, as lists."""
    return [batch.rows.tolist() for batch in sampler]
