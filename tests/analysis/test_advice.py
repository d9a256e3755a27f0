"""Whether adaptation is advisable: the rule on made-up divergences, without torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np

from abra_wilds.analysis.advice import Shift, advice, newness
from tests.runs import assert_says


def made_up(train, test, layers=3):
    """Shifts whose KL is a bio-batch's number times a scale of the layer, and whose MMD is its root."""
    values = [("train", k, v) for k, v in enumerate(train)] + [("test", k, v) for k, v in enumerate(test)]
    return [
        Shift(split, f"{split}{k}", 16, f"bn{d}", d, 0.0, 0.0, v * 10**d, (v * 10**d) ** 0.5)
        for split, k, v in values
        for d in range(layers)
    ]


def test_how_new_a_bio_batch_is_counts_in_units_of_each_layers_median_over_training():
    shifts = made_up([1, 2, 3], [8, 1])
    assert np.allclose(newness(shifts, "kl_near", "test"), [4, 0.5])
    assert np.allclose(newness(shifts, "mmd_near", "train"), np.sqrt([0.5, 1, 1.5]))


def test_adaptation_is_advisable_where_most_bio_batches_lie_beyond_training():
    found = advice(made_up(range(1, 21), [30, 40, 50, 1]))
    assert found.advisable is True
    assert_says(found.sentence, "is advisable", "3 of 4", "of test by KL", "3 by MMD", "95%", "3.3 and 1.8")


def test_adaptation_is_not_advisable_where_half_of_them_or_fewer_do():
    found = advice(made_up(range(1, 21), [30, 40, 5, 1]))
    assert found.advisable is False and "not advisable for this data, because only 2 of 4" in found.sentence


def test_the_question_is_open_where_kl_and_mmd_disagree():
    found = advice([replace(s, mmd_near=1.0) for s in made_up(range(1, 21), [30, 40, 50])])
    assert found.advisable is None and "KL and MMD disagree" in found.sentence


def test_advice_of_the_bio_batches_themselves_decides_where_there_is_some():
    shifts = made_up(range(1, 21), [1, 2, 3, 4])
    for said, advisable in (("aaad", True), ("ddda", False), ("aadc", None)):
        words = {"a": "adapt", "d": "do not adapt", "c": "cannot tell"}
        found = advice(
            [replace(s, advice=words[said[int(s.bio_batch[4:])]]) if s.split == "test" else s for s in shifts]
        )
        assert found.advisable is advisable
        assert (
            f"adapt to {said.count('a')} of 4 bio-batches of test, not to {said.count('d')}" in found.sentence
        )
        assert ("1 do not tell" in found.sentence) is ("c" in said)


def test_advice_needs_no_torch():
    code = "import sys; sys.modules.update(torch=None, wilds=None); import abra_wilds.analysis.advice"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
