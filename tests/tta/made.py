"""Components of batch norms, made by hand for a method that is not trained."""

from dataclasses import replace

import torch

from abra_wilds.functional.effects import Effects
from abra_wilds.tta.components import Components
from abra_wilds.tta.mix import Reliability
from tests.tta.reference import norms_of


def effects(channels, n_classes=5, seed=0, classes=0.3, rank=2):
    """Effects on so many channels; `classes` is the size of those of classes."""
    rng = torch.Generator().manual_seed(seed)
    scores = classes * torch.randn(n_classes, rank, generator=rng, dtype=torch.float64)
    loadings = torch.randn(rank, channels, generator=rng, dtype=torch.float64)
    between, within = 0.2 + torch.rand(2, channels, generator=rng, dtype=torch.float64)
    return Effects(scores - scores.mean(0), loadings, between, within)


def components(method, classes=0.3, **changes):
    """Components of a method whose classes come unevenly; changes replace fields."""
    names = [name for name, m in method.named_modules() if m in norms_of(method)]
    norms = dict(method.named_modules())
    pi = torch.arange(1.0, method.head.out_features + 1, dtype=torch.float64)
    made = [
        {name: effects(norms[name].num_features, len(pi), seed + k, classes) for k, name in enumerate(names)}
        for seed in (0, 100)
    ]
    inside = {name: torch.full((norms[name].num_features,), 0.7, dtype=torch.float64) for name in names}
    errors = Reliability(0.8, 0.02, 0.3), Reliability(0.9, 0.01, 0.2), Reliability(1.0, 0.05, 0.6)
    return replace(Components("plate", pi / pi.sum(), 0.05, *made, inside, *errors, "val"), **changes)
