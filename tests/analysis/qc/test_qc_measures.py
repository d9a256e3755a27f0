"""Measures of quality against closed forms and slow re-implementations, and whatever the depth of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from abra_wilds.analysis.qc import measures as m
from tests.analysis.qc import planted


@pytest.mark.parametrize(
    ("dtype", "top", "share"),
    [(np.uint8, 255, 0.25), (np.uint16, 4095, 0.25), (np.uint16, 65520, 0.25), (np.uint16, 255, 0.0)],
)
def test_saturated_pixels_are_those_at_an_end_of_depth_or_camera(dtype, top, share):
    grey = np.zeros((8, 8), dtype)
    grey[:4, :4] = top
    assert m.saturated_share(grey) == share


def test_measures_are_the_same_of_8_bits_and_of_the_same_spread_over_16():
    x = planted.clean()[0][:4]
    narrow, wide = planted.measured(x), planted.measured(x.astype(np.uint16) * 257)
    for name in ("focus", "sharpness", "saturated"):
        k = m.MEASURES.index(name)
        np.testing.assert_allclose(wide[..., k], narrow[..., k], rtol=1e-3, atol=1e-3, err_msg=name)
    for name in ("mean", "spread"):
        k = m.MEASURES.index(name)
        np.testing.assert_allclose(wide[..., k], 257 * narrow[..., k], rtol=1e-4, err_msg=name)
    k = m.MEASURES.index("foreground")  # whose threshold counts the rounding of 8 bits
    np.testing.assert_allclose(wide[..., k], narrow[..., k], atol=0.05)


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_slope_of_a_power_law_is_its_exponent(power):
    n = 256
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n))
    f[0, 0] = 1
    # None of the law beyond the rings, where noise is read off.
    amplitude = np.where(f > 0.5, 1e-6, f ** (-power / 2))
    noise = np.fft.fft2(np.random.default_rng(0).standard_normal((n, n)))
    grey = np.fft.ifft2(noise * amplitude).real.astype(np.float32)
    assert m.spectrum_slope(grey) == pytest.approx(-power, abs=0.2)


def test_noise_of_the_camera_hardly_moves_the_slope_of_a_blurred_field():
    x = planted.blurred(planted.clean()[0][:8]).astype(np.float32)
    noisy = x + np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    sharp = [m.spectrum_slope(c) for image in planted.clean()[0][:8] for c in image.astype(np.float32)]
    soft = [m.spectrum_slope(c) for image in noisy for c in image]
    assert np.median(soft) < np.median(sharp) - 0.5


def test_sharpness_is_the_variance_of_the_laplacian_over_the_images_own():
    grey = np.random.default_rng(0).random((20, 24)).astype(np.float32) * 50
    wide = np.pad(grey, 8, mode="symmetric")
    t = np.arange(-4, 5)
    kernel = np.exp(-(t**2) / 2) / np.exp(-(t**2) / 2).sum()
    smooth = np.array([[np.sum(wide[y : y + 9, x : x + 9] * np.outer(kernel, kernel)) for x in range(4, 28)]
                       for y in range(4, 24)])  # fmt: skip
    edge = np.pad(smooth, 1, mode="symmetric")
    laplacian = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:] - 4 * smooth
    assert m.sharpness(grey) == pytest.approx(np.log10(laplacian.var() / smooth.var()), abs=1e-3)


def test_foreground_is_the_share_and_height_of_bright_discs_on_a_sloping_ground():
    y, x = np.mgrid[:128, :128]
    disc = (x - 64) ** 2 + (y - 50) ** 2 < 20**2
    rng = np.random.default_rng(0)
    grey = (30 + 0.05 * x + 100 * disc + rng.standard_normal((128, 128))).astype(np.float32)
    share, contrast = m.foreground(grey)
    wider = (x - 64) ** 2 + (y - 50) ** 2 < 23**2  # by what smoothing carries over the border
    assert disc.mean() <= share <= wider.mean()
    assert contrast == pytest.approx(100 * disc.mean() / share, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_an_empty_field_has_no_foreground_though_light_falls_off(noise):
    t = np.linspace(-1, 1, 128)
    light = 40 - 12 * (t[:, None] ** 2 + t**2) + 3 * t
    field = light + noise * np.random.default_rng(0).standard_normal((128, 128))
    assert m.foreground(planted.grey(field).astype(np.float32))[0] < 2e-4


def test_one_value_alone_has_neither_focus_nor_foreground():
    found = dict(zip(m.MEASURES, m.measure(np.full((1, 32, 32), 9, np.uint8))[0], strict=True))
    assert np.isnan(found.pop("focus")) and np.isnan(found.pop("sharpness"))
    assert found == {"saturated": 0, "foreground": 0, "contrast": 0, "mean": 9, "spread": 0}
