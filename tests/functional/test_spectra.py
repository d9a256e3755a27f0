"""Cross-spectra against loops over whole transforms, transport against its closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm, sqrtm

from abra_wilds.functional.spectra import (
    cross_spectra,
    filtered,
    matrix_exp,
    matrix_log,
    matrix_roots,
    ring_numbers,
    transport,
    with_moments_of,
)
from tests.helpers import array, worst


def images(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def positive(n, C, seed=0):
    a = images((n, C, C + 2), seed)
    return a @ a.mT / (C + 2) + 0.1 * torch.eye(C)


def slow_spectra(x, R):
    """Every frequency of a whole transform, ring by ring."""
    N, C, H, W = x.shape
    sums, counts = np.zeros((N, R, C, C)), np.zeros(R)
    for i, fy in enumerate(np.fft.fftfreq(H)):
        for j, fx in enumerate(np.fft.fftfreq(W)):
            ring = min(round(math.hypot(fy, fx) * 2 * (R - 1)), R - 1)
            counts[ring] += 1
            for n in range(N):
                f = [np.fft.fft2(x[n, c])[i, j] / math.sqrt(H * W) for c in range(C)]
                for a in range(C):
                    for b in range(C):
                        sums[n, ring, a, b] += (f[a] * f[b].conjugate()).real
    return sums / np.maximum(counts, 1)[:, None, None]


@pytest.mark.parametrize("H, W, R", [(6, 6, 4), (5, 7, 6), (4, 6, 2), (7, 4, 21)])
def test_cross_spectra_equal_loops_over_all_frequencies(H, W, R):
    x = images((2, 3, H, W))
    found = cross_spectra(x, ring_numbers(H, W, R), R)
    np.testing.assert_allclose(array(found), slow_spectra(array(x), R), atol=1e-12)


def test_white_noise_has_the_identity_at_every_ring():
    x = images((400, 2, 16, 16))
    found = cross_spectra(x, ring_numbers(16, 16, 5), 5).mean(0)
    assert worst(found, torch.eye(2).expand(5, 2, 2)) < 0.1


def test_turns_flips_and_shifts_leave_cross_spectra_alone():
    x, ring = images((2, 3, 8, 8)), ring_numbers(8, 8, 6)
    S = cross_spectra(x, ring, 6)
    for moved in (x.rot90(1, (2, 3)), x.flip(3), x.roll((3, 2), (2, 3))):
        assert worst(cross_spectra(moved, ring, 6), S) < 1e-12


def test_logarithm_and_exponential_are_scipys():
    S = positive(3, 4)
    L = matrix_log(S)
    for n in range(3):
        np.testing.assert_allclose(array(L[n]), logm(array(S[n])), atol=1e-10)
        np.testing.assert_allclose(array(matrix_exp(L)[n]), expm(array(L[n])), atol=1e-10)


def test_transport_is_the_symmetric_positive_map_between_two_gaussians():
    S, T = positive(5, 3), positive(5, 3, seed=1)
    M = transport(matrix_roots(S), T)
    assert worst(M @ S @ M, T) < 1e-10 and worst(M, M.mT) < 1e-10
    assert torch.linalg.eigvalsh(M).min() > 0
    for n in range(5):
        root = np.real(sqrtm(array(S[n])))
        inverse = np.linalg.inv(root)
        np.testing.assert_allclose(
            array(M[n]), inverse @ np.real(sqrtm(root @ array(T[n]) @ root)) @ inverse, atol=1e-9
        )


def test_transport_between_channels_that_share_nothing_is_the_root_of_the_ratio_of_powers():
    s, t = images((4, 3)).abs() + 0.1, images((4, 3), seed=1).abs() + 0.1
    assert (
        worst(
            transport(matrix_roots(torch.diag_embed(s)), torch.diag_embed(t)),
            torch.diag_embed((t / s).sqrt()),
        )
        < 1e-12
    )


@pytest.mark.parametrize("condition", [1e2, 1e4, 6e4])
def test_channels_that_share_nearly_everything_are_carried_exactly_in_float32_too(condition):
    V = torch.linalg.qr(images((2, 3, 3))).Q
    S, T = (v @ torch.diag(w) @ v.mT for v, w in zip(V, positive_values(condition), strict=True))
    exact, found = transport(matrix_roots(S), T), transport(matrix_roots(S.float()), T.float())
    assert worst(exact @ S @ exact, T) < 1e-8 and worst(transport(matrix_roots(S), S), torch.eye(3)) < 1e-6
    assert found.dtype == torch.float32
    found, S32 = found.double(), S.float().double()
    assert worst(found @ S32 @ found, T) < 1e-2 and worst(found, exact) < 1e-2 * exact.abs().max()


def positive_values(condition):
    """Eigenvalues of two matrices, from 1 down to its inverse, in another order."""
    values = torch.tensor([1.0, condition**-0.5, 1 / condition]).double()
    return values, values.flip(0)


def test_filtered_images_have_the_cross_spectra_they_are_carried_to():
    x, ring = images((40, 3, 9, 10)), ring_numbers(9, 10, 5)
    S, T = cross_spectra(x, ring, 5).mean(0), positive(5, 3, seed=2)
    moved = filtered(x, transport(matrix_roots(S), T).expand(40, -1, -1, -1), ring)
    assert worst(cross_spectra(moved, ring, 5).mean(0), T) < 1e-10
    assert worst(filtered(x, torch.eye(3).double().expand(40, 5, 3, 3), ring), x) < 1e-12


def test_a_filter_of_one_ring_passes_waves_of_that_ring_alone():
    t = torch.arange(16).double()
    waves = torch.stack(
        [torch.cos(2 * math.pi * k * t / 16).expand(1, 16, 16) for k in (2, 6)]
    )  # (2, 1, 16, 16)
    M = torch.zeros(2, 9, 1, 1).double()
    M[:, 2] = 3.0  # ring 2 of 9 is 1/8 cycles a pixel: the first wave
    found = filtered(waves, M, ring_numbers(16, 16, 9))
    assert worst(found[0], 3 * waves[0]) < 1e-12 and found[1].abs().max() < 1e-12


def test_moments_are_those_of_the_other_image():
    z, x = images((2, 3, 6, 5)), 3 + 2 * images((2, 3, 6, 5), seed=1)
    found = with_moments_of(z, x)
    assert worst(found.mean((2, 3)), x.mean((2, 3))) < 1e-12
    assert worst(found.std((2, 3)), x.std((2, 3))) < 1e-5
    assert worst(with_moments_of(x, x), x) < 1e-12
