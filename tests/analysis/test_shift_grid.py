"""Draws of label shifts against closed forms, and grids that are refused."""

from math import inf

import numpy as np
import pytest

from abra_wilds.analysis.shift_grid import Grid, adaptations, draw, drawn_by
from abra_wilds.config.evaluation import GROUPED_TTA
from abra_wilds.errors import InputError
from abra_wilds.tta.adapters import ADAPTERS

DRAWS = 3000


def test_without_a_shift_every_row_is_drawn_equally_often_and_all_are_the_bio_batch():
    labels = np.array([0] * 9 + [1] * 3)
    rng = np.random.default_rng(0)
    drawn = np.array([np.bincount(draw(labels, inf, 4, rng), minlength=12) for _ in range(DRAWS)])
    assert drawn.max() == 1 and (drawn.sum(1) == 4).all()
    error = (4 / 12 * 8 / 12 / DRAWS) ** 0.5
    assert np.abs(drawn.mean(0) - 4 / 12).max() < 4.5 * error
    assert draw(labels, inf, None, rng).tolist() == list(range(12))
    assert draw(labels, inf, 50, rng).tolist() == list(range(12))


@pytest.mark.parametrize("alpha", [10.0, 1.0, 0.1, 0.01])
def test_class_counts_have_mean_and_variance_of_a_dirichlet_multinomial(alpha):
    """With k classes, n images: mean n / k, variance n (1/k) (1 - 1/k) (n + k alpha) / (1 + k alpha)."""
    k, n = 3, 20
    labels = np.random.default_rng(1).permutation(np.repeat([2, 5, 7], n))
    rng = np.random.default_rng(0)
    rows = [draw(labels, alpha, n, rng) for _ in range(DRAWS)]
    assert all(len(r) == n and len(set(r.tolist())) == n for r in rows)
    counts = np.array([np.bincount(labels[r], minlength=8)[[2, 5, 7]] for r in rows])
    variance = n / k * (1 - 1 / k) * (n + k * alpha) / (1 + k * alpha)
    assert np.abs(counts.mean(0) - n / k).max() < 4.5 * (variance / DRAWS) ** 0.5
    assert np.abs(counts.var(0) / variance - 1).max() < 0.15
    assert {len(set(r.tolist())) for r in rows} == {n}


def test_images_of_a_class_are_drawn_equally_often():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    rng = np.random.default_rng(0)
    drawn = np.array([np.bincount(draw(labels, 1.0, 3, rng), minlength=8) for _ in range(DRAWS)])
    assert np.ptp(drawn.mean(0)) < 0.06


def test_a_class_never_gives_more_images_than_it_has_and_then_there_are_fewer():
    labels = np.array([0] * 2 + [1] * 30 + [4] * 5)
    sizes = np.bincount(labels)
    seen = []
    for k in range(300):
        rng, again = (drawn_by(0, 3, (0.1, None), k) for _ in range(2))
        rows = draw(labels, 0.1, None, rng)
        again.permutation(37)
        asked = again.multinomial(37, again.dirichlet([0.1] * 3))
        assert np.bincount(labels[rows], minlength=5)[[0, 1, 4]].tolist() == [
            min(count, size) for count, size in zip(asked, sizes[[0, 1, 4]], strict=True)
        ]
        assert len(set(rows.tolist())) == len(rows) and (np.diff(rows) > 0).all()
        seen.append(len(rows))
    assert min(seen) == 2 and max(seen) > 30


def test_draws_differ_by_seed_bio_batch_alpha_size_and_number_and_repeat_themselves():
    labels = np.arange(40) % 4
    keys = [
        (s, g, (a, n), k) for s in (0, 1) for g in (0, 1) for a in (inf, 1.0) for n in (8, 9) for k in (0, 1)
    ]
    rows = [tuple(draw(labels, *key[2], drawn_by(*key))) for key in keys]
    assert len(set(rows)) == len(keys)
    assert rows == [tuple(draw(labels, *key[2], drawn_by(*key))) for key in keys]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"sizes": [8, 0]}, "--sizes must be whole numbers from 1 up or all; got 0"),
        ({"sizes": []}, "--sizes .* got none"),
        ({"alphas": [1.0, -0.5]}, "--alphas must be positive numbers or inf; got -0.5"),
        ({"alphas": [float("nan")]}, "--alphas .* got nan"),
        ({"draws": 0}, "--draws .* got 0"),
        ({"adapters": ["foo"]}, "tta .*foo"),
        ({"adapters": ["plate_bn,size=3"]}, "plate_bn,size=3"),
        ({"adapters": ["batch_bn"]}, "batch_bn .*plate_bn"),
        ({"adapters": ["controls_bn"]}, "controls_bn,controls=all"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(flags, said):
    with pytest.raises(InputError, match=said):
        Grid(**flags)


def test_an_adaptation_to_another_group_is_refused():
    with pytest.raises(InputError, match=r"plate_bn by experiment.*a plate"):
        adaptations(["plate_bn,group=experiment"], "plate")


def test_all_adaptations_are_those_of_tta_and_controls_come_where_they_are_known():
    without, with_them = (adaptations(None, "plate", controls=c) for c in (False, True))
    assert next(iter(without)) == "none"
    assert {e.tta for e in with_them.values()} == {"none", *GROUPED_TTA} == set(ADAPTERS) - {"batch_bn"}
    assert without.items() <= with_them.items()
    assert {e.tta_controls for e in without.values()} == {"none"} and "controls_bn" not in without
    assert with_them.keys() - without.keys() == {"controls_bn,controls=all", "eb_bn,controls=all"}
    assert {e.tta_min for e in with_them.values()} == {2} and with_them["mixed_bn"].tta_prior == 256
