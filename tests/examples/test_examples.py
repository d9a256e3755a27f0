"""Every script in examples/ runs, as a person would start it."""

from __future__ import annotations

import json
import re

import pytest

from tests import runs

COMPARE = "benchmarks/methods/compare_methods.py"


def example(name: str, *args: object) -> str:
    """Standard output of a script of examples/, which must succeed."""
    done = runs.process(f"examples/{name}", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_bench_step_writes_each_methods_ratios_to_erm_on_its_backbone(tmp_path):
    methods = ("ABRA", "DANN", "DINOv2")
    small = ("--model", "resnet18", "--batch_size", 8, "--image_size", 32, "--rounds", 2, "--only", *methods)
    shown = example("benchmarks/bench_step.py", "--json", tmp_path / "b.json", *small, "--profile", "DANN")
    result = json.loads((tmp_path / "b.json").read_text())
    rows = {"ERM", "ERM vit_small", *methods, "ABRA two forwards"}
    assert set(result["ratios"]) == rows and all(row in shown for row in rows)
    assert all({"flops", "time", "memory"} <= set(r) for r in result["ratios"].values())
    for reference in ("ERM", "ERM vit_small"):
        assert all(v == 1 for k, v in result["ratios"][reference].items() if k != "time_iqr")
    assert set(result["profile"]) == {"ERM", "ERM vit_small", "DANN"}
    more = result["beyond_reference"]["DANN"]
    assert more["most"] and all(each["calls"] != each["reference_calls"] for each in more["most"])
    assert more["other_operators_ms"] > 0
    assert re.search("most of DANN: .*aten::", shown)
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


@pytest.mark.slow
def test_the_comparison_of_methods_goes_on_and_makes_its_table_of_records_alone(tmp_path):
    flags = ("--only", "ERM", "ABRA", "--seeds", 1, "--n_epochs", 1, "--screen", "mini")
    first = example(COMPARE, tmp_path / "c", *flags)
    again = example(COMPARE, tmp_path / "c", *flags)
    assert "2 runs, 0 finished before" in first and "2 runs, 2 finished before" in again
    collected = tmp_path / "c" / "methods_simulated.jsonl"
    rows = [json.loads(line) for line in collected.read_text().splitlines()]
    assert len(rows) == 3 * (1 + 6 + 1 + 2) and str(tmp_path) not in collected.read_text()
    assert {r["split"] for r in rows} == {"val", "test", "id_test"} and all(r["simulated"] for r in rows)
    part = example(COMPARE, tmp_path / "c", *(f for f in flags if f != "ABRA"))
    assert "1 runs, 1 finished before" in part and "ABRA" in part
    assert [json.loads(line) for line in collected.read_text().splitlines()] == rows
    moved = collected.rename(tmp_path / "r.jsonl")
    table = example(COMPARE, tmp_path / "none", "--table_only", "--records", moved)
    page = moved.with_suffix(".md").read_text()
    assert table in again and "simulated" in table.splitlines()[0] and "simulated" in page.splitlines()[0]
    assert all(f"| {100 * r['acc']:.1f} |" in page for r in rows)


@pytest.mark.slow
def test_the_benchmark_of_data_reads_files_and_pack(tmp_path):
    small = ("--batch_size", 4, "--replicates", 1, "--workers", 1, "--rounds", 2)
    small += ("--model", "timm:test_resnet", "--target_resolution", 32, 32, "--json", tmp_path / "d.json")
    shown = example("benchmarks/bench_data.py", "--datasets", "rxrx1", *small)
    found = json.loads((tmp_path / "d.json").read_text())["images_per_second"]["rxrx1"]
    assert found["shape"] == [3, 256, 256] and "rxrx1 3x256x256" in shown and found["window"] is None
    assert found["whole"]["packed"] > found["whole"]["files"] > 0
    assert all(0 <= share <= 1 for share in found["waiting"].values())


@pytest.mark.slow
def test_the_benchmark_of_training_feeds_both_methods_from_packs_of_random_bytes(tmp_path):
    tiny = ("--model", "timm:test_resnet", "--target_resolution", 32, "--batch_size", 4, "--wells", 8)
    short = ("--gigabytes", 0.04, "--workers", 1, "--cores", 1, "--rounds", 2, "--steps", 2)
    flags = ("--json", tmp_path / "t.json", "--folder", tmp_path, "--device", "cpu", "--amp", "bf16")
    shown = example("benchmarks/bench_train.py", *flags, *tiny, *short)
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["images"] == "random bytes" and "time (CPU)" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    shapes = {name: found["shape"] for name, found in result["datasets"].items()}
    assert shapes == {"rxrx1": [3, 256, 256], "rxrx1_6ch": [6, 512, 512]}
    for found in result["datasets"].values():
        for name, row in found["methods"].items():
            steps = [r["step"] for r in found["rounds"][name]]
            assert len(steps) == 2 and min(steps) <= row["step"] <= max(steps)
            assert row["loader"] > 0 and row["fed"] == row["both"] / row["step"] and 0 <= row["waiting"] <= 1
        assert all(entries[0]["share"] >= entries[-1]["share"] for entries in found["profile"].values())
