"""Fig. 8: statistics are those of train mode, divergences those of torch, and the advice follows its rule."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from abra_wilds.analysis.bn_shift import Shift, advice, bn_shift, newness
from abra_wilds.analysis.saved import Saved
from abra_wilds.data.images import read_image
from abra_wilds.errors import InputError
from abra_wilds.functional.divergences import gaussian_mmd2
from tests.helpers import make_method, worst

STAGES = ("stem", "res1", "res2", "res3", "res4")


def statistics_in_train_mode(saved, rows, split):
    """{stage: (mean, variance)} of the inputs of batch norms in train mode, from images read one by one."""
    subset = saved.setup.subsets[split]
    images = torch.stack([read_image(subset.dataset, int(subset.indices[row])) for row in rows])
    method, seen = copy.deepcopy(saved.method), {}
    for name, stage in method.net.stages.items():

        def hook(norm, args, name=name):
            seen[name] = (args[0].mean((0, 2, 3)), args[0].var((0, 2, 3), correction=0))

        stage[1].register_forward_pre_hook(hook)
    with torch.no_grad():
        method.train().predict(saved.standardised(images))
    return seen


def halves(saved, split, n):
    """{bio-batch: (n rows, n other rows)}, as they are drawn."""
    rng, found = np.random.default_rng(0), {}
    for of, taken in (("train", 2 * n), (split, n)):
        found[of] = {name: rng.permutation(rows)[:taken] for name, rows in saved.members(of).items()}
    return found


def slow_distances(p, q):
    """Means over channels of torch's KL, and of the MMD that has its own test, for each layer."""
    kl = [kl_divergence(Normal(*p[name]), Normal(*q[name])).mean().item() for name in p]
    return kl, [gaussian_mmd2(*p[name], *q[name]).mean().sqrt().item() for name in p]


def test_distances_are_those_of_the_statistics_that_train_mode_would_use(saved):
    found, rows = bn_shift(saved, "test"), halves(saved, "test", 4)
    norms = {stage: saved.method.net.stages[stage][1] for stage in STAGES}

    def normal(mean, var, stage):
        return mean.double(), (var.double() + norms[stage].eps).sqrt()

    def seen(chosen, split):
        stats = statistics_in_train_mode(saved, chosen, split)
        return {stage: normal(*stats[stage], stage) for stage in STAGES}

    model = {stage: normal(m.running_mean, m.running_var, stage) for stage, m in norms.items()}
    references = [seen(chosen[:4], "train") for chosen in rows["train"].values()]
    for split, plate in (("test", "HEPG2-04 plate 2"), ("train", "HUVEC-01 plate 1")):
        mine = [s for s in found if (s.split, s.bio_batch) == (split, plate)]
        assert [s.layer for s in mine] == [f"{stage}.1" for stage in STAGES]
        p = seen(rows[split][plate][-4:], split)
        kl, mmd = slow_distances(p, model)
        near = [slow_distances(p, q) for q in references]
        kl_near, mmd_near = (min((one[k] for one in near), key=sum) for k in (0, 1))
        for name, expected in (("kl", kl), ("mmd", mmd), ("kl_near", kl_near), ("mmd_near", mmd_near)):
            assert [getattr(s, name) for s in mine] == pytest.approx(expected, rel=1e-3), name


def test_the_model_is_left_as_it_was(saved):
    before = copy.deepcopy(saved.method.state_dict())
    bn_shift(saved, "val")
    assert worst(before, dict(saved.method.state_dict())) == 0


def test_every_bio_batch_and_every_half_lends_the_same_number_of_images(saved):
    assert {s.images for s in bn_shift(saved)} == {4}, "half of a training plate"
    found = bn_shift(replace(saved, config=with_least(saved, 3)), images=3)
    assert {s.images for s in found} == {3} and len(found) == 5 * (8 + 4)


def test_batch_norms_that_do_not_predict_have_no_row(saved):
    method = copy.deepcopy(saved.method)
    method.unused = torch.nn.BatchNorm1d(3)
    found = bn_shift(replace(saved, method=method.eval()), "val")
    assert {s.layer for s in found} == {f"{stage}.1" for stage in STAGES}


def test_a_model_without_batch_norm_and_bio_batches_that_are_too_small_are_refused(saved):
    vit = make_method("DINOv2")
    with pytest.raises(InputError, match="has no batch norm, so there is no shift"):
        bn_shift(replace(saved, method=vit))
    with pytest.raises(InputError, match=r"HUVEC-01 plate 2 has 4 images to take .* and --tta_min is 5;"):
        bn_shift(replace(saved, config=with_least(saved, 5)))


def with_least(saved, n):
    """The configuration with another --tta_min."""
    return replace(saved.config, eval=replace(saved.config.eval, tta_min=n))


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
    assert found.sentence == (
        "TTA is advisable for this data, because 3 of 4 bio-batches of test by KL, and 3 by MMD, lie farther "
        "from all training bio-batches than 95% of unseen images of training bio-batches do (median 3.3 and "
        "1.8 times as far)."
    )


def test_adaptation_is_not_advisable_where_half_of_them_or_fewer_do():
    found = advice(made_up(range(1, 21), [30, 40, 5, 1]))
    assert found.advisable is False and "not advisable for this data, because only 2 of 4" in found.sentence


def test_the_question_is_open_where_kl_and_mmd_disagree():
    found = advice([replace(s, mmd_near=1.0) for s in made_up(range(1, 21), [30, 40, 50])])
    assert found.advisable is None and "KL and MMD disagree" in found.sentence


@pytest.mark.parametrize("blurred", [False, True])
def test_test_images_of_another_texture_make_adaptation_advisable_and_more_of_the_same_do_not(saved, blurred):
    """The data are noise; blocks of two pixels that are equal are another texture."""

    class Other(Saved):
        def read(self, split, parts, doing):
            for name, batch in super().read(split, parts, doing):
                x = batch.x[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
                yield name, replace(batch, x=x) if blurred and split == "test" else batch

    other = Other(**{name: getattr(saved, name) for name in saved.__dataclass_fields__})
    assert advice(bn_shift(other)).advisable is blurred
