"""MixStyle, DSU and AdvStyle in NumPy and plain loops, apart from the package.

Letters: N images, C channels, h w map. Statistics divide by h w - 1, spreads by N - 1.
"""

import copy
import math

import numpy as np
import torch

from abra_wilds.nets.staged import STAGES
from tests import reference
from tests.helpers import array, target_arrays


def deviation(values, eps):
    """Root of the unbiased variance plus eps."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) + eps)


def instance_stats(X, eps):
    """Mean and deviation of each image and channel, (N, C) each."""
    N, C = X.shape[:2]
    mu, sigma = np.zeros((N, C)), np.zeros((N, C))
    for n in range(N):
        for c in range(C):
            mu[n, c] = sum(X[n, c].ravel()) / X[n, c].size
            sigma[n, c] = deviation(X[n, c].ravel(), eps)
    return mu, sigma


def spread(s, eps):
    """How far a statistic (N, C) varies over the images, (C,)."""
    return np.array([deviation(s[:, c], eps) for c in range(s.shape[1])])


def transfer(X, mu, sigma, new_mu, new_sigma):
    """sigma' (X - mu) / sigma + mu', image by image and channel by channel."""
    out = np.empty_like(X)
    for n in range(X.shape[0]):
        for c in range(X.shape[1]):
            out[n, c] = new_sigma[n, c] * (X[n, c] - mu[n, c]) / sigma[n, c] + new_mu[n, c]
    return out


def noisy(X, noise, eps, factor=1.0, K=None):
    """DSU's layer, and AdvStyle's where K = (K_mu, K_sigma) is given; noise is a pair of (N, C)."""
    mu, sigma = instance_stats(X, eps)
    S_mu, S_sigma = K if K is not None else (factor * spread(mu, eps), factor * spread(sigma, eps))
    return transfer(X, mu, sigma, mu + noise[0] * S_mu, sigma + noise[1] * S_sigma)


def mixed(X, lam, partner, eps):
    """MixStyle's layer: lam (N,) of each image's own statistics, the rest of its partner's."""
    mu, sigma = instance_stats(X, eps)
    new_mu, new_sigma = np.empty_like(mu), np.empty_like(sigma)
    for n in range(len(X)):
        new_mu[n] = lam[n] * mu[n] + (1 - lam[n]) * mu[partner[n]]
        new_sigma[n] = lam[n] * sigma[n] + (1 - lam[n]) * sigma[partner[n]]
    return transfer(X, mu, sigma, new_mu, new_sigma)


def loss(method, batch, layers):
    """Cross-entropy with a function of the map at each insertion point, {point: layer}."""
    net = copy.deepcopy(method.net).train()
    stem = net.stages["stem"]
    parts = [("conv1", stem[0]), ("stem", stem[1:]), *((s, net.stages[s]) for s in STAGES[1:])]
    x = array(batch.x)
    for point, module in parts:
        with torch.no_grad():
            x = module(torch.from_numpy(x)).numpy()
        x = layers[point](x) if point in layers else x
    z = x.mean((2, 3)) @ array(method.head.weight).T + array(method.head.bias)
    y, y_b, w = target_arrays(batch.target)
    return reference.cross_entropy(z, reference.dense(y, z.shape[1], y_b, w))
