"""Batches of frozen features, a classifier for them, and the three losses of IRMX in plain loops."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from tests import reference
from tests.helpers import array, make_batch, target_arrays

UNEQUAL = (0, 1, 1, 0, 2, 2, 0, 1, 1, 0, 0)  # five, four and two rows
D = 6


def feature_batch(g=UNEQUAL, seed=1, w=None, dtype=torch.float64):
    """A batch whose x are features, with domains that differ in level and spread."""
    rng = np.random.default_rng(seed)
    levels = np.array(g).reshape(-1, 1)
    f = torch.from_numpy(rng.normal(size=(len(g), D)) * (1 + levels) + levels).to(dtype)
    return replace(make_batch(g, seed=seed, w=w), x=f)


def make_head(dtype=torch.float64, seed=7):
    """A classifier of five classes."""
    torch.manual_seed(seed)
    return nn.Linear(D, 5).to(dtype)


def slow_parts(W, b, batch):
    """Mean risk, mean IRMv1 penalty and unbiased variance of risks over the domains."""
    z = array(batch.x) @ W.T + b
    y, y_b, share = target_arrays(batch.target)
    Y, risks, penalties = reference.dense(y, len(b), y_b, share), [], []
    for rows in batch.groups:
        even, odd = rows[0::2].numpy(), rows[1::2].numpy()
        risks.append(reference.cross_entropy(z[rows], Y[rows]))
        penalties.append(reference.scale_slope(z[even], Y[even]) * reference.scale_slope(z[odd], Y[odd]))
    mean = sum(risks) / len(risks)
    variance = sum((risk - mean) ** 2 for risk in risks) / (len(risks) - 1)
    return mean, sum(penalties) / len(penalties), variance
