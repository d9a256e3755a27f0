"""CutMix inside a bio-batch, across the batch and between partners."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abra_wilds.config.data import MIXES
from abra_wilds.data.augment.mixing import PARTNERS, draw_box, inside_groups, mix
from abra_wilds.types import Batch, Target, groups_of

G = torch.tensor([4, 9, 4, 4, 9, 2, 9, 4])


class Fixed:
    """A generator that draws lam as asked and the rest as numpy does."""

    def __init__(self, lam, seed=0):
        self.rng, self.lam = np.random.default_rng(seed), lam

    def beta(self, a, b):
        return self.lam

    def __getattr__(self, name):
        return getattr(self.rng, name)


def cutmix(batch, rng, **kwargs):
    """The kind that stays inside a bio-batch."""
    return mix(batch, "cutmix", rng, **kwargs)


def make_batch(H=24, W=20, dtype=torch.float32):
    """Image n holds 100 * n in channel 0 and its bio-batch in channel 1."""
    n = torch.arange(len(G))
    x = torch.stack([100 * n, G], 1)[:, :, None, None].expand(-1, -1, H, W).to(dtype).contiguous()
    return Batch(x, Target(n % 5), G, G[:, None], n, groups_of(G))


def test_lam_1_is_the_identity():
    batch = make_batch()
    assert cutmix(batch, Fixed(1.0)) is batch


def test_lam_0_and_a_centred_box_replaces_the_whole_image_and_target():
    class Centred(Fixed):
        def integers(self, high):
            return high // 2

    batch = make_batch()
    mixed = cutmix(batch, Centred(0.0))
    partner = (mixed.x[:, 0, 0, 0] / 100).long()
    assert torch.equal(mixed.x, batch.x[partner]) and mixed.target.w == 0
    assert torch.equal(mixed.target.dense(5), batch.target.dense(5)[partner])


def test_rows_of_Y_sum_to_1():
    rng = np.random.default_rng(0)
    for _ in range(20):
        Y = cutmix(make_batch(), rng).target.dense(5, torch.float64)
        assert torch.allclose(Y.sum(1), torch.ones(len(G), dtype=torch.float64), atol=1e-12)


def test_share_of_partner_pixels_is_exactly_1_minus_w_and_no_pair_crosses():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(50):
        batch = make_batch()
        mixed = cutmix(batch, rng)
        if mixed is batch:
            continue
        moved = mixed.x[:, 0] != batch.x[:, 0]  # (N, H, W)
        for n in torch.nonzero(moved.flatten(1).any(1)).flatten().tolist():
            share = moved[n].double().mean().item()
            assert share == pytest.approx(1 - mixed.target.w, abs=1e-12)
            values = mixed.x[n, 0][moved[n]].unique()
            assert len(values) == 1, "one partner"
            partner = int(values[0]) // 100
            assert int(mixed.target.y_b[n]) == int(batch.target.y[partner])
            seen.add((n, partner))
        assert torch.equal(mixed.x[:, 1], batch.x[:, 1]), "every pixel stays in its bio-batch"
    assert all(G[a] == G[b] for a, b in seen) and len(seen) > 15
    assert all(a != 5 for a, _ in seen), "the only image of its bio-batch keeps its pixels"


def test_the_box_is_one_for_the_batch_and_of_the_drawn_size():
    rng = np.random.default_rng(2)
    for lam in (0.1, 0.5, 0.9):
        boxes = [draw_box(rng, lam, 240, 200) for _ in range(400)]
        heights, widths = np.array([(b - t, r - left) for t, b, left, r in boxes]).T
        assert heights.max() == int(240 * np.sqrt(1 - lam)) and widths.max() == int(200 * np.sqrt(1 - lam))
        assert all(0 <= t < b <= 240 and 0 <= left < r <= 200 for t, b, left, r in boxes), (
            "clipped, never empty"
        )
    mixed = cutmix(make_batch(), Fixed(0.5, seed=3))
    moved = (mixed.x[:, 0] != make_batch().x[:, 0]).any(0)  # (H, W)
    rows, columns = moved.any(1).sum(), moved.any(0).sum()
    assert moved.sum() == rows * columns, "the union over the batch is one box"


def test_lam_follows_beta():
    rng = np.random.default_rng(4)
    uniform = [cutmix(make_batch(64, 64), rng).target.w for _ in range(400)]
    narrow = [cutmix(make_batch(64, 64), rng, alpha=50.0).target.w for _ in range(400)]
    # Clipping shrinks boxes, so the mean lies above Beta's 1/2; the spread is what alpha sets.
    assert 0.5 < np.mean(uniform) < 0.8 and np.std(uniform) > 1.5 * np.std(narrow)


def test_partners_are_a_permutation_inside_each_bio_batch():
    rng = np.random.default_rng(5)
    partners = torch.stack([inside_groups(rng, make_batch()) for _ in range(200)])  # (200, N)
    assert (partners.sort(1).values == torch.arange(len(G))).all() and (G[partners] == G).all()
    share = (partners[:, 0] == 2).double().mean().item()
    assert share == pytest.approx(1 / 4, abs=0.12), "each of the four rows alike"


def test_prob_is_the_share_of_batches_that_are_mixed():
    rng = np.random.default_rng(6)
    batch = make_batch()
    mixed = sum(cutmix(batch, rng, prob=0.3) is not batch for _ in range(500))
    # The standard deviation is 0.02; a box of less than a pixel also leaves a batch as it is.
    assert 0.2 < mixed / 500 < 0.4
    assert cutmix(batch, rng, prob=0.0) is batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_given_batch_is_left_alone_and_draws_come_from_rng_alone(dtype):
    batch, untouched = make_batch(dtype=dtype), make_batch(dtype=dtype)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = cutmix(batch, np.random.default_rng(7))
    b = cutmix(batch, np.random.default_rng(7))
    assert torch.equal(batch.x, untouched.x) and batch.target.y_b is None
    assert torch.equal(a.x, b.x) and a.target.w == b.target.w and a.x.dtype == dtype
    assert torch.equal(state[0], torch.get_rng_state()) and np.array_equal(state[1], np.random.get_state()[1])
    assert (
        a.groups is batch.groups
        and torch.equal(a.rows, batch.rows)
        and torch.equal(a.metadata, batch.metadata)
    )


def test_every_kind_of_the_flag_is_known_and_none_mixes_nothing():
    batch = make_batch()
    assert set(MIXES) == {"none", *PARTNERS}
    rng = np.random.default_rng(0)
    assert mix(batch, "none", rng) is batch
    assert rng.random() == np.random.default_rng(0).random(), "nothing was drawn"


def test_partners_across_the_batch_are_a_permutation_that_crosses_bio_batches():
    rng, pairs = np.random.default_rng(8), set()
    for _ in range(60):
        mixed = mix(make_batch(), "cutmix_any", rng)
        if mixed.target.y_b is None:
            continue
        moved = mixed.x[:, 0] != make_batch().x[:, 0]  # (N, H, W)
        for n in torch.nonzero(moved.flatten(1).any(1)).flatten().tolist():
            partner = int(mixed.x[n, 0][moved[n]][0]) // 100
            assert int(mixed.target.y_b[n]) == partner % 5
            pairs.add((n, partner))
    assert len(pairs) == 8 * 7, "every image meets every other"


def test_lisa_exchanges_the_box_between_the_halves_and_leaves_the_target_hard():
    batch, rng = make_batch(), np.random.default_rng(9)
    mixed = mix(batch, "lisa", rng, alpha=2.0)
    assert mixed.target is batch.target
    again = np.random.default_rng(9)
    again.random()
    top, bottom, left, right = draw_box(again, again.beta(2.0, 2.0), 24, 20)
    assert top < bottom and left < right
    for n in range(8):
        for i in range(24):
            for j in range(20):
                inside = top <= i < bottom and left <= j < right
                assert mixed.x[n, 0, i, j] == 100 * ((n + 4) % 8 if inside else n)
