"""How far apart two sets of channel statistics are, each channel as a normal distribution (ABRA, Fig. 8).

The figure shows KL and MMD of batch-norm statistics; direction and kernel are our choice. Both functions give
one value a channel, so that whoever calls them decides how channels are put together.

Letters: C channels; leading dimensions are broadcast.
"""

from __future__ import annotations

from torch import Tensor


def gaussian_kl_of_moments(mu_p: Tensor, sigma_p: Tensor, mu_q: Tensor, sigma_q: Tensor) -> Tensor:
    """KL(p || q) of the normal distributions of each channel, in nats.

    Its sum over channels is the divergence of the diagonal Gaussians.

    Args:
        mu_p: (..., C) means of p.
        sigma_p: (..., C) standard deviations of p; positive.
        mu_q: (..., C).
        sigma_q: (..., C); positive.
    """
    ratio = sigma_p / sigma_q
    return 0.5 * (ratio**2 + ((mu_p - mu_q) / sigma_q) ** 2 - 1) - ratio.log()


def gaussian_mmd2(mu_p: Tensor, sigma_p: Tensor, mu_q: Tensor, sigma_q: Tensor) -> Tensor:
    """Squared MMD (Gretton et al. 2012) of the normal distributions of each channel, in closed form.

    The kernel is exp(-(x - y)^2 / (2 sigma_q^2)). Its width is the spread of q, so that the scale of a
    channel does not matter. The mean over channels is the squared MMD of the diagonal Gaussians under the
    mean of the channels' kernels. Values lie below 1 + 1 / sqrt(3).

    Args:
        mu_p: (..., C) means of p.
        sigma_p: (..., C) standard deviations of p; 0 or more.
        mu_q: (..., C).
        sigma_q: (..., C); positive.
    """
    shift, var = ((mu_p - mu_q) / sigma_q) ** 2, (sigma_p / sigma_q) ** 2  # in units of q
    # E k(x, y) over independent x and y, both of p, both of q, one of each.
    pp, qq = (1 + 2 * var) ** -0.5, 3**-0.5
    pq = (2 + var) ** -0.5 * (-0.5 * shift / (2 + var)).exp()
    return (pp + qq - 2 * pq).clamp_min(0)  # rounding of equal distributions
