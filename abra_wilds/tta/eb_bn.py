"""Class-aware empirical-Bayes batch norm: a bio-batch's shift is removed, its class mix is not.

Whole-batch adaptation (`plate_bn`) takes whatever makes a bio-batch's statistics differ for a shift. Where
the classes are mixed otherwise than in training, part of the difference is what the classifier should see.
Here, for every batch norm and channel,

    mu_g      = mean_i m_i - (p - pi) a
    sigma_g^2 = mean_i v_i + var_i m_i - (p - pi) a_v - (Var_p a - Var_pi a)

are the statistics that the bio-batch would have with the class mix of training pi, by the laws of total
expectation and variance: m_i, v_i are means and variances of image i, a and a_v their class effects, and p
the bio-batch's class mix as far as its posteriors tell it (mix.py). They are mixed with the running ones by

    w = tau_b^2 / (tau_b^2 + s^2 / (n - 1) + U Var_pi a),

the share that bio-batches have in what is seen: tau_b^2 is their spread in training, s^2 that of the rest,
and U what is not known of p. So balanced bio-batches get the statistics of `plate_bn`, one image alone gets
the running ones, and a class mix that posteriors leave open holds back the layers that classes move.

The rule is ours; its parts are adaptive batch norm (Li et al. 2016, arXiv 1603.04779), shrinkage towards
source statistics (Schneider et al. 2020, arXiv 2006.16971) and empirical Bayes (Efron & Morris 1973).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.functional.effects import Effects
from abra_wilds.functional.precision import in_float64
from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import buffers_put_back
from abra_wilds.tta.components import Components
from abra_wilds.tta.diversity import apart, diversity, fewer_classes
from abra_wilds.tta.mix import Mix, Reliability, class_mix, no_labels
from abra_wilds.tta.own_mix import by_own_mix
from abra_wilds.tta.together import SetNorm, together

# Features are the adapted model's as far as the class mix is known: 1 / (1 + CAUTION V) of the way.
CAUTION = 5.0
LEAST_VARIANCE = 0.05  # of the running one, where class effects would explain more than all of it


@dataclass(frozen=True)
class Outcome:
    """What became of a bio-batch.

    Attributes:
        plain: (N, O) of each pass, logits without adaptation.
        logits: (N, O) of each pass, the adapted ones.
        uncorrected: (N, O) of each pass, the same before the class mix of the other images corrects them.
        mix: the class mix that was taken for the bio-batch's; None where nothing was adapted.
    """

    plain: list[Tensor]
    logits: list[Tensor]
    uncorrected: list[Tensor]
    mix: Mix | None


def class_aware_statistics(
    method: Method,
    passes: Iterable[Tensor],
    known: Sequence[Tensor] = (),
    *,
    components: Components,
    prior: float = 1.0,
) -> list[Tensor]:
    """Logits (N, O) of each pass of a bio-batch; see `adapt`."""
    return adapt(method, passes, known, components=components, prior=prior).logits


@torch.no_grad()
def adapt(
    method: Method,
    passes: Iterable[Tensor],
    known: Sequence[Tensor] = (),
    *,
    components: Components,
    prior: float = 1.0,
) -> Outcome:
    """Predict a bio-batch by its class-aware statistics, all passes taken together.

    Three forward passes: without adaptation, then twice with it, each by the posteriors of those before.

    Args:
        method: in evaluation mode.
        passes: images (N, C_in, H, W) of each pass of one bio-batch.
        known: class ids (N,) of each pass, -1 where the class is not known; empty if none is.
        components: of the method, on its device.
        prior: weight of the running statistics; 1 is the empirical Bayes one, infinity no adaptation.
    """
    images = list(passes)
    labels = torch.cat(list(known) or [no_labels(x) for x in images])
    plain, seen = unadapted(method, images, labels, components)
    if sum(map(len, images)) < 2:
        logits = [method.classify(f) for f in plain]
        return Outcome(logits, logits, logits, None)
    before = posteriors(method, plain)
    mix = mix_of(before, labels, seen, components, components.unadapted)
    first = adapted(method, images, mix, components, prior)
    halfway = (before + posteriors(method, first)) / 2
    mix = mix_of(halfway, labels, seen, components, components.adapted)
    second = adapted(method, images, mix, components, prior)
    way = 1 / (1 + CAUTION * mix.spread)
    logits = [method.classify(torch.lerp(f, g.to(f.dtype), way)) for f, g in zip(plain, second, strict=True)]
    final = by_own_mix(torch.cat(logits), torch.cat(plain), labels, components.pi, mix.kappa * prior)
    sizes = [len(f) for f in plain]
    return Outcome(list(torch.split(before.log(), sizes)), list(torch.split(final, sizes)), logits, mix)


def posteriors(method: Method, features: Sequence[Tensor]) -> Tensor:
    """Class posteriors (n, O) of the features (N, D) of all passes, one after the other."""
    return method.classify(torch.cat(list(features))).softmax(1)


Shifts = dict[str, Tensor]  # batch norm -> mean_i m_i less the running mean (C,), without adaptation


@dataclass(frozen=True)
class Seen:
    """What images show without adaptation.

    Attributes:
        shifts: of each batch norm.
        diversity: (m,) what each image of unknown class adds to h, which is their mean.
    """

    shifts: Shifts
    diversity: Tensor


def unadapted(
    method: Method, images: Sequence[Tensor], labels: Tensor, components: Components
) -> tuple[list[Tensor], Seen]:
    """Features (N, D) of each pass without adaptation, and what its batch norms see.

    Args:
        method: in evaluation mode.
        images: (N, C_in, H, W) of each pass.
        labels: (n,) class ids of images whose class is known, -1 of all others.
        components: of the method.
    """
    rows = (labels < 0).nonzero()[:, 0]
    shifts: Shifts = {}
    parts: list[tuple[Tensor, Tensor]] = []

    def look(name: str, norm: Any, m: Tensor, v: Tensor) -> None:
        shifts[name] = in_float64(m.mean(0) - norm.running_mean)
        if name in components.late and len(rows) > 1:
            here, inside = rows.to(m.device), components.inside[name]
            seen = in_float64(m[here]), in_float64(v[here])
            parts.append(apart(*seen, inside, components.means[name], components.pi))

    modules = dict(method.named_modules())
    norms: dict[nn.Module, SetNorm] = {modules[name]: partial(look, name) for name in components.means}
    features = together(method.embed, images, norms)
    return features, Seen(shifts, diversity(parts, len(rows)))


def mix_of(
    posteriors: Tensor, labels: Tensor, seen: Seen, components: Components, reliable: Reliability
) -> Mix:
    """The class mix that posteriors (n, O) tell, so far as the shifts of the batch norms bear it out."""
    labels = labels.to(components.pi.device)
    few = fewer_classes(seen.diversity, components.diversity)
    mix_with = partial(
        class_mix, in_float64(posteriors), labels, components.pi, components.usual, reliable, few=few
    )
    deviation = mix_with().frequencies - components.pi
    return mix_with(support=support_of(deviation, seen.shifts, len(labels), components))


def support_of(deviation: Tensor, shifts: Shifts, n: int, components: Components) -> float:
    """How far shifts are those that a class mix would cause, in [0, 1].

    A network may take a new bio-batch for a single class, and its late layers then look like that class. Its
    early ones do not: so the half of the batch norms is asked that classes move least, in units of tau_b. A
    slope of 1 of their shifts on those that the mix would cause speaks for it, and one of 0 for no mix; at
    1/2 both are as likely, and no more is believed than lies above.

    Args:
        deviation: (O,) of the class mix from that of training.
        shifts: of each batch norm.
        n: images that they are of.
        components: of the model.
    """
    along = squares = 0.0
    for name in components.early:
        effects = components.means[name]
        expected, noise = effects.of_mix(deviation), effects.between + effects.within / n
        weight = 1 / (noise.clamp_min(1e-12) * len(noise))
        along += float((weight * shifts[name] * expected).sum())
        squares += float((weight * expected**2).sum())
    return min(max(2 * along / max(squares, 1e-12) - 1, 0.0), 1.0)


def adapted(
    method: Method, images: Sequence[Tensor], mix: Mix, components: Components, prior: float = 1.0
) -> list[Tensor]:
    """Features (N, D) of each pass by class-aware statistics, given the class mix."""
    modules = dict(method.named_modules())
    norms: dict[nn.Module, SetNorm] = {
        modules[name]: _Setting(
            modules[name], components.means[name], components.variances[name], components.pi, mix, prior
        )
        for name in components.means
    }
    with buffers_put_back(method):
        return together(method.embed, images, norms)


class _Setting:
    """Sets a batch norm's buffers from the moments of a bio-batch's images at its input."""

    def __init__(self, norm: Any, means: Effects, variances: Effects, pi: Tensor, mix: Mix, prior: float):
        self.mean, self.var = norm.running_mean, norm.running_var
        self.means, self.variances = means, variances
        self.pi, self.mix, self.prior = pi, mix, prior

    def __call__(self, norm: Any, m: Tensor, v: Tensor) -> None:
        m, v = in_float64(m), in_float64(v)
        mu, var = standardised_moments(m, v, self.means, self.variances, self.mix.frequencies, self.pi)
        own_var = in_float64(self.var)
        var = torch.maximum(var, LEAST_VARIANCE * own_var)
        for name, own, new, effects in (
            ("running_mean", self.mean, mu, self.means),
            ("running_var", self.var, var, self.variances),
        ):
            w = share_of_bio_batch(effects, self.pi, len(m), self.mix.doubt, self.prior)
            setattr(norm, name, torch.lerp(in_float64(own), new, w).to(own.device, own.dtype))


def standardised_moments(
    m: Tensor, v: Tensor, means: Effects, variances: Effects, mix: Tensor, pi: Tensor
) -> tuple[Tensor, Tensor]:
    """mu_g and sigma_g^2: mean and variance of each channel as they would be with the class mix pi.

    Args:
        m: (n, C) channel means of the images.
        v: (n, C) their biased channel variances.
        means: effects on m.
        variances: effects on v.
        mix: (O,) class frequencies among the images.
        pi: (O,) class frequencies in training.

    Returns:
        (C,) each; the second may be negative where the effects do not fit.
    """
    between, mu = torch.var_mean(m, dim=0, correction=0)
    by_classes = means.spread_of_mix(mix) - means.spread_of_mix(pi)
    return mu - means.of_mix(mix - pi), v.mean(0) + between - variances.of_mix(mix - pi) - by_classes


def share_of_bio_batch(effects: Effects, pi: Tensor, n: int, doubt: float, prior: float = 1.0) -> Tensor:
    """W (C,): how much of what n images show is their bio-batch's own.

    Args:
        effects: of the statistic.
        pi: (O,) class frequencies in training.
        n: images, 2 or more.
        doubt: U, the variance of the class mix that posteriors leave open.
        prior: factor of all that is not the bio-batch's.
    """
    other = (effects.within / (n - 1) + doubt * effects.spread_of_mix(pi)).clamp_min(1e-300)
    return effects.between / (effects.between + prior * other).clamp_min(1e-300)
