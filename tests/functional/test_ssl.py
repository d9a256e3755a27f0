"""Losses, schedules and masks of self-supervision, against slow loops and lightly."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from abra_wilds.functional.ssl import block_masks, momentum_at, nt_xent, patch_loss, projection_spread, ramp
from abra_wilds.nets.heads import lightly
from tests.helpers import array

CPU = torch.device("cpu")


def pair(n=5, D=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, D, generator=g, dtype=torch.float64)


def slow_nt_xent(z_a, z_b, temperature):
    """Two loops over all views, as the paper's equation reads."""
    z = [v / np.linalg.norm(v) for v in np.concatenate([z_a, z_b])]
    N, losses = len(z_a), []
    for i in range(2 * N):
        partner = (i + N) % (2 * N)
        others = sum(math.exp(z[i] @ z[k] / temperature) for k in range(2 * N) if k != i)
        losses.append(-math.log(math.exp(z[i] @ z[partner] / temperature) / others))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_nt_xent_equals_the_double_loop_and_lightlys(temperature):
    a, b = pair()
    got = nt_xent(a, b, temperature).item()
    assert got == pytest.approx(slow_nt_xent(array(a), array(b), temperature), abs=1e-12)
    assert got == pytest.approx(lightly("loss").NTXentLoss(temperature)(a, b).item(), abs=1e-12)


def test_nt_xent_of_an_infinite_temperature_and_of_equal_views_is_the_logarithm_of_the_other_views():
    a, b = pair()
    assert nt_xent(a, b, 1e12).item() == pytest.approx(math.log(9), abs=1e-10)
    same = a[:1].expand(5, 4)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(9), abs=1e-12)


def test_nt_xent_does_not_change_when_views_are_swapped_or_scaled_and_its_gradient_is_finite():
    a, b = pair()
    assert nt_xent(a, b, 0.2).item() == pytest.approx(nt_xent(b, 3 * a, 0.2).item(), abs=1e-12)
    a.requires_grad_()
    assert torch.autograd.grad(nt_xent(a, b, 0.2), a)[0].isfinite().all()


def test_spread_is_1_on_the_sphere_and_0_after_collapse():
    g = torch.Generator().manual_seed(0)
    assert projection_spread(torch.randn(4000, 64, generator=g)).item() == pytest.approx(1.0, abs=0.01)
    assert projection_spread(torch.ones(8, 64)).item() == pytest.approx(0.0, abs=1e-6)
    z = torch.randn(7, 5, generator=g, dtype=torch.float64)
    unit = array(z) / np.linalg.norm(array(z), axis=1, keepdims=True)
    assert projection_spread(z).item() == pytest.approx(unit.std(0).mean() * math.sqrt(5), abs=1e-12)


def test_momentum_rises_from_its_start_to_1_along_half_a_cosine():
    values = [momentum_at(0.9, p) for p in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == 1.0
    assert values[5] == pytest.approx(0.95)
    assert all(a < b for a, b in pairwise(values))
    scheduler = lightly("utils.scheduler").cosine_schedule
    assert values[3] == pytest.approx(scheduler(3, 11, 0.9, 1.0))


def test_ramp_is_straight_and_then_flat():
    assert [ramp(0.04, 0.07, e, 30) for e in (0, 10, 30, 99)] == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert ramp(0.04, 0.07, 0, 0) == 0.07


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (3, 7)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_masks_keep_their_bounds(grid, share):
    torch.manual_seed(0)
    low, high = 0.1, 0.5
    for _ in range(5):
        masks, hidden, weight = block_masks(12, grid, share, (low, high), CPU)
        counts = masks.sum((1, 2))
        patches = grid[0] * grid[1]
        assert (counts > 0).sum() == int(12 * share)
        hit = counts[counts > 0]
        assert hit.min() >= max(1, int(low * patches))
        assert hit.max() <= high * patches
        assert torch.equal(masks.flatten().nonzero().flatten(), hidden)
        assert weight.sum().item() == pytest.approx(share, abs=1e-12)


def test_masks_are_blocks_spread_evenly_over_the_ratios():
    torch.manual_seed(0)
    masks, _, _ = block_masks(200, (14, 14), 1.0, (0.1, 0.5), CPU)
    shares = masks.double().mean((1, 2))
    # One image in each of 200 equal parts of the interval; a mask rounds down to whole patches.
    even = torch.linspace(0.1, 0.5, 201, dtype=torch.float64)
    shares = shares.sort().values
    assert (shares <= even[1:] + 1e-9).all()
    assert (shares >= even[:-1] - 1 / 196).all()
    along = (masks[:, 1:] & masks[:, :-1]).sum() / masks.sum()
    assert along > shares.mean() + 0.2  # of single patches drawn alone, no more than their share


def test_masks_are_those_of_torchs_seed_alone():
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(block_masks(6, (6, 6), 0.5, (0.1, 0.5), CPU)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_patch_loss_equals_the_loop_over_images_and_lightlys():
    torch.manual_seed(0)
    masks, hidden, weight = block_masks(6, (4, 4), 0.5, (0.1, 0.5), CPU)
    t, s = torch.randn(2, len(hidden), 5, dtype=torch.float64)
    images, slow = (hidden // 16).numpy(), 0.0
    for i in set(images.tolist()):
        of_image = [m for m in range(len(images)) if images[m] == i]
        for m in of_image:
            p, z = np.exp(array(t)[m]), np.exp(array(s)[m])
            slow -= (p / p.sum()) @ np.log(z / z.sum()) / len(of_image)
    got = patch_loss(t, s, weight).item()
    assert got == pytest.approx(slow / 6, abs=1e-12)
    theirs = lightly("loss").IBOTPatchLoss(5, teacher_temp=1.0, student_temp=1.0)
    assert got == pytest.approx(theirs(t, s, masks).item(), rel=1e-6)  # its weights are float32
