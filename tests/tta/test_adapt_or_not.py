"""The advice whether to adapt to a bio-batch: what decides, and in which order."""

import pytest
import torch
from torch.nn import functional as F

from abra_wilds.tta.advice import UNUSUAL, decide, kappa
from abra_wilds.tta.evidence import pairs_of
from abra_wilds.tta.mix import Mix, no_labels

N, O = 24, 4
USUAL, STRANGE = (Mix(torch.full((O,), 1 / O), spread, 0.0) for spread in (0.05, UNUSUAL + 0.1))


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


def test_one_image_or_no_change_gives_no_reason_to_adapt():
    y = truth()
    alone = decide(logits(y[:1]), logits(y[:1]), None, no_labels(y[:1]))
    assert alone.adapt is None and alone.words == "cannot tell"
    same = decide(logits(y), logits(y), USUAL, no_labels(y))
    assert same.adapt is False and same.changed == 0 and "no prediction" in same.reason


@pytest.mark.parametrize("gains", [True, False])
def test_controls_decide_where_they_are_clear(gains):
    y = truth()
    worse, better = logits(changed(range(6))), logits(y)
    plain, adapted = (worse, better) if gains else (better, worse)
    known = torch.where(torch.arange(N) < 8, y, -1)
    found = decide(plain, adapted, USUAL, known)
    assert found.adapt is gains and found.changed == 6 / N
    counts = "gains 6 and loses 0" if gains else "gains 0 and loses 6"
    assert found.reason == f"of 8 controls it {counts}"
    assert decide(plain, adapted, USUAL, no_labels(y)).adapt is True, "without controls the mix decides"


@pytest.mark.parametrize("gains", [True, False])
def test_sites_of_wells_decide_next(gains):
    y = torch.arange(N) // 2 % O
    split, joined = logits(changed(range(0, 12, 2), y)), logits(y)
    plain, adapted = (split, joined) if gains else (joined, split)
    found = decide(plain, adapted, STRANGE, no_labels(y), torch.arange(N) // 2)
    assert found.adapt is gains and found.reason.startswith("of 12 wells of two equal sites it")


def test_sites_that_agree_by_chance_alone_decide_nothing():
    """All images taken for one class agree; adapted, most are right and some wells apart."""
    y = torch.arange(N) // 2 % O
    collapsed, adapted = logits(torch.zeros(N, dtype=torch.int64)), logits(changed([0, 2, 4, 6], y))
    wells = torch.arange(N) // 2
    found = decide(collapsed, adapted, USUAL, no_labels(y), wells)
    assert found.adapt is True and "class mix" in found.reason
    assert kappa(torch.zeros(N, dtype=torch.int64), *pairs_of(wells)) == 0
    assert kappa(y, *pairs_of(wells)) == pytest.approx(1.0)


def test_where_nothing_else_is_clear_the_class_mix_decides():
    plain, adapted = logits(changed([0, 1])), logits(changed([2, 3]))
    usual, strange = (decide(plain, adapted, mix, no_labels(truth())) for mix in (USUAL, STRANGE))
    assert usual.adapt is True and strange.adapt is None
    assert (usual.words, strange.words) == ("adapt", "cannot tell") and "0.40" in strange.reason


def test_labels_that_are_not_known_do_not_enter():
    """The arguments hold none; images that are no controls are never compared with a class."""
    y = truth()
    plain, adapted = logits(changed(range(10))), logits(y)
    known = torch.where(torch.arange(N) >= 20, y, -1)
    assert "controls" not in decide(plain, adapted, USUAL, known).reason
