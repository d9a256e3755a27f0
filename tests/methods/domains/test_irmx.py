"""IRMX: ERM on images, then the sum of two penalties on frozen features."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.losses import cross_entropies, domain_risks, irm_penalty
from abra_wilds.methods.domains.irmx import IRMXConfig
from abra_wilds.recipes.flags import parse
from abra_wilds.types import InputError
from tests import reference, runs
from tests.helpers import (
    array,
    assert_is_erm,
    gradients,
    make_batch,
    make_info,
    make_method,
    target_arrays,
    worst,
)
from tests.methods.head_batches import UNEQUAL, feature_batch, make_head, slow_parts

CONFIGS = runs.REPOSITORY / "abra_wilds" / "recipes"
BOTH = pytest.mark.parametrize("name", ["IRMX", "IRMX-PAIR"])


@pytest.mark.parametrize("w", [None, 0.63])
def test_risks_and_penalties_of_domains_equal_the_slow_loop_and_the_penalty_of_irm(w):
    batch, z = feature_batch(w=w), torch.from_numpy(np.random.default_rng(5).normal(size=(len(UNEQUAL), 5)))
    y, y_b, share = target_arrays(batch.target)
    Y = reference.dense(y, 5, y_b, share)
    risks, penalties = domain_risks(z, batch.target, batch.groups)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses = cross_entropies(scale * z, batch.target)
    for k, rows in enumerate(rows.numpy() for rows in batch.groups):
        assert risks[k].item() == pytest.approx(reference.cross_entropy(z[rows].numpy(), Y[rows]), abs=1e-12)
        even, odd = (reference.scale_slope(z[rows[i::2]].numpy(), Y[rows[i::2]]) for i in (0, 1))
        assert penalties[k].item() == pytest.approx(even * odd, abs=1e-12)
        assert worst(penalties[k], irm_penalty(losses[rows], scale)) < 1e-14


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_and_gradient_of_the_classifier_equal_the_slow_loop(w):
    method, head, batch = make_method("IRMX", IRMXConfig(p1=7.0, p2=3.0)), make_head(), feature_batch(w=w)
    W, b = array(head.weight), array(head.bias)

    def slow(W):
        risk, penalty, variance = slow_parts(W, b, batch)
        return risk + 7 * penalty + 3 * variance

    out = method.head_step(head, batch)
    assert out.loss.item() == pytest.approx(slow(W), abs=1e-10)
    _, penalty, variance = slow_parts(W, b, batch)
    assert out.logs["penalty"].item() == pytest.approx(penalty, abs=1e-10)
    assert out.logs["variance"].item() == pytest.approx(variance, abs=1e-10)
    assert min(abs(penalty), variance) > 1e-3
    slope = reference.finite_differences(slow, W)
    np.testing.assert_allclose(array(gradients(head, out.loss)["weight"]), slope, atol=1e-7)


def test_without_penalties_the_classifier_learns_by_the_mean_risk_of_the_domains():
    method, head, batch = make_method("IRMX", IRMXConfig(p1=0.0, p2=0.0)), make_head(), feature_batch()
    losses = torch.nn.functional.cross_entropy(head(batch.x), batch.target.y, reduction="none")
    want = torch.stack([losses[rows].mean() for rows in batch.groups]).mean()
    out = method.head_step(head, batch)
    assert worst(out.loss, want) < 1e-12
    assert worst(gradients(head, out.loss), gradients(head, want)) < 1e-12
    assert torch.equal(out.logits, head(batch.x))


@pytest.mark.parametrize("w", [None, 0.63])
def test_without_penalties_and_with_equal_domains_it_is_erm_on_the_features(w):
    batch, head = feature_batch((0, 1, 1, 0, 2, 2), w=w), make_head()
    a = make_method("IRMX", IRMXConfig(p1=0.0, p2=0.0)).head_step(head, batch)
    b = make_method("ERM").head_step(head, batch)
    assert worst(a.loss, b.loss) < 1e-12
    assert worst(gradients(head, a.loss), gradients(head, b.loss)) < 1e-12


def test_equal_domains_have_no_variance():
    method, head = make_method("IRMX", IRMXConfig(p1=0.0, p2=100.0)), make_head()
    half = feature_batch((0, 0, 0))
    batch = feature_batch((0, 0, 0, 1, 1, 1))
    batch.x.copy_(torch.cat([half.x, half.x]))
    batch.target.y.copy_(torch.cat([half.target.y, half.target.y]))
    out = method.head_step(head, batch)
    assert out.logs["variance"].item() == 0.0
    assert out.loss.item() == pytest.approx(make_method("ERM").head_step(head, half).loss.item(), abs=1e-12)


@BOTH
def test_the_classifiers_step_is_float32_under_autocast(name):
    method, head, batch = make_method(name), make_head(torch.float32), feature_batch(dtype=torch.float32)
    plain = method.head_step(head, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = method.head_step(head, batch)
    assert out.loss.dtype == out.logits.dtype == torch.float32
    assert all(v.dtype == torch.float32 and v.shape == () and not v.requires_grad for v in out.logs.values())
    assert torch.equal(out.loss, plain.loss)


@BOTH
@pytest.mark.parametrize("w", [None, 0.63])
def test_on_images_loss_and_gradients_are_those_of_erm(name, w):
    method = make_method(name)
    assert_is_erm(method, make_batch((0, 1, 1, 0, 2, 2), w=w))


@BOTH
def test_the_frozen_phase_is_the_published_one_with_no_more_domains_than_there_are(name):
    phase = make_method(name, info=make_info(n_groups=51, train_groups=tuple(range(33)))).head_phase()
    assert (phase.epochs, phase.batch_size, phase.n_groups) == (90, 720, 10)
    assert (phase.optimizer, phase.rates, phase.weight_decay) == ("Adam", (1e-3,), 1e-5)
    assert not phase.standardise
    phase = make_method(name).head_phase()
    assert (phase.batch_size, phase.n_groups) == (4 * 72, 4)


@BOTH
def test_training_data_of_one_domain_are_refused(name):
    method = make_method(name, info=make_info(train_groups=(2,)))
    with pytest.raises(InputError, match="at least 2 bio-batches"):
        method.head_phase()


@BOTH
def test_the_example_file_is_the_published_protocol_and_the_methods_own_defaults(name):
    prefix = name.lower().replace("-", "_")
    config = parse(["--config", str(CONFIGS / f"{prefix}.yaml")])
    o = config.optim
    assert (config.algorithm, config.preset, config.model.model) == (name, "wilds", "resnet50")
    assert abs(o.n_epochs * 40612 / config.data.batch_size - 15000) < 40612 / config.data.batch_size
    assert (o.optimizer, o.lr, o.weight_decay, o.optimizer_kwargs) == ("Adam", 1e-3, 1e-5, {"amsgrad": True})
    assert o.scheduler_kwargs == {"num_warmup_steps": 5415}
    assert config.method == type(config.method)()
    assert parse(["--config", str(CONFIGS / f"{prefix}.yaml"), "--n_epochs", "0"]).optim.n_epochs == 0
