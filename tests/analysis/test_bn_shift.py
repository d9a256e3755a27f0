"""Fig. 8: statistics are those of train mode, and divergences those of torch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from abra_wilds.analysis.advice import advice
from abra_wilds.analysis.bn_shift import bn_shift, common_size
from abra_wilds.analysis.saved import Saved
from abra_wilds.config.evaluation import ADVICE
from abra_wilds.data.reading.images import read_image
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


@pytest.mark.parametrize(("of", "other"), [("test", "HEPG2-04 plate 2"), ("id_test", "HUVEC-01 plate 1")])
def test_distances_are_those_of_the_statistics_that_train_mode_would_use(saved, of, other):
    """A bio-batch of id_test is called as one of train."""
    found, rows = bn_shift(saved, of), halves(saved, of, 4)
    norms = {stage: saved.method.net.stages[stage][1] for stage in STAGES}

    def normal(mean, var, stage):
        return mean.double(), (var.double() + norms[stage].eps).sqrt()

    def seen(chosen, split):
        stats = statistics_in_train_mode(saved, chosen, split)
        return {stage: normal(*stats[stage], stage) for stage in STAGES}

    model = {stage: normal(m.running_mean, m.running_var, stage) for stage, m in norms.items()}
    references = [seen(chosen[:4], "train") for chosen in rows["train"].values()]
    for split, plate in ((of, other), ("train", "HUVEC-01 plate 1")):
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
    assert {s.images for s in bn_shift(saved, "id_test")} == {4}, "of the same experiments as train"
    found = bn_shift(replace(saved, config=with_least(saved, 3)), images=3)
    assert {s.images for s in found} == {3} and len(found) == 5 * (8 + 4)


def test_batch_norms_that_do_not_predict_have_no_row(saved):
    method = copy.deepcopy(saved.method)
    method.unused = torch.nn.BatchNorm1d(3)
    found = bn_shift(replace(saved, method=method.eval()), "val")
    assert {s.layer for s in found} == {f"{stage}.1" for stage in STAGES}


def test_a_model_without_batch_norm_and_bio_batches_that_are_too_small_are_refused(saved):
    vit = make_method("DINOv2")
    with pytest.raises(InputError, match="no batch norm"):
        bn_shift(replace(saved, method=vit))
    with pytest.raises(InputError, match=r"HUVEC-01 plate 2 .*4 images .*--tta_min is 5"):
        bn_shift(replace(saved, config=with_least(saved, 5)))


def with_least(saved, n):
    """The configuration with another --tta_min."""
    return replace(saved.config, eval=replace(saved.config.eval, tta_min=n))


def test_halves_of_training_bio_batches_never_overlap_whatever_other_splits_are_called():
    rows = {"A": np.arange(12), "B": np.arange(9)}
    for target in ({"A": np.arange(12), "B": np.arange(9)}, {"C": np.arange(9)}):
        assert common_size(rows, target, 128, 1) == 4
    assert common_size(rows, {"A": np.arange(3)}, 128, 1) == 3
    assert common_size(rows, {"A": np.arange(3)}, 2, 1) == 2


@pytest.mark.parametrize("blurred", [False, True])
def test_test_images_of_another_texture_make_adaptation_advisable_and_more_of_the_same_do_not(saved, blurred):
    """The data are noise; blocks of two pixels that are equal are another texture."""

    class Other(Saved):
        def read(self, split, parts, doing):
            for name, batch in super().read(split, parts, doing):
                x = batch.x[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
                yield name, replace(batch, x=x) if blurred and split == "test" else batch

    other = Other(**{name: getattr(saved, name) for name in saved.__dataclass_fields__})
    found = bn_shift(other)
    words = {s.advice for s in found if s.split == "test"}
    assert words <= set(ADVICE) and {s.advice for s in found if s.split == "train"} == {""}
    assert advice([replace(s, advice="") for s in found]).advisable is blurred
