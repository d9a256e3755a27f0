"""Whether two rows of a table differ: by seeds where runs are at hand, by printed figures where they are not.

The paper tests rows by seed, and prints p beside means and standard deviations. How two rows vary together
over seeds is lost in the latter, so its p cannot be computed again. `welch` takes the seeds of two rows as
independent; `welch_range` tells how much of that the rounding of the printed figures leaves open;
`least_paired` is the smallest p that any pairing of the seeds could give. Standard deviations are those of
samples, by n - 1, everywhere.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

# Points. Accuracies are WILDS' float32, which rounds by up to 6e-6 points, of counts over at most a million
# images: where not all of five seeds differ alike, the spread is 4e-5 or more.
NO_SPREAD = 1e-5


@dataclass(frozen=True)
class Paired:
    """A row against another, by seed.

    Attributes:
        n: pairs.
        difference: the mean of the differences, in the unit of what was compared.
        d_z: Cohen's d_z, the mean of the differences by their standard deviation.
        p: two-sided. It, d_z and the margin are None for one pair, and where all differences are the same:
            then the t statistic is a division by zero, whatever the difference.
        margin: half the width of the 95 % confidence interval around the difference.
    """

    n: int
    difference: float
    d_z: float | None
    p: float | None
    margin: float | None = None


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; the latter is None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def spread(stat: tuple[float, float | None] | None, absent: str = "-") -> str:
    """Mean and standard deviation as tables print them, with one decimal.

    >>> spread((39.57, 0.2)), spread((39.57, None)), spread(None)
    ('39.6 ± 0.2', '39.6', '-')
    """
    if stat is None:
        return absent
    mean, std = stat
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def spread_of(fractions: Iterable[float]) -> str:
    """The same of accuracies, in percent."""
    return spread(mean_std([100 * value for value in fractions]))


def paired_t(a: Sequence[float], b: Sequence[float]) -> Paired:
    """The two-sided paired t-test of a - b, with the effect size.

    Args:
        a: (n,) with n of 1 or more.
        b: (n,), in the same order of seeds.

    >>> paired_t([3.0, 5.0], [1.0, 1.0]).difference
    3.0
    """
    difference, std = mean_std([x - y for x, y in zip(a, b, strict=True)])
    if std is None or std < NO_SPREAD:
        return Paired(len(a), difference, None, None)
    from scipy.stats import t, ttest_rel

    n = len(a)
    margin = float(t.ppf(0.975, n - 1)) * std / n**0.5
    return Paired(n, difference, difference / std, float(ttest_rel(a, b).pvalue), margin)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979), in their order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def agreement(a: Sequence[int], b: Sequence[int]) -> tuple[int, float, float]:
    """How often two series of classes agree, how often independent ones would, and the exact binomial p.

    Args:
        a: (n,) such as predictions.
        b: (n,) such as labels.

    Returns:
        The number of agreements; the share to be expected, the sum over classes of the products of their
        shares; and the two-sided p that the number is of that share.

    >>> agreement([0, 0, 1, 1], [0, 0, 1, 1])[:2]
    (4, 0.5)
    """
    from scipy.stats import binomtest

    n, ours, theirs = len(a), Counter(a), Counter(b)
    expected = sum(count * theirs[name] for name, count in ours.items()) / n**2
    found = sum(x == y for x, y in zip(a, b, strict=True))
    return found, expected, float(binomtest(found, n, expected).pvalue)


def welch(a: tuple[float, float, int], b: tuple[float, float, int]) -> float | None:
    """Two-sided p of Welch's unpaired t-test.

    Args:
        a: mean, sample standard deviation and number of seeds.
        b: the same of the other.

    Returns:
        None where both standard deviations are 0.
    """
    if a[1] == b[1] == 0:
        return None
    from scipy.stats import ttest_ind_from_stats

    return float(ttest_ind_from_stats(*a, *b, equal_var=False).pvalue)


def welch_range(
    a: tuple[float, float, int], b: tuple[float, float, int], step: float = 0.1
) -> tuple[float, float] | None:
    """Smallest and largest p of Welch's test over the corners of what rounds to the printed figures.

    Between corners, where both deviations are equal, p can be lower still, by a fraction of itself.

    Args:
        a: mean, sample standard deviation and number of seeds.
        b: the same of the other.
        step: of the last printed digit.

    Returns:
        None where both standard deviations may be 0.
    """
    gap, half = abs(a[0] - b[0]), step / 2
    means = (max(gap - step, 0.0), gap + step)
    stds = [(max(s - half, 0.0), s + half) for s in (a[1], b[1])]
    ps = [welch((m, s, a[2]), (0.0, t, b[2])) for m, s, t in product(means, *stds)]
    known = [p for p in ps if p is not None]
    return (min(known), max(known)) if len(known) == len(ps) else None


def least_paired(a: tuple[float, float, int], b: tuple[float, float, int], step: float = 0.1) -> float:
    """The smallest p of a paired t-test that printed means and standard deviations allow; 0 without a bound.

    The standard deviation of differences is at least the difference of the standard deviations, which it is
    where one row is the other, stretched and shifted. Rounding counts in favour of a small p.

    Args:
        a: mean, sample standard deviation and number of seeds.
        b: the same of the other, with as many seeds.
        step: of the last printed digit.
    """
    std = max(abs(a[1] - b[1]) - step, 0.0)
    if std < 1e-9:  # rounding of the difference, not a spread
        return 0.0
    from scipy.stats import t

    n = min(a[2], b[2])
    return float(2 * t.sf((abs(a[0] - b[0]) + step) * n**0.5 / std, n - 1))
