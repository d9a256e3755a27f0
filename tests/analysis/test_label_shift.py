"""Counts under label shift against predicting every draw for itself; what is there is not computed again."""

import copy
import importlib.util
import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from abra_wilds.analysis.label_shift import label_shift
from abra_wilds.analysis.shift_grid import Grid, draw, drawn_by
from abra_wilds.config.evaluation import ADVICE
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.errors import InputError
from abra_wilds.nets.staged import BATCH_NORMS
from abra_wilds.tta.adapters import first_pass_statistics
from tests import runs

ROOT = Path(__file__).resolve().parents[2]
SHIFTS = [(inf, 1), (inf, 5), (inf, None), (0.1, 1), (0.1, 5), (0.1, None)]
CONTROLS = "controls_bn,controls=all"
GRID = Grid((inf, 0.1), (1, 5, None), 3, ["plate_bn", CONTROLS])


def by_own_statistics(method, x):
    """Class ids where batch norms are in training mode, as they are in no adapter."""
    method = copy.deepcopy(method)
    for module in method.modules():
        if isinstance(module, BATCH_NORMS):
            module.train()
    return method.predict(x).argmax(1)


@torch.no_grad()
def slow(saved, split, shift, draws):
    """Images and right ones of each bio-batch, and mean recalls of each draw, by name."""
    subset = saved.setup.subsets[split]
    is_control = control_rows(subset.dataset)[np.asarray(subset.indices)]
    right = {name: [] for name in ("none", "plate_bn", CONTROLS)}
    recalls = {name: [[] for _ in range(draws)] for name in right}
    images = []
    bio_batches = saved.members(split)
    for number, (name, batch) in enumerate(saved.read(split, bio_batches, "slowly")):
        members = bio_batches[name]
        pictures = dict(zip(members.tolist(), batch.x, strict=True))
        images.append(0)
        for of in right.values():
            of.append(0)
        for k in range(draws):
            y = subset.y_array[members].numpy()
            rows = members[draw(y, *shift, drawn_by(0, number, shift, k))]
            controls = members[is_control[members]]
            others = np.setdiff1d(rows, controls)
            parts = {"all": rows, "controls": controls, "others": others}
            x = {
                part: saved.standardised(torch.stack([pictures[i] for i in of.tolist()]))
                for part, of in parts.items()
                if len(of)
            }
            plain = saved.method.predict(x["all"]).argmax(1)
            z = first_pass_statistics(saved.method, [x[p] for p in ("controls", "others") if p in x])
            by_row = dict(zip([*controls, *others], torch.cat(z).argmax(1).tolist(), strict=True))
            found = {
                "none": plain.tolist(),
                "plate_bn": (by_own_statistics(saved.method, x["all"]) if len(rows) > 1 else plain).tolist(),
                CONTROLS: [by_row[i] for i in rows],
            }
            images[-1] += len(rows)
            for name, predicted in found.items():
                hits = [int(a == b) for a, b in zip(predicted, subset.y_array[rows].tolist(), strict=True)]
                right[name][-1] += sum(hits)
                recalls[name][k] += list(zip(subset.y_array[rows].tolist(), hits, strict=True))
    balanced = {}
    for name, of in recalls.items():
        each = [
            np.mean([np.mean([hit for c, hit in pairs if c == label]) for label in {c for c, _ in pairs}])
            for pairs in of
        ]
        balanced[name] = np.mean(each)
    return images, right, balanced


def test_counts_are_those_of_predicting_each_draw_for_itself(saved):
    cells = label_shift(saved, "test", GRID)
    assert [(c.alpha, c.size) for c in cells] == [(None if a == inf else a, n) for a, n in SHIFTS]
    for cell, shift in zip(cells, SHIFTS, strict=True):
        images, right, balanced = slow(saved, "test", shift, 3)
        assert (list(cell.images), cell.right) == (images, right)
        assert cell.balanced_acc == pytest.approx(balanced, abs=1e-6)
        assert list(cell.bio_batches) == list(saved.members("test")) and cell.draws == 3


def test_all_adaptations_run_and_a_single_image_is_adapted_by_controls_alone(saved):
    (one, whole) = label_shift(saved, "test", Grid((inf,), (1, None), 4))
    assert {"none", "plate_bn", "mixed_bn", "eb_bn", "eb_bn,controls=all", CONTROLS} <= one.right.keys()
    alone = {name for name, right in one.right.items() if right == one.right["none"]}
    assert {"none", "plate_bn", "mixed_bn", "eb_bn"} <= alone
    none = {"adapt": 0, "do not adapt": 0, "cannot tell": 4 * 4, "right": sum(one.right["none"])}
    assert one.advice["eb_bn"] == none and one.advice.keys() == {"eb_bn", "eb_bn,controls=all"}
    said = whole.advice["eb_bn"]
    assert sum(said[words] for words in ADVICE) == 4 * 4
    if said["adapt"] == 16:
        assert said["right"] == sum(whole.right["eb_bn"])
    assert whole.images == [4 * 16] * 4 and all(r % 4 == 0 for of in whole.right.values() for r in of)


def test_an_unknown_split_is_refused(saved):
    with pytest.raises(InputError, match="'dev'"):
        label_shift(saved, "dev", GRID)


@pytest.fixture
def script():
    """examples/benchmarks/label_shift_grid.py with a small grid, and what it computed."""
    place = ROOT / "examples" / "benchmarks" / "label_shift_grid.py"
    spec = importlib.util.spec_from_file_location("label_shift_grid", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_computes_what_is_missing_and_makes_its_page(
    script, checkpoint, tmp_path, monkeypatch, capsys
):
    runs.use_tiny_backbone(monkeypatch)
    records = tmp_path / "r.jsonl"

    def start(*flags):
        words = [str(checkpoint), "--records", str(records), "--draws", "1", "--tta_group", "plate", *flags]
        assert script.judge(script.parse(words)) == 0
        said = capsys.readouterr().out.splitlines()[-1].partition("computed ")[2]
        return said, [json.loads(line) for line in records.read_text().splitlines()]

    said, first = start("--adapters", "plate_bn")
    assert said == "none, plate_bn" and len(first) == 25
    said, again = start("--adapters", "plate_bn")
    assert said == "nothing" and again == first
    said, more = start("--adapters", "plate_bn", "mixed_bn")
    assert said == "mixed_bn" and len(more) == 25
    for old, new in zip(first, more, strict=True):
        assert {**new, "right": old["right"], "balanced_acc": old["balanced_acc"]} == old
        assert old["right"].items() < new["right"].items() and "mixed_bn" in new["right"]
    said, other = start("--adapters", "plate_bn", "--row", "again")
    assert said == "none, plate_bn" and other[:25] == more and len(other) == 50
    said, redrawn = start("--adapters", "plate_bn", "--draws", "2")
    assert said == "none, plate_bn" and {r["draws"] for r in redrawn if r["row"] == "ERM"} == {2}
    assert len(redrawn) == 50, "another grid takes the place of the first"
    page = records.with_suffix(".md").read_text()
    assert "## ERM" in page and "## again" in page and page.count("\n| plate_bn |") == 2
    records.with_suffix(".md").unlink()
    assert script.judge(script.parse(["--records", str(records)])) == 0
    assert records.with_suffix(".md").read_text() == page


def test_the_script_refuses_a_file_of_something_else(script, tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(InputError, match="no model"):
        script.judge(script.parse(["--records", str(path)]))
    path.write_text('{"acc": 1}\n')
    with pytest.raises(InputError, match=r"r\.jsonl"):
        script.judge(script.parse(["--records", str(path)]))
    assert path.read_text() == '{"acc": 1}\n'
