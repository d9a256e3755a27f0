"""Scores among treatments and by well, against loops over images and wells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.engine.evaluation.scores import ScreenScores, class_mix
from abra_wilds.functional.effects import mix_spread

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def six(six_root):
    """Six classes, of which 0 to 3 are treatments; both sites test."""
    return load_dataset("rxrx1_6ch", six_root, split_scheme="official")


def test_the_class_mix_is_the_spread_over_plates_and_over_experiments(six):
    """By the columns of metadata.csv, with the counts of each group from pandas."""
    subset = split_subset(six, "test")
    rows = pd.read_csv(Path(six.data_dir) / "metadata.csv").iloc[np.asarray(subset.indices)]
    found = class_mix(subset)
    assert list(found) == ["plate", "experiment"]
    for name, columns in (("plate", ["experiment", "plate"]), ("experiment", ["experiment"])):
        counts = rows.groupby(columns)["sirna_id"].value_counts().unstack(fill_value=0)
        assert found[name] == mix_spread(torch.tensor(counts.to_numpy()))
    alone = class_mix(split_subset(six, "test", 0.2))
    assert 0 <= alone["experiment"] < alone["plate"] or alone["plate"] == 0


def logits_of(subset, seed=0):
    """Random logits (n, 6) that are often right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(subset), 6))
    logits[np.arange(len(subset)), subset.y_array.numpy()] += 0.7
    return torch.tensor(logits, dtype=torch.float32)


def added(subset, logits, batch=7):
    """Scores of logits that came in shuffled batches."""
    scores = ScreenScores(subset, CPU)
    for rows in torch.from_numpy(np.random.default_rng(1).permutation(len(subset))).split(batch):
        scores.add(logits[rows], rows)
    return scores


def slow_scores(subset, logits, treatments):
    """The scores by one image and one well after another."""
    fields = list(subset.metadata_fields)
    names = ("experiment", "plate", "well")
    wells, images = {}, []
    for row, (z, y) in enumerate(zip(logits.double().numpy(), subset.y_array.tolist(), strict=True)):
        key = tuple(int(subset.metadata_array[row, fields.index(name)]) for name in names)
        wells.setdefault(key, (y, []))[1].append(np.exp(z) / np.exp(z).sum())
        if y in treatments:
            images.append(max(treatments, key=lambda c: z[c]) == y)
    means = [(y, np.mean(p, axis=0)) for y, p in wells.values()]
    among = [max(treatments, key=lambda c: p[c]) == y for y, p in means if y in treatments]
    every = [p.argmax() == y for y, p in means]
    found = {"acc_treatments": images, "acc_well": every, "acc_well_treatments": among}
    return {name: np.mean(right) for name, right in found.items()}


@pytest.mark.parametrize("frac", [1.0, 0.6])
@pytest.mark.parametrize("treatments", [[0, 1, 2, 3], [1, 4]])
def test_scores_are_those_of_loops_over_images_and_wells(six, monkeypatch, frac, treatments):
    monkeypatch.setattr(six, "treatments", torch.tensor(treatments))
    subset = split_subset(six, "test", frac)
    for seed in range(3):
        logits = logits_of(subset, seed)
        found = added(subset, logits).results()
        assert found == pytest.approx(slow_scores(subset, logits, treatments))
        assert list(found) == sorted(found) and all(0 < value < 1 for value in found.values())


def test_a_well_is_right_where_one_of_two_sites_is_sure(six):
    subset = split_subset(six, "test")
    logits = torch.zeros(len(subset), 6)
    logits[torch.arange(0, len(subset), 2), subset.y_array[::2]] = 5.0  # the first site
    logits[1::2, 5] = 1.0  # the second leans to the negative control
    assert added(subset, logits).results()["acc_well"] == 1.0


def test_controls_are_no_choice_among_treatments(six):
    subset = split_subset(six, "test")
    logits = torch.nn.functional.one_hot(subset.y_array, 6).float()
    logits[:, 4:] += 10
    found = added(subset, logits).results()
    assert (found["acc_treatments"], found["acc_well_treatments"]) == (1.0, 1.0) and found["acc_well"] < 0.7


def test_parts_of_several_processes_merge_by_maximum_and_sum(six):
    subset = split_subset(six, "test")
    logits, rows = logits_of(subset), torch.arange(len(subset))
    parts = [ScreenScores(subset, CPU) for _ in range(3)]
    for part, mine in zip(parts, (rows[::2], rows[1::2], rows[:0]), strict=True):
        part.add(logits[mine], mine)
    whole = ScreenScores(subset, CPU)
    whole.predictions = torch.stack([p.predictions for p in parts]).amax(0)
    whole.probabilities = torch.stack([p.probabilities for p in parts]).sum(0)
    assert torch.equal(whole.predictions, added(subset, logits).predictions)
    assert torch.equal(whole.probabilities, added(subset, logits).probabilities)
    assert whole.results() == added(subset, logits).results()


def test_without_treatments_only_wells_are_scored(six, monkeypatch):
    subset = split_subset(six, "test")
    logits = logits_of(subset)
    everything = added(subset, logits).results()
    controls = torch.from_numpy(six.controls[subset.indices])
    assert controls.any() and not controls.all()
    monkeypatch.setattr(six, "treatments", None)
    assert added(subset, logits).results() == {"acc_well": everything["acc_well"]}


def test_a_split_that_shows_no_treatment_has_no_score_of_them(six, monkeypatch):
    monkeypatch.setattr(six, "treatments", torch.tensor([9]))
    monkeypatch.setattr(six, "_n_classes", 10)
    subset = split_subset(six, "test")
    logits = torch.cat([logits_of(subset), torch.zeros(len(subset), 4)], dim=1)
    assert set(added(subset, logits).results()) == {"acc_well"}


def test_half_a_split_has_no_scores(six):
    subset = split_subset(six, "test")
    scores = ScreenScores(subset, CPU)
    scores.add(logits_of(subset)[:5], torch.arange(5))
    with pytest.raises(RuntimeError, match="every image"):
        scores.results()


def test_half_precision_logits_are_summed_in_float32(six):
    subset = split_subset(six, "test")
    logits = logits_of(subset).to(torch.bfloat16)
    assert torch.equal(added(subset, logits).probabilities, added(subset, logits.float()).probabilities)
