"""Logits for another mix of classes, which is found by EM (Saerens et al. 2002, Neural Computation 14(1)).

A model that learned classes with frequencies pi says p(o | x); where a bio-batch has frequencies q and each
class looks as before, the posterior is proportional to p(o | x) q_o / pi_o. EM finds the q of highest
likelihood: q is the mean of those posteriors, and so on from q = pi. Only the mix is corrected, not how
images look, so that it can follow any adapter that corrects the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from abra_wilds.methods.base import Method

ROUNDS, TOLERANCE = 1000, 1e-6


def corrected(
    adapter: Callable[..., list[Tensor]], prior: Tensor | None = None
) -> Callable[..., list[Tensor]]:
    """An adapter whose logits are then corrected for the mix of classes of the whole bio-batch.

    Args:
        adapter: gives the logits.
        prior: pi, (O,); None for uniform, since a method does not know its training frequencies.
    """

    @torch.no_grad()
    def adapt(method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
        logits = adapter(method, passes, known)
        return list(torch.split(for_own_mix(torch.cat(logits), prior), [len(z) for z in logits]))

    return adapt


def for_own_mix(logits: Tensor, prior: Tensor | None = None) -> Tensor:
    """Logits (n, O) plus log q_o / pi_o, with the q of highest likelihood.

    Args:
        logits: of the model.
        prior: pi, (O,), sums to one; None for uniform.
    """
    log_p = logits.log_softmax(1)
    pi = torch.full_like(log_p[0], 1 / log_p.shape[1]) if prior is None else prior.to(log_p)
    q = pi
    for _ in range(ROUNDS):
        before, q = q, (log_p + log_ratio(q, pi)).softmax(1).mean(0)
        if float((q - before).abs().max()) < TOLERANCE:
            break
    return logits + log_ratio(q, pi)


def log_ratio(q: Tensor, pi: Tensor) -> Tensor:
    """The logarithm of q / pi, (O,), finite where a class has died out."""
    tiny = torch.finfo(q.dtype).tiny
    return q.clamp(min=tiny).log() - pi.clamp(min=tiny).log()
