"""Certificates against labels: estimates by hand, labels that nobody knows, and the page of the example."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from abra_wilds.analysis.certified import LEVEL, binned, in_question, judged, one_threshold, other_estimates
from abra_wilds.analysis.certified import certified as of_model
from abra_wilds.functional.calibration import fit_temperature
from abra_wilds.tta.certificate import calibrate
from tests.tta.test_certificate import CONTROLS, NEW, plate

ROOT = Path(__file__).resolve().parents[2]
VAL = [plate(T, seed, 80) for seed, T in enumerate((0.7, 1.0, 1.4))]


def by_hand(z, y):
    """Largest probabilities, in plain numbers."""
    e = np.exp(z.double().numpy() - z.double().numpy().max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).max(1), z.numpy().argmax(1) == y.numpy()


def test_other_estimates_are_those_of_their_definitions():
    b = NEW[0]
    asked = in_question(b)
    z, y = b.adapted[asked], b.labels[asked]
    z_val = torch.cat([v.adapted[CONTROLS:] for v in VAL])
    y_val = torch.cat([v.labels[CONTROLS:] for v in VAL])
    T = fit_temperature(z_val, y_val)
    (new, _), (old, hit) = by_hand(z / T, y), by_hand(z_val / T, y_val)
    found = other_estimates(z.double(), y, VAL)
    assert found["AC"] == pytest.approx(by_hand(z, y)[0].mean())
    assert found["AC at one T"] == pytest.approx(new.mean())
    assert found["DoC"] == pytest.approx(hit.mean() - old.mean() + new.mean())
    threshold = np.sort(old)[(~hit).sum()]
    assert found["ATC"] == pytest.approx((new >= threshold).mean(), abs=0.02)
    assert found["val"] == pytest.approx(hit.mean())
    assert found["own"] == pytest.approx(by_hand(z / fit_temperature(z, y), y)[0].mean())


def test_images_are_counted_by_bins_of_confidence():
    confidence, right = torch.tensor([0.05, 0.31, 0.39, 1.0]), torch.tensor([False, True, False, True])
    found = binned(confidence, right)
    assert found[0] == [1, 0, pytest.approx(0.05)] and found[9] == [1, 1, 1.0]
    assert found[3] == [2, 1, pytest.approx(0.7)] and sum(n for n, _, _ in found) == 4


def test_a_bio_batch_is_judged_by_images_in_question_and_their_labels_enter_the_truth_alone():
    calibration, b = calibrate(VAL), NEW[1]
    found = judged("test", "p", True, b, VAL, calibration)
    asked = ~b.controls
    assert found.images == int(asked.sum()) and found.controls and found.level == LEVEL
    assert found.accuracy == pytest.approx(float((b.adapted.argmax(1) == b.labels)[asked].double().mean()))
    T, quantile = one_threshold(VAL)
    p = (b.adapted[asked].double() / T).softmax(1).gather(1, b.labels[asked][:, None])[:, 0]
    assert found.covered_by_one == int((1 - p <= quantile).sum())
    assert found.covered / found.images == pytest.approx(0.9, abs=0.1) and found.set_size >= 1
    wrong = replace(b, labels=b.labels.where(b.controls, (b.labels + 1) % 10))
    other = judged("test", "p", True, wrong, VAL, calibration)
    assert other.accuracy != found.accuracy and (other.low, other.high) == (found.low, found.high)
    given = {k: v for k, v in found.estimates.items() if k != "own"}
    assert given == {k: v for k, v in other.estimates.items() if k != "own"}
    assert np.sum(found.reliability["certified"], axis=0)[0] == found.images


def test_the_example_writes_records_page_and_diagram_once(saved, checkpoint, tmp_path, monkeypatch, capsys):
    from abra_wilds.analysis import certified as module
    from tests import runs

    runs.use_tiny_backbone(monkeypatch)
    monkeypatch.setattr(module, "FEWEST", 10)
    found = of_model(saved)
    assert {(r.sites, r.controls) for r in found} <= {(s, c) for s in (True, False) for c in (True, False)}
    assert {r.bio_batch for r in found} == set(saved.members("test"))
    place = ROOT / "examples" / "benchmarks" / "adaptation" / "certificates.py"
    spec = importlib.util.spec_from_file_location("certificates_example", place)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    records = tmp_path / "c.jsonl"
    words = [str(checkpoint), "--records", str(records), "--tta_group", "plate"]
    assert script.judge(script.parse(words)) == 0
    first = records.read_text()
    assert len(first.splitlines()) == len(found) and records.with_suffix(".png").stat().st_size > 1000
    monkeypatch.setattr(script, "certified", lambda *_: pytest.fail("is judged again"))
    assert script.judge(script.parse(words)) == 0 and records.read_text() == first
    rows = [json.loads(line) for line in first.splitlines()]
    errors = script.error_cells(rows)
    of = [r for r in rows if not r["sites"] and not r["controls"]]
    wanted = np.mean([100 * abs(r["estimates"]["ours"] - r["accuracy"]) for r in of])
    assert {line[0]: line[2] for line in errors}["neither sites nor controls"] == f"{wanted:.1f}"
    page = records.with_suffix(".md").read_text()
    assert "| neither sites nor controls | " in page and "ECE" in page and "90 %" in page
    records.write_text("[]\n")
    with pytest.raises(Exception, match="name another file"):
        script.judge(script.parse(words))
