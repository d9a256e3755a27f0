"""ERM-CutMix against NumPy: neck, mixture of losses, and what remains without ArcFace."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from abra_wilds.engine.evaluation.evaluate import reestimate_bn
from abra_wilds.functional.double_head import double_head
from abra_wilds.methods.mixing.erm_cutmix import ERMCutMix, ERMCutMixConfig
from abra_wilds.nets.neck import class_directions, make_neck
from abra_wilds.nets.staged import BATCH_NORMS
from abra_wilds.types import Target
from tests import reference
from tests.helpers import array, clean_map, gradients, make_batch, make_method, target_arrays, worst

MIXED = pytest.mark.parametrize("w", [None, 0.63])


def method_of(**kwargs):
    return make_method("ERM-CutMix", ERMCutMixConfig(width=8, **kwargs))


def slow_bn(x, bn):
    scaled = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return scaled * array(bn.weight) + array(bn.bias)


def slow_neck(f, neck):
    first, inner, _, second, outer, third = neck
    h = np.maximum(slow_bn(f, first) @ array(inner.weight).T, 0)
    return slow_bn(slow_bn(h, second) @ array(outer.weight).T, third)


def perturb_affine(module):
    """Batch norms of distinct scales and offsets, so that a wrong order shows."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)


def test_neck_is_norm_linear_relu_norm_linear_norm():
    torch.manual_seed(0)
    neck = make_neck(5, 7).double()
    perturb_affine(neck)
    f = torch.randn(9, 5, dtype=torch.float64)
    np.testing.assert_allclose(array(neck(f)), slow_neck(array(f), neck), atol=1e-12)


@MIXED
def test_the_mixture_halves_arcface(w):
    rng = np.random.default_rng(0)
    z, e, V = rng.normal(size=(6, 5)), rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    y, y_b = rng.integers(5, size=(2, 6))
    target = Target(*(torch.from_numpy(t) for t in (y, y_b)), w) if w else Target(torch.from_numpy(y))
    got = double_head(*(torch.from_numpy(t) for t in (z, e, V)), target, k=0.3, margin=0.4, scale=20.0)
    Y = reference.dense(y, 5, y_b, w) if w else reference.dense(y, 5)
    want = 0.7 * reference.cross_entropy(z, Y) + 0.15 * reference.arcface(e, V, Y, 0.4, 20.0)
    assert got.item() == pytest.approx(want, abs=1e-10)


@MIXED
def test_loss_equals_numpy_from_the_pooled_features_on(w):
    method, batch = method_of(k=0.3, margin=0.4, scale=20.0), make_batch(w=w)
    perturb_affine(method.neck)
    e = slow_neck(clean_map(method, batch).mean((2, 3)), method.neck)
    z = e @ array(method.head.weight).T + array(method.head.bias)
    y, y_b, share = target_arrays(batch.target)
    Y = reference.dense(y, 5, y_b, share)
    arc = reference.arcface(e, array(method.arc_weight), Y, 0.4, 20.0)
    out = method(batch)
    np.testing.assert_allclose(array(out.logits), z, atol=1e-10)
    assert out.loss.item() == pytest.approx(0.7 * reference.cross_entropy(z, Y) + 0.15 * arc, abs=1e-10)


@MIXED
def test_without_arcface_it_is_erm_with_a_neck_in_loss_and_gradients(w):
    method, erm, batch = method_of(k=0.0), make_method("ERM"), make_batch(w=w)
    assert method.arc_weight is None
    erm.net.load_state_dict(method.net.state_dict())
    erm.head = nn.Sequential(copy.deepcopy(method.neck), copy.deepcopy(method.head))
    a, b = method(batch), erm(batch)
    assert worst(a.loss, b.loss) < 1e-12
    renamed = {
        n.replace("head.0.", "neck.").replace("head.1.", "head."): g
        for n, g in gradients(erm, b.loss).items()
    }
    assert worst(gradients(method, a.loss), renamed) < 1e-12


def test_predictions_come_from_the_cross_entropy_head_alone():
    method, batch = method_of(), make_batch()
    method.eval()
    before = method.predict(batch.x)
    with torch.no_grad():
        method.arc_weight.fill_(3.0)
    assert torch.equal(method.predict(batch.x), before)
    assert worst(before, method.classify(method.neck(method.features(batch.x)))) == 0


def test_arcface_directions_are_uniform_within_the_inverse_root_of_the_width():
    torch.manual_seed(0)
    V = class_directions(1139, 16)
    assert V.requires_grad and V.shape == (1139, 16)
    assert V.min().item() == pytest.approx(-0.25, abs=1e-3)
    assert V.max().item() == pytest.approx(0.25, abs=1e-3)
    assert V.std().item() == pytest.approx(0.5 / 12**0.5, abs=1e-2)


def test_every_batch_norm_of_backbone_and_neck_has_the_momentum():
    norms = [m for m in method_of(bn_momentum=0.2).modules() if isinstance(m, BATCH_NORMS)]
    assert len(norms) == 5 + 3 and {m.momentum for m in norms} == {0.2}
    assert {m.momentum for m in method_of().modules() if isinstance(m, BATCH_NORMS)} == {0.05}


def test_batch_norm_statistics_re_estimated_by_predict_reach_the_neck():
    method, batch = method_of(), make_batch()
    reestimate_bn(method, method.predict, [batch.x])
    with torch.no_grad():
        f = method.features(batch.x)  # whose norms know the statistics of this batch by now
    # They were unbiased when stored and biased when used, so the features agree but nearly.
    np.testing.assert_allclose(method.neck[0].running_mean, f.mean(0), rtol=0.05)


def test_it_wants_mixed_batches_with_cutmix_across_them():
    assert (ERMCutMix.plan.train_loader, ERMCutMix.plan.mix) == ("standard", "cutmix_any")
