"""DANN: what the discriminator learns, and what of it reaches the features."""

import math

import numpy as np
import pytest
import torch

from abra_wilds import run_config
from abra_wilds.methods.domains.dann import DANNConfig
from abra_wilds.types import InputError
from tests import reference
from tests.helpers import (
    array,
    assert_is_erm,
    clean_map,
    erm_like,
    gradients,
    make_batch,
    make_method,
    target_arrays,
    worst,
)

G = (0, 1, 4, 0, 2, 2, 0, 1)  # the training groups are 0, 1, 2 and 4
DOMAINS = np.array([0, 1, 3, 0, 2, 2, 0, 1])
CONSTANT = {"ramp": False}


def dann(progress=0.5, **fields):
    return make_method("DANN", DANNConfig(**fields), progress=progress)


def part(found, *prefixes):
    """The gradients whose names start so."""
    return {name: g for name, g in found.items() if name.startswith(prefixes)}


def slow_discriminator(method, f):
    """Linear, batch norm over the batch (eps 1e-5), ReLU, twice; then linear."""
    layers = list(method.discriminator)
    for at in (0, 3):
        f = f @ array(layers[at].weight).T + array(layers[at].bias)
        f = (f - f.mean(0)) / np.sqrt(f.var(0) + 1e-5) * array(layers[at + 1].weight) + array(
            layers[at + 1].bias
        )
        f = np.maximum(f, 0)
    return f @ array(layers[6].weight).T + array(layers[6].bias)


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_is_cross_entropy_plus_beta_times_that_of_the_domains(w):
    method, batch = dann(penalty_weight=2.5), make_batch(G, w=w)
    f = clean_map(method, batch).mean((2, 3))
    y, y_b, share = target_arrays(batch.target)
    ce = reference.cross_entropy(
        f @ array(method.head.weight).T + array(method.head.bias), reference.dense(y, 5, y_b, share)
    )
    domain_loss = reference.cross_entropy(slow_discriminator(method, f), reference.dense(DOMAINS, 4))
    out = method(batch)
    assert out.logs["domain_loss"].item() == pytest.approx(domain_loss, abs=1e-10)
    assert out.loss.item() == pytest.approx(ce + 2.5 * domain_loss, abs=1e-10)


def test_the_discriminator_knows_the_bio_batches_of_training_alone():
    method = dann()
    assert method.discriminator[-1].out_features == 4
    assert method.domain_of.tolist() == [0, 1, 2, -1, 3, -1]
    with pytest.raises((IndexError, RuntimeError)):
        method(make_batch((0, 3, 0, 1)))


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_featurizer_gets_minus_gamma_times_the_domain_gradient_and_the_discriminator_all_of_it(gamma):
    method, batch = dann(penalty_weight=2.5, gamma=gamma, **CONSTANT), make_batch(G)
    erm = erm_like(method)
    domains = method.discriminator(method.features(batch.x))
    domain_loss = torch.nn.functional.cross_entropy(domains, torch.from_numpy(DOMAINS))
    plain, full = gradients(method, 2.5 * domain_loss), gradients(method, method(batch).loss)
    ce = gradients(erm, erm(batch).loss)
    want = {name: ce[name] - gamma * g for name, g in part(plain, "net.").items()}
    assert worst(part(full, "net."), want) < 1e-12
    assert worst(part(full, "head."), part(ce, "head.")) < 1e-12
    assert worst(part(full, "discriminator."), part(plain, "discriminator.")) < 1e-12
    assert max(g.abs().max() for g in part(plain, "net.").values()) > 1e-3


@pytest.mark.parametrize("fields, progress", [({"gamma": 0.0}, 0.5), ({}, 0.0)])
def test_without_reversal_featurizer_and_classifier_learn_as_by_erm_while_the_discriminator_learns(
    fields, progress
):
    method, batch = dann(progress, **fields), make_batch(G)
    erm = erm_like(method)
    found = gradients(method, method(batch).loss)
    assert worst(part(found, "net.", "head."), gradients(erm, erm(batch).loss)) < 1e-12
    assert found["discriminator.0.weight"].abs().max() > 1e-6


@pytest.mark.parametrize("w", [None, 0.63])
def test_without_weight_loss_and_gradients_are_those_of_erm(w):
    method = dann(penalty_weight=0.0)
    a, _ = assert_is_erm(method, make_batch(G, w=w), "discriminator.")
    assert not any(g.any() for g in part(gradients(method, a.loss), "discriminator.").values())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.99])
def test_gamma_ramps_as_the_hyperbolic_tangent_of_five_times_the_progress(p):
    for fields, want in ({"gamma": 3.0}, 3 * math.tanh(5 * p)), ({"gamma": 3.0, **CONSTANT}, 3.0):
        assert dann(p, **fields)(make_batch(G)).logs["gamma"].item() == pytest.approx(want, abs=1e-12)


def test_reversal_makes_features_forget_the_domain_that_the_discriminator_finds_without_it():
    def domain_loss_after_training(gamma):
        method, batch = dann(gamma=gamma, **CONSTANT), make_batch((0, 1) * 8)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        for _ in range(60):
            out = method(batch)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        return out.logs["domain_loss"].item()

    assert domain_loss_after_training(0.0) < 0.05
    assert domain_loss_after_training(3.0) > 0.2


def test_each_parameter_is_trained_once_at_its_own_multiple_of_the_rate():
    method = dann(classifier_lr_factor=10.0, discriminator_lr_factor=5.0)
    factors = {id(p): factor for parameters, factor in method.parameter_groups() for p in parameters}
    assert len(factors) == sum(len(list(p)) for p, _ in method.parameter_groups())
    for name, p in method.named_parameters():
        assert factors.pop(id(p)) == {"net": 1.0, "head": 10.0, "discriminator": 5.0}[name.split(".")[0]]
    assert not factors


@pytest.mark.parametrize(
    "given, said",
    [
        ({"train_loader": "plate"}, "--train_loader .*got plate"),
        ({"n_groups_per_batch": 1}, "at least 2 bio-batches"),
        ({"dann_penalty_weight": 0.0, "dann_gamma": 0.5}, "--dann_penalty_weight"),
        ({"dann_gamma": 0.0, "dann_ramp": True}, "--dann_gamma"),
    ],
)
def test_batches_of_one_domain_and_flags_without_effect_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        run_config("DANN", **given)
