"""AdvBayes: the climb against torch's Adam, the loss against NumPy, and what is left without them."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.functional.bayes import reparametrised
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.styles.advbayes import AdvBayesConfig
from abra_wilds.nets.augmenter import Augmenter
from tests import reference
from tests.helpers import (
    array,
    as_model,
    assert_same_step,
    erm_like,
    gradients,
    make_batch,
    make_info,
    make_method,
    target_arrays,
    worst,
)

MIXED = pytest.mark.parametrize("w", [None, 0.63])
FEW = Augmenter(3, (3, 1, 5))


def method_of(info=None, epoch=0, **kwargs):
    settings = {"pre_epochs": 0, "adv_steps": 3, "adv_lr": 0.05, "depth": 2, **kwargs}
    return make_method("AdvBayes", AdvBayesConfig(**settings), info=info, epoch=epoch)


def fresh(seed=7):
    torch.manual_seed(seed)
    return FEW.fresh(torch.zeros((), dtype=torch.float64))


def slow_logits(method, x):
    """Logits of images as an array, by stages that normalise by these images."""
    model, y = as_model(method), array(x)
    for stage in model.stages.values():
        y = stage(y)
    return y.mean((2, 3)) @ array(method.head.weight).T + array(method.head.bias)


@MIXED
@pytest.mark.parametrize("kwargs", [{"c": 0.0}, {"pre_epochs": 3, "epoch": 2}], ids=["c = 0", "first epochs"])
def test_without_consistency_it_is_erm_and_draws_nothing(kwargs, w):
    method = method_of(**kwargs)
    erm, state = erm_like(method), torch.get_rng_state()
    a, _ = assert_same_step(method, erm, make_batch(w=w))
    assert torch.equal(state, torch.get_rng_state())
    assert not a.logs


def test_consistency_begins_once_the_first_epochs_are_complete():
    batch = make_batch()
    assert "consistency" in method_of(pre_epochs=3, epoch=3)(batch).logs
    assert "consistency" not in method_of(pre_epochs=3, epoch=2)(batch).logs


@MIXED
def test_an_augmenter_that_changes_nothing_leaves_the_weighted_cross_entropy(w):
    batch, method = make_batch(w=w), method_of(c=0.75)
    erm = erm_like(method)
    method.picture = lambda x, augmenter, phi: x + 0 * phi.sum()
    a, b = method(batch), erm(batch)
    assert abs(a.logs["consistency"]) < 1e-14
    assert worst(a.loss, 0.25 * b.loss) < 1e-14
    scaled = {name: 0.25 * g for name, g in gradients(erm, b.loss).items()}
    assert worst(gradients(method, a.loss), scaled) < 1e-12


@MIXED
@pytest.mark.parametrize("steps", [0, 3], ids=["random networks alone", "climb"])
def test_loss_is_that_of_numpy_on_the_pictures_that_were_drawn(steps, w):
    method, batch, drawn = method_of(c=0.6, adv_steps=steps), make_batch(w=w), []
    inner = method.views

    def views(b):
        found, logs = inner(b)
        drawn.extend(found)
        return found, logs

    method.views = views
    out = method(batch)
    z = [slow_logits(method, x) for x in (batch.x, *drawn)]
    y, y_b, share = target_arrays(batch.target)
    ce = reference.cross_entropy(z[0], reference.dense(y, 5, y_b, share))
    assert len(drawn) == 2 and not any(x.requires_grad for x in drawn)
    assert worst(drawn[0], drawn[1]) > 0.1, "one draw, used twice"
    assert out.loss.item() == pytest.approx(0.4 * ce + 0.6 * reference.consistency(z, 1e-4), abs=1e-10)
    np.testing.assert_allclose(array(out.logits), z[0], atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 1.0, -2.0])
def test_the_climb_is_torchs_adam_on_cross_entropy_plus_beta_kl(beta):
    method, batch, phi = method_of(beta=beta), make_batch(w=0.63), fresh()
    torch.manual_seed(3)
    got, _ = method.climb(batch, FEW, phi.clone())
    p = phi.clone().requires_grad_()
    adam = torch.optim.Adam([p], lr=0.05, maximize=True)
    torch.manual_seed(3)
    for _ in range(3):
        logits = method.predict(FEW(batch.x, reparametrised(p)))
        (p.grad,) = torch.autograd.grad(cross_entropies(logits, batch.target).mean() + beta * FEW.kl(p), p)
        adam.step()
    assert worst(got, p) < 1e-10


def test_the_climb_moves_mean_and_rho_of_every_layer_also_where_only_cross_entropy_pulls():
    method, phi = method_of(beta=0.0), fresh()
    moved, _ = method.climb(make_batch(), FEW, phi.clone())
    for before, after in zip(phi.split(FEW.sizes, 1), moved.split(FEW.sizes, 1), strict=True):
        assert ((after - before).abs() > 1e-3).float().mean(1).min() > 0.9


def test_the_climb_raises_the_cross_entropy_it_is_meant_to_raise():
    method, batch, phi = method_of(beta=0.0, adv_steps=30), make_batch(), fresh()

    def mean_loss(at):
        torch.manual_seed(11)
        with torch.no_grad():
            losses = [
                cross_entropies(method.predict(method.picture(batch.x, FEW, at)), batch.target).mean()
                for _ in range(50)
            ]
        return torch.stack(losses).mean()

    moved, logs = method.climb(batch, FEW, phi.clone())
    assert mean_loss(moved) > mean_loss(phi) + 0.05
    assert logs["L_adv_after"] != logs["L_adv"]


def test_a_positive_beta_pushes_from_the_prior_and_a_negative_one_pulls_to_it():
    phi = fresh()
    moved = {
        beta: method_of(beta=beta).climb(make_batch(), FEW, phi.clone())[0].detach() for beta in (1e3, -1e3)
    }
    assert FEW.kl(moved[1e3]) > FEW.kl(phi) > FEW.kl(moved[-1e3])


def test_the_climb_touches_neither_theta_nor_its_gradients_nor_running_statistics():
    method, batch = method_of(), make_batch()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.climb(batch, FEW, fresh())
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in method.parameters())


def test_running_statistics_after_a_step_are_those_of_erm():
    batch, method = make_batch(), method_of()
    erm = erm_like(method)
    erm(batch)
    method(batch)
    assert worst(dict(method.named_buffers()), dict(erm.named_buffers())) < 1e-12


def test_without_steps_the_posterior_stays_and_nothing_adversarial_is_logged():
    method, phi = method_of(adv_steps=0), fresh()
    same, logs = method.climb(make_batch(), FEW, phi)
    assert same is phi and logs == {}
    assert set(method(make_batch()).logs) == {"consistency"}


def test_with_the_released_values_no_weight_moves_by_more_than_a_ten_thousandth():
    """The claim of the module's docstring."""
    method, phi = make_method("AdvBayes"), fresh()
    moved, _ = method.climb(make_batch(), FEW, phi.clone())
    assert 1e-6 < (moved - phi).abs().max() < 1e-4
    assert math.log1p(math.exp(-1)) == pytest.approx(0.31, abs=0.01)


def test_one_seed_gives_one_loss_and_another_gives_another():
    losses = []
    for seed in (1, 1, 2):
        method = method_of()
        torch.manual_seed(seed)
        losses.append(method(make_batch()).loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_images_of_six_channels_pass():
    method = method_of(make_info(in_channels=6))
    assert method(make_batch(in_channels=6)).loss.isfinite()
