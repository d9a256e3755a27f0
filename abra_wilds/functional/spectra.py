"""Cross-spectra of images, and optimal transport between stationary Gaussian fields that have them.

Letters: N images, C channels, H W of an image, R rings of spatial frequency, the first around 0 and the last
from 0.5 cycles a pixel on, F frequencies of a real Fourier transform.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from abra_wilds.functional.precision import in_float64
from abra_wilds.functional.stats import instance_moments


def ring_numbers(H: int, W: int, R: int, device: torch.device | None = None) -> Tensor:
    """The ring of each frequency of a real Fourier transform, (H, W // 2 + 1) int64.

    >>> ring_numbers(4, 4, 3)[0]
    tensor([0, 1, 2])
    """
    y, x = torch.fft.fftfreq(H, device=device), torch.fft.rfftfreq(W, device=device)
    radius = torch.hypot(y[:, None], x[None])  # cycles a pixel
    return (radius * (2 * (R - 1))).round().long().clamp(max=R - 1)


def cross_spectra(x: Tensor, ring: Tensor, R: int) -> Tensor:
    """Mean power of each ring, and how much of it two channels share: real parts of cross-spectra.

    Args:
        x: (N, C, H, W).
        ring: of `ring_numbers`.
        R: rings.

    Returns:
        (N, R, C, C), symmetric and positive semidefinite; the identity is white noise of variance 1. A ring
        without a frequency has zeros.
    """
    W = x.shape[-1]
    f = torch.fft.rfft2(x, norm="ortho").flatten(2)  # (N, C, F)
    often = torch.full(ring.shape, 2.0, dtype=x.dtype, device=x.device)
    often[:, 0] = 1  # a real transform leaves out the mirror images of all other columns
    if W % 2 == 0:
        often[:, -1] = 1
    weight = torch.nn.functional.one_hot(ring.flatten(), R).to(x.dtype) * often.reshape(-1, 1)  # (F, R)
    weight = weight / weight.sum(0).clamp(min=1)
    rows = [(f[:, i : i + 1] * f.conj()).real @ weight for i in range(x.shape[1])]  # C of (N, C, R)
    return torch.stack(rows, 2).permute(0, 3, 1, 2)


def of_eigenvalues(S: Tensor, *functions: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Functions of symmetric float64 matrices (..., C, C), each applied to their eigenvalues."""
    w, V = torch.linalg.eigh(S)
    return [(V * f(w)[..., None, :]) @ V.mT for f in functions]


def as_before(found: Tensor, S: Tensor) -> Tensor:
    """What was computed in float64, on the host where a device has none (MPS), in the type and place of S."""
    return found.to(S.dtype).to(S.device)


def matrix_log(S: Tensor) -> Tensor:
    """The logarithm of symmetric positive definite matrices, (..., C, C)."""
    (found,) = of_eigenvalues(in_float64(S), lambda w: w.clamp(min=torch.finfo(w.dtype).tiny).log())
    return as_before(found, S)


def matrix_exp(L: Tensor) -> Tensor:
    """The exponential of symmetric matrices, (..., C, C)."""
    (found,) = of_eigenvalues(in_float64(L), torch.exp)
    return as_before(found, L)


def matrix_roots(S: Tensor) -> tuple[Tensor, Tensor]:
    """S^1/2 and S^-1/2 of symmetric positive definite matrices, (..., C, C) each."""
    tiny = torch.finfo(torch.float64).tiny
    root, inverse = of_eigenvalues(
        in_float64(S), lambda w: w.clamp(min=tiny).sqrt(), lambda w: w.clamp(min=tiny).rsqrt()
    )
    return as_before(root, S), as_before(inverse, S)


def transport(roots: tuple[Tensor, Tensor], T: Tensor) -> Tensor:
    """The optimal transport map between centred Gaussians of covariances S and T (Olkin & Pukelsheim 1982).

    M = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2, the symmetric positive definite matrix with M S M = T. In float64,
    because the product of roots squares the condition number: float32 has no digit left of channels that
    share nearly everything.

    Args:
        roots: S^1/2 and S^-1/2, of `matrix_roots`, (..., C, C) each.
        T: (..., C, C), symmetric positive definite.

    Returns:
        (..., C, C).
    """
    root, inverse, goal = (in_float64(t) for t in (*roots, T))
    (middle,) = of_eigenvalues(root @ goal @ root, lambda w: w.clamp(min=0).sqrt())
    return as_before(inverse @ middle @ inverse, T)


def filtered(x: Tensor, M: Tensor, ring: Tensor) -> Tensor:
    """Images whose channels are mixed by a matrix of its own at each ring of frequencies.

    Applied to fields of cross-spectra S, maps of `transport` give fields of cross-spectra T (Xia et al. 2014,
    SIAM J. Imaging Sci. 7(1), for one channel).

    Args:
        x: (N, C, H, W), taken as periodic.
        M: (N, R, C, C).
        ring: of `ring_numbers`.
    """
    N, C, H, W = x.shape
    f = torch.fft.rfft2(x, norm="ortho").flatten(2)  # (N, C, F)
    g, at = torch.zeros_like(f), ring.flatten()
    for j in range(C):  # (N, F, C, C) at once would be larger than any other tensor of a step
        g = g + M[..., j].mT.contiguous()[:, :, at] * f[:, j : j + 1]
    found: Tensor = torch.fft.irfft2(g.reshape(N, C, H, W // 2 + 1), s=(H, W), norm="ortho")
    return found


def with_moments_of(z: Tensor, x: Tensor, eps: float = 1e-6) -> Tensor:
    """Images z (N, C, H, W) with the mean and deviation that each image and channel has in x."""
    (z_mean, z_var), (x_mean, x_var) = instance_moments(z), instance_moments(x)  # (N, C) each
    scale = ((x_var + eps) / (z_var + eps)).sqrt()
    return z * scale[..., None, None] + (x_mean - scale * z_mean)[..., None, None]
