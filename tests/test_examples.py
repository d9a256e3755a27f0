"""Every script in examples/ runs, as a person would start it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from abra_wilds import METHODS
from tests import runs


def example(name: str, *args: object) -> str:
    """Standard output of a script of examples/, which must succeed."""
    command = [sys.executable, f"examples/{name}", *map(str, args)]
    done = subprocess.run(command, cwd=runs.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_bench_step_writes_every_methods_ratios_to_erm(tmp_path):
    small = ("--model", "resnet18", "--batch_size", 8, "--image_size", 32, "--rounds", 2)
    shown = example("bench_step.py", "--json", tmp_path / "b.json", *small)
    result = json.loads((tmp_path / "b.json").read_text())
    assert set(result["ratios"]) == {*METHODS, "ABRA two forwards"} and all(n in shown for n in METHODS)
    assert all({"flops", "time", "memory"} <= set(r) for r in result["ratios"].values())
    assert all(v == 1 for k, v in result["ratios"]["ERM"].items() if k != "time_iqr")
    assert result["ratios"]["ABRA two forwards"]["flops"] > result["ratios"]["ABRA"]["flops"] > 1


@pytest.mark.slow
def test_a_method_added_from_outside_trains_by_the_same_command(sim_root, tmp_path):
    shown = example(
        "add_a_method.py",
        *("--algorithm", "VREx", "--vrex_beta", 10, "--root_dir", sim_root, "--log_dir", tmp_path / "run"),
        *("--model", "resnet18", "--pretrained", "false", "--n_epochs", 1, "--warmup_epochs", 0),
        *("--batch_size", 32, "--n_groups_per_batch", 4),
    )
    assert "VREx" in shown and (tmp_path / "run" / "results.jsonl").exists()
