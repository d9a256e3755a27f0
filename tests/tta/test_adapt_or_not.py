"""The advice whether to adapt to a bio-batch: what decides, and in which order."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from abra_wilds.tta.advice import decide
from abra_wilds.tta.certificate import Labelled, calibrate
from abra_wilds.tta.evidence import Calibration, changed_wells, pairs_of
from abra_wilds.tta.mix import Mix, no_labels

N, O = 24, 4
USUAL = Mix(torch.full((O,), 1 / O), 0.05, 0.0)


def logits(classes):
    """Logits (n, O) that predict these classes."""
    return 5.0 * F.one_hot(torch.as_tensor(classes), O).float()


def truth():
    return torch.arange(N) % O


def changed(rows, of=None):
    """Classes of the bio-batch, of which some rows are wrong."""
    y = truth() if of is None else of.clone()
    y[rows] = (y[rows] + 1) % O
    return y


def test_one_image_tells_nothing_and_of_more_nothing_may_speak_against_it():
    y = truth()
    alone = decide(logits(y[:1]), logits(y[:1]), None, no_labels(y[:1]))
    assert alone.adapt is None and alone.words == "cannot tell"
    same = decide(logits(y), logits(y), USUAL, no_labels(y))
    assert same.adapt is True and same.changed == 0 and same.reason == "nothing speaks against it"


def says(gained, lost, joined_right=0.5, parted_right=0.5):
    """A calibration by labelled bio-batches of which adaptation sets so many images right, and wrong."""
    moments, shares = (0.0, 0.1), (joined_right, parted_right)
    return Calibration(0.0, 0.9, -1.0, 0.1, moments, None, 0.5, 1.0, 0.8, (0.5,), gained, lost, *shares)


@pytest.mark.parametrize("gains", [True, False])
def test_controls_decide_where_they_are_clear(gains):
    y = truth()
    worse, better = logits(changed(range(6))), logits(y)
    plain, adapted = (worse, better) if gains else (better, worse)
    known = torch.where(torch.arange(N) < 8, y, -1)
    found = decide(plain, adapted, USUAL, known, calibration=says(3, 3))
    assert found.adapt is gains and found.changed == 6 / N
    counts = "gain 6 and lose 0" if gains else "gain 0 and lose 6"
    assert found.reason == f"labelled bio-batches gain 3 and lose 3; 8 controls {counts}"
    blind = decide(plain, adapted, USUAL, no_labels(y), calibration=says(3, 3))
    assert blind.adapt is True and "controls" not in blind.reason


@pytest.mark.parametrize("gains", [True, False])
def test_sites_of_wells_decide_too(gains):
    y = torch.arange(N) // 2 % O
    split, joined = logits(changed(range(0, 12, 2), y)), logits(y)
    plain, adapted = (split, joined) if gains else (joined, split)
    found = decide(plain, adapted, USUAL, no_labels(y), torch.arange(N) // 2, says(0, 0))
    assert found.adapt is gains
    assert found.reason == f"wells of two equal sites {'gain 6 and lose 0' if gains else 'gain 0 and lose 6'}"


def test_sites_count_as_far_as_equal_ones_were_right_in_labelled_bio_batches():
    """Six wells come apart: without labels that is bad, where such wells were wrong anyway it says little."""
    y = torch.arange(N) // 2 % O
    joined, split = logits(y), logits(changed(range(0, 12, 2), y))
    wells = torch.arange(N) // 2
    for right, adapt in ((1.0, False), (0.2, None), (0.1, True)):  # -sqrt(6), -1.2 / 1.1, -0.6
        found = decide(joined, split, USUAL, no_labels(y), wells, says(0, 0, parted_right=right))
        assert found.adapt is adapt
    assert found.reason == "nothing speaks clearly against it: wells of two equal sites gain 0 and lose 6"


def test_sites_that_agree_on_one_class_for_all_images_do_not_speak_against_adaptation():
    """All images taken for one class agree; adapted, most are right and some wells apart."""
    y = torch.arange(N) // 2 % O
    collapsed, adapted = logits(torch.zeros(N, dtype=torch.int64)), logits(changed([0, 2, 4, 6], y))
    found = decide(collapsed, adapted, USUAL, no_labels(y), torch.arange(N) // 2, says(8, 2))
    assert found.adapt is True
    counts = "gain 8 and lose 2; wells of two equal sites gain 6 and lose 10"
    assert found.reason == f"labelled bio-batches {counts}"


def test_wells_change_whose_sites_agree_on_another_class_too():
    before, after = torch.tensor([0, 0, 1, 1, 2, 2, 3, 0]), torch.tensor([0, 0, 2, 2, 2, 1, 3, 3])
    joined, parted = changed_wells(before, after, pairs_of(torch.arange(8) // 2))
    assert joined.tolist() == [2, 6] and parted.tolist() == [2, 4]


def test_calibration_counts_how_often_equal_sites_were_right():
    """Of four wells adaptation joins two, one of them rightly, and parts one that was right."""
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    before, after = torch.tensor([0, 0, 1, 2, 2, 2, 3, 0]), torch.tensor([0, 0, 1, 1, 2, 1, 1, 1])
    one = Labelled(logits(after), logits(before), y, torch.arange(8) // 2)
    found = calibrate([one])
    assert (found.gained, found.lost) == (1, 2)
    assert (found.joined_right, found.parted_right) == (2 / 4, 2 / 3)
    known = replace(one, controls=torch.tensor([False] * 4 + [True] * 4))  # controls are not in question
    assert (calibrate([known]).joined_right, calibrate([known]).parted_right) == (2 / 3, 1 / 2)


@pytest.mark.parametrize("scale", [1, 100])
def test_counts_are_pooled_and_labelled_bio_batches_weigh_no_more_than_twenty_changes(scale):
    """10 better, 10 worse; with 5 controls worse -5 / sqrt(25) = -1.0 deviations, with 7 -7 / sqrt(27)."""
    y = truth()
    calibration = says(10 * scale, 10 * scale)
    for controls, adapt in ((0, True), (5, True), (7, None), (12, False)):
        known = torch.where(torch.arange(N) < controls, y, -1)
        plain, adapted = logits(y), logits(changed(range(12)))
        assert decide(plain, adapted, USUAL, known, calibration=calibration).adapt is adapt
    assert decide(plain, adapted, USUAL, no_labels(y), calibration=says(13, 7)).adapt is True
    assert decide(plain, adapted, USUAL, no_labels(y), calibration=says(3, 12)).adapt is False


def test_labels_that_are_not_known_do_not_enter():
    """The arguments hold none; images that are no controls are never compared with a class."""
    y = truth()
    plain, adapted = logits(changed(range(10))), logits(y)
    known = torch.where(torch.arange(N) >= 20, y, -1)
    found = decide(plain, adapted, USUAL, known, calibration=says(0, 9))
    assert found.reason == "labelled bio-batches gain 0 and lose 9; 4 controls gain 0 and lose 0"
