"""Whatever terms ABRA's loss has, it learns to predict, and shifts keep up with sigma where they should."""

import dataclasses

import numpy as np
import pytest
import torch

from abra_wilds.functional.losses import cosine_logits
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.reach import ShiftReach, remark_on
from abra_wilds.types import StepContext, Target
from tests.helpers import groups_of, make_batch, make_method

TERMS = [
    {"terms": ("ce",)},
    {"terms": ("arc",)},
    {"terms": ("ce", "arc")},
    {"terms": ("ce", "js")},
    {"terms": ("arc", "js")},
    {"terms": ("ce", "arc", "js")},
    {"lam": 0.0},
    {"lam": 1.0},
    {"terms": ("arc", "js"), "share_arc_weight": True},
]


@pytest.mark.parametrize("own", TERMS, ids=str)
def test_every_combination_of_terms_learns_an_easy_task(own):
    """Five classes of images that differ in one channel's level and contrast each."""
    method = make_method("ABRA", ABRAConfig(**own), lr=0.01)
    batch = make_batch((0,) * 40, seed=3)
    y = torch.arange(40) % 5
    x = 0.3 * batch.x
    for k in range(5):
        x[y == k, k % 3] += 3.0 if k < 3 else -3.0
    batch = dataclasses.replace(batch, x=x, target=Target(y))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        method(batch).loss.backward()
        optimizer.step()
    accuracy = (method.predict(x).argmax(1) == y).double().mean().item()
    assert accuracy > 0.9


@pytest.mark.parametrize("own", [{"terms": ("arc",)}, {"terms": ("arc", "js")}, {"lam": 0.0}], ids=str)
def test_without_cross_entropy_logits_are_scaled_cosines(own):
    cfg = ABRAConfig(**own)
    method, batch = make_method("ABRA", cfg), make_batch()
    f = method.features(batch.x)
    expected = cfg.scale * cosine_logits(f, method.arc_weight)
    torch.testing.assert_close(method.predict(batch.x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(method(batch).logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", ["absolute", "sigma"])
def test_only_in_units_of_sigma_does_the_shift_keep_its_relative_size(unit):
    """Features that grow fourfold: the shift in units of their deviation stays, or falls to a quarter."""
    cfg = ABRAConfig(k_unit=unit, alpha=0.0, k_bound=float("inf"))
    method, batch = make_method("ABRA", cfg), make_batch((0,) * 12)
    method(batch)
    noise = (torch.ones(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64))
    (point,) = method.perturb.clean(method.net, batch, observe=False)
    relative = []
    for factor in (1.0, 4.0):
        sigma = factor * point.sigma.detach()
        d_mu, d_sigma = method.perturb["res4"].shifts(noise, sigma)
        relative.append(((d_mu / sigma).mean().item(), (d_sigma / sigma).mean().item()))
    kept = 1.0 if unit == "sigma" else 0.25
    np.testing.assert_allclose(relative[0], 0.1, rtol=1e-9)
    np.testing.assert_allclose(relative[1], 0.1 * kept, rtol=1e-9)


def test_the_unit_is_a_constant_of_phase_2():
    """dL/dtheta does not pass through the sigma that K are multiples of: nothing to gain by a small sigma."""
    method = make_method("ABRA", ABRAConfig(k_unit="sigma"))
    method(make_batch())
    sigma = torch.rand(6, dtype=torch.float64, requires_grad=True)
    noise = (torch.ones(6, dtype=torch.float64),) * 2
    assert not any(shift.requires_grad for shift in method.perturb["res4"].shifts(noise, sigma))


def test_reach_is_measured_by_root_mean_squares():
    reach, rng = ShiftReach(), np.random.default_rng(0)
    clean, shifted = (torch.from_numpy(rng.normal(size=(6, 5))) for _ in range(2))
    groups = groups_of((0, 0, 1, 1, 1, 2))
    found = reach.measure(clean, shifted, groups, StepContext())
    means = np.array([clean[rows].mean(0).numpy() for rows in groups])
    pairs = [np.square(means[i] - means[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["logit_shift"].item() == pytest.approx(
        np.sqrt(np.square(shifted.numpy() - clean.numpy()).mean())
    )
    assert found["bio_batch_distance"].item() == pytest.approx(np.sqrt(np.mean(pairs)))


def test_of_one_bio_batch_a_step_the_distance_is_to_the_step_before_in_its_epoch():
    reach, rng = ShiftReach(), np.random.default_rng(1)
    batches = [torch.from_numpy(rng.normal(size=(4, 5))) for _ in range(3)]
    groups = groups_of((0,) * 4)
    logs = [
        reach.measure(z, z, groups, StepContext(0.1, log=True, epoch=epoch))
        for z, epoch in zip(batches, (0, 0, 1), strict=True)
    ]
    assert [("bio_batch_distance" in found) for found in logs] == [False, True, False]
    gap = (batches[1].mean(0) - batches[0].mean(0)).square().mean().sqrt()
    assert logs[1]["bio_batch_distance"].item() == pytest.approx(gap.item())
    assert reach.measure(batches[0], batches[0], groups, StepContext(0.1, log=False, epoch=1)) == {}


def test_a_remark_is_made_below_a_tenth_of_the_distance_alone():
    logs = {"L_clean": 2.0, "L_shifted": 2.002, "R_JS": 4e-4, "bio_batch_distance": 1.2}
    said = remark_on({**logs, "logit_shift": 0.08})
    assert "0.08" in said and "1.2 apart" in said and "0.1 %" in said and "0.0004" in said
    assert remark_on({**logs, "logit_shift": 0.13}) is None
    assert remark_on({"L_clean": 2.0}) is None
