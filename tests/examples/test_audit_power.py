"""The power study: clean screens say nothing by construction, plants do what they are named after."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from abra_wilds.analysis.audit.pictures import cells_of
from abra_wilds.analysis.audit.shortcuts import SHORTCUTS

FILE = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "audit_power.py"


@pytest.fixture(scope="module")
def power():
    spec = importlib.util.spec_from_file_location("audit_power", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clean(power):
    return power.simulated(7)


def test_the_first_stain_does_not_depend_on_the_treatment_and_the_others_do(power):
    place = {"experiment_index": 0, "plate": 1, "well_index": 5}
    a, b = (power.picture(power.config_of(0), SimpleNamespace(sirna_id=y, **place)) for y in (0, 9))
    assert np.array_equal(a[0], b[0]) and all((a[c] != b[c]).mean() > 0.05 for c in (1, 2))


def test_intensities_of_clean_pictures_are_what_was_drawn(power, clean):
    (x, wells), train = clean
    assert x.shape == (640, 3, power.SIDE, power.SIDE) and train.sum() == 384
    assert not set(wells.experiment[train]) & set(wells.experiment[~train])
    mean, spread = wells.statistics[:, :3], wells.statistics[:, 3:6]
    assert (np.abs(np.log(mean / 50)) < 1.6).all()
    clipped = ((x == 0) | (x == 255)).float().mean((2, 3)).numpy() > 0
    assert clipped.mean() < 0.3 and spread[~clipped].min() > 3


def test_each_plant_changes_what_it_is_named_after_alone(power, clean):
    (x, wells), _ = clean
    same, known = power.unrandomised(x, wells, np.random.default_rng(0))
    assert same is x
    for g in np.unique(wells.group):
        own = wells.group == g
        assert sorted(known.position[own]) == sorted(wells.position[own])
        assert (np.diff(known.label[own][np.argsort(known.position[own])]) >= 0).all()
    same, known = power.confounded(x, wells, np.random.default_rng(0))
    of_label = {y: set(known.plate[known.label == y]) for y in np.unique(known.label)}
    assert same is x and {len(plates) for plates in of_label.values()} == {1}
    _, known = power.brightened(x, wells, np.random.default_rng(0))
    gain = np.log(known.statistics[:, 0] / wells.statistics[:, 0])
    assert max(gain[wells.label == y].std() for y in of_label) < 0.05 < gain.std()
    thin, _ = power.thinned(x, wells, np.random.default_rng(0))
    shares = cells_of(thin).float().mean((1, 2, 3)).numpy() - cells_of(x).float().mean((1, 2, 3)).numpy()
    assert shares.mean() < -0.1 and (thin == x)[..., -1].all()
    lined, _ = power.patterned(x, wells, np.random.default_rng(0))
    assert (lined == x)[cells_of(x).expand_as(x)].all()
    assert (lined != x).float().mean() > 0.1


def test_a_summary_counts_found_shortcuts(power):
    def row(planted, found, accuracy):
        verdicts = [{"shortcut": s, "found": s in found} for s in SHORTCUTS]
        return {"planted": planted, "verdicts": verdicts, "model_accuracy": accuracy}

    rows = [row("none", [], 0.2), row("none", ["density"], 0.4)]
    rows += [row(name, [name] if k else [], 0.5) for name in SHORTCUTS for k in range(2)]
    found = power.summary_of(rows)
    assert found["power"] == dict.fromkeys(SHORTCUTS, 0.5)
    assert (found["false_alarms"], found["clean_screens_with_one"]) == (0.1, 0.5)
    assert found["found_by_planted"]["none"]["density"] == 0.5
    assert found["model_accuracy"]["none"] == pytest.approx(0.3)


@pytest.mark.slow
def test_planted_shortcuts_are_found_in_a_screen_that_has_none_else(power):
    rows, _ = power.audits(7)
    found = {row["planted"]: {v["shortcut"] for v in row["verdicts"] if v["found"]} for row in rows}
    assert found["none"] == set()
    assert all(name in found[name] for name in SHORTCUTS)
