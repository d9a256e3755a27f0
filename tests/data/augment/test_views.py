"""Views against a slow reference, one image at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from abra_wilds.data.augment.views import BLUR, blur_matrix, draw_view_squares, make_views, resize_matrix
from abra_wilds.types import InputError, ViewPlan


def images(n=8, C=3, side=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, C, side, side), dtype=torch.uint8, generator=g)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plan(sizes=(0,), area=(0.2, 1.0), jitter=0.0, blur=0.0):
    n = len(sizes)
    return ViewPlan(tuple(sizes), (area,) * n, jitter, (blur,) * n)


def slow_blur(image, sigma):
    """A Gaussian along rows and columns of (H, W), cut at the borders and normalised, by loops."""
    n = len(image)
    W = np.array([[math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in range(n)] for i in range(n)])
    W /= W.sum(1, keepdims=True)
    return W @ image @ W.T


def slow_view(x, S, area, jitter, blur, g):
    """The draws in their order, and then each image and channel by itself."""
    N, C, H, _ = x.shape
    share = area[0] + (area[1] - area[0]) * torch.rand(N, generator=g)
    sides = (share.sqrt() * H).round().clamp(1, H).long()
    top, left = ((torch.rand(N, generator=g) * (H - sides + 1)).long() for _ in range(2))
    transpose, down, across = (torch.rand(N, generator=g) < 0.5 for _ in range(3))
    blurred = torch.rand(N, generator=g) < blur
    sigma = BLUR[0] + (BLUR[1] - BLUR[0]) * torch.rand(N, generator=g)
    gain, offset = jitter * torch.randn(2, N, C, 1, 1, generator=g)
    out = np.empty((N, C, S, S))
    for n in range(N):
        for c in range(C):
            i, j, s = top[n], left[n], sides[n]
            part = x[n, c, i : i + s, j : j + s].double()[None, None]
            image = F.interpolate(part, size=(S, S), mode="bilinear", antialias=True)[0, 0].numpy()
            image = slow_blur(image, sigma[n].item()) if blurred[n] else image
            image = image.T if transpose[n] else image
            image = image[::-1] if down[n] else image
            image = image[:, ::-1] if across[n] else image
            image = (image - image.mean()) / image.std(ddof=1)
            out[n, c] = image * (1 + gain[n, c].item()) + offset[n, c].item()
    return torch.from_numpy(out)


@pytest.mark.parametrize("C", [3, 6])
@pytest.mark.parametrize("S", [9, 24, 40])
def test_views_equal_the_reference_that_takes_images_one_by_one(C, S):
    x = images(C=C)
    got = make_views(x, plan((S,), (0.1, 0.9), 0.3, 0.5), generator())[0]
    want = slow_view(x, S, (0.1, 0.9), 0.3, 0.5, generator())
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 1e-3


def test_the_views_of_a_plan_are_drawn_one_after_another_with_their_own_size_and_blur():
    x = images()
    found = make_views(x, ViewPlan((0, 10), ((0.5, 1.0), (0.1, 0.3)), 0.2, (1.0, 0.0)), generator())
    g = generator()
    for got, S, area, blur in zip(found, (24, 10), ((0.5, 1.0), (0.1, 0.3)), (1.0, 0.0), strict=True):
        assert (got - slow_view(x, S, area, 0.2, blur, g)).abs().max() < 1e-3


@pytest.mark.parametrize("start, length, S", [(0, 30, 7), (3, 20, 20), (10, 9, 31), (29, 1, 4), (0, 30, 30)])
def test_a_resize_matrix_is_antialiased_interpolation_of_a_part(start, length, S):
    x = torch.rand(1, 1, 30, 30, dtype=torch.float64)
    M = resize_matrix(torch.tensor([start]), torch.tensor([length]), 30, S)[0].double()
    end = start + length
    want = F.interpolate(x[:, :, start:end, start:end], size=(S, S), mode="bilinear", antialias=True)
    assert (M @ x[0, 0] @ M.T - want[0, 0]).abs().max() < 1e-5


def test_a_blur_has_the_deviation_it_is_given_and_next_to_none_leaves_the_image():
    B = blur_matrix(torch.tensor([2.0, 1e-3]), 41)
    at = torch.arange(41.0)
    assert torch.allclose(B.sum(2), torch.ones(2, 41))
    assert (B[0, 20] @ (at - 20) ** 2).sqrt().item() == pytest.approx(2.0, abs=1e-3)
    assert torch.equal(B[1], torch.eye(41))


def test_squares_lie_in_the_image_and_show_the_share_they_should():
    sides, top, left = draw_view_squares(4000, 100, (0.2, 0.6), generator())
    assert min(top.min(), left.min()) == 0
    assert (top + sides).max() == 100
    assert (left + sides).max() == 100
    shares = (sides / 100) ** 2
    assert shares.min() >= 0.2 - 0.005
    assert shares.max() <= 0.6 + 0.008
    assert shares.mean().item() == pytest.approx(0.4, abs=0.01)
    assert (draw_view_squares(50, 100, (1.0, 1.0), generator())[0] == 100).all()


def test_without_jitter_every_image_and_channel_has_mean_0_and_deviation_1():
    view = make_views(images(), plan((16,), blur=0.5), generator())[0]
    assert view.mean((2, 3)).abs().max() < 1e-5
    assert (view.std((2, 3)) - 1).abs().max() < 1e-5


def test_jitter_moves_level_and_contrast_of_each_channel_by_itself_and_standardisation_does_not_undo_it():
    view = make_views(images(n=400, side=8), plan((8,), jitter=0.3), generator())[0]
    level, contrast = view.mean((2, 3)), view.std((2, 3))  # (N, C) each
    for values, centre in ((level, 0.0), (contrast, 1.0)):
        assert values.mean().item() == pytest.approx(centre, abs=0.03)
        assert values.std().item() == pytest.approx(0.3, abs=0.03)
        assert torch.corrcoef(values.T)[0, 1:].abs().max() < 0.2


def test_a_blank_channel_stays_blank_at_any_level():
    x = images(n=64, side=96)
    x[:, 1] = 201
    view = make_views(x, plan((64,), (0.05, 1.0), 0.0, 0.5), generator())[0]
    assert view[:, 1].abs().max() < 1e-3  # rounding of its level, which standardising must not blow up


def test_geometry_is_shared_by_the_channels_of_an_image_and_by_no_two_images():
    x = images(n=1, C=1).expand(8, 6, 24, 24)
    view = make_views(x, plan(), generator())[0]
    assert torch.equal(view, view[:, :1].expand_as(view))
    gaps = [(view[i] - view[j]).abs().max() for i in range(8) for j in range(i)]
    assert min(gaps) > 0.1


def test_all_eight_orientations_are_equally_frequent():
    x = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2).expand(4000, 1, 2, 2)
    view = make_views(x, plan(area=(1.0, 1.0)), generator())[0]
    _, counts = view.flatten(1).round(decimals=3).unique(dim=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 400


def test_views_are_those_of_their_seed_and_leave_the_images_and_other_generators_alone():
    x, state = images(), torch.get_rng_state()
    before = x.clone()
    a, b, c = (make_views(x, plan((8,), jitter=0.2, blur=0.5), generator(s))[0] for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(x, before)
    assert torch.equal(state, torch.get_rng_state())


def test_size_0_keeps_the_side_of_the_image_or_takes_the_one_given():
    assert make_views(images(), plan((0, 8)), generator())[0].shape[-2:] == (24, 24)
    assert [v.shape[-1] for v in make_views(images(), plan((0, 8)), generator(), size=(16, 16))] == [16, 8]


def test_what_is_not_square_is_refused():
    with pytest.raises(InputError, match=r"square .*24x20"):
        make_views(images()[..., :20], plan(), generator())
    with pytest.raises(InputError, match=r"--target_resolution .*16x32"):
        make_views(images(), plan(), generator(), size=(16, 32))
