"""Augmentation against slow references, one image at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from abra_wilds.compat.imports import torchvision_importable
from abra_wilds.data.augment import transforms as T
from abra_wilds.types import InputError


def images(n=24, C=3, side=32, seed=0):
    return torch.randint(
        0, 256, (n, C, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_standardise(image):
    """WILDS' formula for one (C, H, W) image, in float64."""
    values = np.asarray(image, dtype=np.float64)
    mean, std = values.mean((1, 2), keepdims=True), values.std((1, 2), ddof=1, keepdims=True)
    std[std == 0] = 1
    return torch.from_numpy((values - mean) / std)


def draws(g, n, *highs):
    return [torch.randint(high, (n,), generator=g).tolist() for high in highs]


def slow_rxrx1(x, g):
    """As WILDS writes it: rotate by 0, 90, 180 or 270 degrees, flip with p=.5."""
    turns, flips = draws(g, len(x), 4, 2)
    out = []
    for image, k, flip in zip(x, turns, flips, strict=True):
        image = np.rot90(image.numpy(), k, (1, 2))
        out.append(image[:, :, ::-1] if flip else image)
    return [np.ascontiguousarray(image) for image in out]


def slow_paper(x, g):
    """As ABRA 4.1 says it, with the crop first: flips, and with p=.5 a turn by 90, 180 or 270 degrees."""
    horizontal, vertical, turned, k = draws(g, len(x), 2, 2, 2, 3)
    corners = draws(g, len(x), x.shape[2] - 255, x.shape[3] - 255) if x.shape[2] > 256 else None
    out = []
    for n, image in enumerate(x.numpy()):
        if corners:
            top, left = corners[0][n], corners[1][n]
            image = image[:, top : top + 256, left : left + 256]
        image = image[:, :, ::-1] if horizontal[n] else image
        image = image[:, ::-1] if vertical[n] else image
        out.append(np.ascontiguousarray(np.rot90(image, 1 + k[n], (1, 2)) if turned[n] else image))
    return out


@pytest.mark.parametrize(("name", "slow"), [("rxrx1", slow_rxrx1), ("paper", slow_paper)])
def test_augment_equals_a_slow_reference_image_by_image(name, slow):
    x = images()
    got = T.augment(x, name, generator(1))
    expected = torch.stack([slow_standardise(image) for image in slow(x, generator(1))])
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=1e-5)


def test_paper_crops_256_and_resizes_to_512_where_images_are_larger():
    x = images(n=4, side=300)
    got = T.augment(x, "paper", generator(2))
    cropped = torch.stack([torch.from_numpy(image) for image in slow_paper(x, generator(2))])
    resized = F.interpolate(cropped.double(), size=(512, 512), mode="bilinear", align_corners=False)
    expected = torch.stack([slow_standardise(image) for image in resized])
    assert got.shape == (4, 3, 512, 512) and torch.allclose(got.double(), expected, atol=1e-4)
    assert T.augment(images(n=2, side=256), "paper", generator()).shape == (2, 3, 256, 256), "no upsampling"


def test_windows_that_were_cropped_before_are_not_cropped_again():
    x, g = images(n=4, side=300), generator(2)
    T.draw_paper(4, g)
    windows = T.crop(x, *T.draw_corners(4, 45, g), 256)
    whole = T.augment(x, "paper", generator(2))
    assert torch.equal(T.augment(windows, "paper", generator(2), cropped=True), whole)


def slow_iid(x, g):
    """Wu et al.'s flips, transposition and zoom; a zoomed pixel is the one at or above left of its place."""
    horizontal, vertical, transposed = draws(g, len(x), 2, 2, 2)
    S = x.shape[2]
    sides = torch.randint(S - round(S / 2) + 1, (len(x),), generator=g).tolist()
    shares = torch.rand(2, len(x), generator=g, dtype=torch.float64).tolist()
    out = []
    for n, image in enumerate(x.numpy()):
        image = image[:, :, ::-1] if horizontal[n] else image
        image = image[:, ::-1] if vertical[n] else image
        image = image.transpose(0, 2, 1) if transposed[n] else image
        side = round(S / 2) + sides[n]
        top, left = (math.floor(shares[i][n] * (S - side + 1)) for i in (0, 1))
        square = image[:, top : top + side, left : left + side]
        index = [math.floor(i * side / S) for i in range(S)]
        out.append(square[:, index][:, :, index])
    return out


def test_iid_equals_a_slow_reference_image_by_image_its_noise_included():
    x = images()
    g = generator(1)
    clean = torch.stack([slow_standardise(image) for image in slow_iid(x, g)])
    a, b = torch.randn(2, len(x), 3, 1, 1, generator=g).double()
    got = T.augment(x, "iid", generator(1))
    assert got.dtype == torch.float32 and got.is_contiguous()
    assert torch.allclose(got.double(), clean * (1 + 0.1 * a) + 0.1 * b, atol=1e-5)
    assert (got.double() - clean).abs().max() > 0.1


def test_zoom_stretches_the_square_as_nearest_interpolation_does_and_the_whole_image_is_itself():
    x = images(n=3, side=48)
    out = T.zoom(x, torch.tensor([0, 10, 7]), torch.tensor([0, 24, 1]), torch.tensor([48, 24, 37]))
    assert torch.equal(out[0], x[0])
    for n, (i, j, side) in enumerate([(10, 24, 24), (7, 1, 37)], 1):
        square = x[n : n + 1, :, i : i + side, j : j + side].float()
        assert torch.equal(out[n : n + 1].float(), F.interpolate(square, size=(48, 48), mode="nearest"))


def test_zoomed_squares_lie_inside_and_reach_every_side_and_corner():
    top, left, side = T.draw_squares(20_000, 8, generator(5))
    assert sorted(set(side.tolist())) == [4, 5, 6, 7, 8]
    assert min(top.min(), left.min()) == 0 and (torch.maximum(top, left) + side).max() == 8
    assert {(i, j) for i, j, s in zip(top.tolist(), left.tolist(), side.tolist(), strict=True) if s == 4} == {
        (i, j) for i in range(5) for j in range(5)
    }
    assert torch.bincount(side, minlength=9)[4:] / 20_000 == pytest.approx(np.full(5, 0.2), abs=0.02)


def test_pixel_noise_has_its_own_draw_for_every_image_and_channel_with_spread_a_tenth():
    x = torch.ones(400, 6, 1, 2) * torch.tensor([0.0, 1.0])
    out = T.pixel_noise(x.clone(), generator(6))
    offset, gain = out[..., 0, 0], out[..., 0, 1] - out[..., 0, 0]
    for draw, mean in ((offset, 0.0), (gain, 1.0)):
        assert draw.mean().item() == pytest.approx(mean, abs=0.01)
        assert draw.std().item() == pytest.approx(0.1, abs=0.01)
    assert len(gain.unique()) > 2300


def test_none_standardises_only_and_draws_nothing():
    x = images()
    expected = torch.stack([slow_standardise(image) for image in x])
    assert torch.allclose(T.augment(x, "none").double(), expected, atol=1e-5)
    assert torch.allclose(
        T.augment(x[..., :20], "none")[0].double(), slow_standardise(x[0, ..., :20]), atol=1e-5
    )


def test_rxrx1_is_wilds_transform():
    """Against torchvision's own rotate, flip and normalize, in WILDS' order, after its ToTensor."""
    if not torchvision_importable():
        pytest.skip("torchvision cannot be imported")
    from torchvision.transforms import functional as TF

    x = images(n=16, side=64)
    turns, flips = draws(generator(3), 16, 4, 2)
    expected = []
    for image, k, flip in zip(x, turns, flips, strict=True):
        image = TF.rotate(image, 90 * k) if k else image
        image = (TF.hflip(image) if flip else image).float() / 255
        std = image.std((1, 2))
        std[std == 0.0] = 1.0
        expected.append(TF.normalize(image, image.mean((1, 2)).tolist(), std.tolist()))
    assert torch.allclose(T.augment(x, "rxrx1", generator(3)), torch.stack(expected), atol=1e-5)


def test_reorient_does_each_of_the_eight_elements():
    x = images(n=8)
    bits = torch.tensor([[e & 4, e & 2, e & 1] for e in range(8)]).bool()
    out = T.reorient(x, *bits.T)
    for n, (transpose, down, across) in enumerate(bits.tolist()):
        y = x[n].transpose(1, 2) if transpose else x[n]
        y = y.flip(1) if down else y
        assert torch.equal(out[n], y.flip(2) if across else y)
    assert len({out[n].numpy().tobytes() for n in range(8)}) == 8


@pytest.mark.parametrize(("draw", "shares"), [
    # A quarter turn and a flip give all eight alike.
    (T.draw_rxrx1, dict.fromkeys(range(8), 1 / 8)),
    (T.draw_iid, dict.fromkeys(range(8), 1 / 8)),
    # The paper's flips give four elements alike, which half a turn permutes and a quarter turn takes to the
    # other four: those have 1/2 * 2/3 in all.
    (T.draw_paper, {**dict.fromkeys(range(4), 1 / 6), **dict.fromkeys(range(4, 8), 1 / 12)}),
])  # fmt: skip
def test_elements_come_as_often_as_they_should(draw, shares):
    transpose, down, across = draw(24_000, generator(4))
    counts = torch.bincount(4 * transpose.long() + 2 * down.long() + across.long(), minlength=8) / 24_000
    # Three standard deviations of a share of 1/6 are 0.007.
    assert counts.tolist() == pytest.approx(list(shares.values()), abs=0.009)


@pytest.mark.parametrize(("name", "different"), [("rxrx1", 8), ("paper", 8), ("iid", 64)])
def test_every_image_has_a_draw_of_its_own(name, different):
    x = images(n=1).expand(64, -1, -1, -1)
    out = T.augment(x, name, generator(5))
    assert len({image.numpy().tobytes() for image in out}) == different


def test_the_generator_alone_decides_and_the_input_is_left_alone():
    x = images()
    kept, state = x.clone(), torch.get_rng_state()
    a, b, c = (T.augment(x, "paper", generator(seed)) for seed in (6, 6, 7))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(x, kept) and torch.equal(state, torch.get_rng_state())
    floats = x.float()
    T.standardise(floats)
    assert torch.equal(floats, x.float())


@pytest.mark.parametrize("C", [1, 3, 6])
def test_standardised_channels_have_mean_0_and_unbiased_std_1(C):
    out = T.standardise(images(n=5, C=C, side=48)).double()
    assert out.mean((2, 3)).abs().max() < 1e-6
    assert (out.std((2, 3)) - 1).abs().max() < 1e-6


def test_standardise_keeps_its_precision_on_large_dim_images():
    """A stain of a few grey levels on 512x512 pixels, as the real ones are."""
    x = torch.poisson(torch.full((2, 3, 512, 512), 3.0), generator=generator(8)).to(torch.uint8)
    expected = torch.stack([slow_standardise(image) for image in x])
    assert torch.allclose(T.standardise(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 133, 255])
@pytest.mark.parametrize("size", [None, (24, 24), (50, 50)])
def test_a_blank_channel_becomes_0_whatever_its_level(level, size):
    x = images(n=3, side=40)
    x[1, 2] = level
    out = T.augment(x, "none", size=size)
    assert out.isfinite().all() and out[1, 2].abs().max() < 1e-3
    assert out[1, 1].std() == pytest.approx(1, abs=1e-5)


def test_one_pixel_of_one_level_is_not_blank():
    x = torch.full((1, 1, 512, 512), 255, dtype=torch.uint8)
    x[0, 0, 5, 7] = 254
    out = T.standardise(x)
    assert out.std().item() == pytest.approx(1, rel=1e-2) and out.argmin() == 5 * 512 + 7


@pytest.mark.parametrize("name", [name for name in T.TRANSFORM_NAMES if name != "imagenet"])
def test_size_resizes_before_standardising_in_training_and_evaluation(name):
    x = images(n=3, side=64)
    out = T.augment(x, name, generator(9), size=(32, 32))
    assert out.shape == (3, 3, 32, 32)
    assert (out.std((2, 3)) - 1).abs().max() < (1e-5 if name != "iid" else 0.5)
    if name == "none":
        small = F.interpolate(x.float(), size=(32, 32), mode="bilinear", antialias=True)
        assert torch.allclose(out, T.standardise(small), atol=1e-6)
        assert torch.equal(T.augment(x, name, size=(64, 64)), T.augment(x, name))


def test_crops_are_inside_and_reach_every_corner():
    g = generator(10)
    top, left = T.draw_corners(4000, 5, g)
    assert set(top.tolist()) == set(left.tolist()) == set(range(5))
    x = images(n=4, side=20)
    out = T.crop(x, torch.tensor([0, 4, 1, 0]), torch.tensor([0, 4, 2, 4]), 16)
    assert (
        torch.equal(out[1], x[1, :, 4:, 4:])
        and torch.equal(out[2], x[2, :, 1:17, 2:18])
        and out.is_contiguous()
    )


def test_what_cannot_be_done_is_said():
    with pytest.raises(InputError, match=r"transform 'rxrx'; .*rxrx1, paper, iid, none"):
        T.augment(images(), "rxrx", generator())
    for name in ("rxrx1", "paper", "iid"):
        with pytest.raises(InputError, match=r"square .*32x20"):
            T.augment(images()[..., :20], name, generator())
    with pytest.raises(TypeError, match=r"'paper' .*generator"):
        T.augment(images(), "paper")
    assert math.isclose(T.CROP_TO / T.CROP, 2)
