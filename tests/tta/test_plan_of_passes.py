"""Passes of what learns from pass to pass, and of what corrects the predictions of a whole bio-batch."""

import numpy as np
import pytest

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import split_subset
from abra_wilds.data.samplers.passes import BioBatch
from abra_wilds.tta.plan import check_plans, split_plan, tally


@pytest.mark.parametrize("tta", ["unmix_tns", "tent", "sar"])
def test_what_learns_from_pass_to_pass_gets_passes_of_the_papers_size(dataset, monkeypatch, tta):
    def sizes(**flags):
        e = EvalConfig(tta=tta, tta_group="experiment", **flags)
        return [[len(p) for p in group.passes] for group in split_plan(split_subset(dataset, "val"), e, 8)]

    assert sizes(tta_min=2) == [[32], [32]]
    monkeypatch.setattr("abra_wilds.tta.plan.ONLINE_BATCH", 12)
    assert sizes(tta_min=2) == [[11, 11, 10]] * 2 and sizes(tta_min=9) == [[16, 16]] * 2, "twice --tta_min"
    assert sizes(tta_min=2, tta_batch_size=8) == [[8] * 4] * 2


@pytest.mark.parametrize("tta", ["lame", "label_shift"])
def test_predictions_are_corrected_over_the_whole_bio_batch_in_passes_of_any_size(dataset, tta):
    e = EvalConfig(tta=tta, tta_min=2)
    plan = split_plan(split_subset(dataset, "val"), e, 6)
    assert [[len(p) for p in group.passes] for group in plan] == [[6, 5, 5]] * 4
    assert tally(plan, e).line("val", e) == (
        f"--tta {tta} on val: 64 images, 4 plates, 12 passes; predictions of 16 to 16 images; 0 cut; "
        "0 images uncorrected (fewer than 2)"
    )


def test_one_bio_batch_that_is_large_enough_lets_a_split_pass():
    plan = [BioBatch((np.arange(3),), False), BioBatch((np.arange(99),), True)]
    check_plans({"val": plan}, EvalConfig(tta="plate_bn"))
