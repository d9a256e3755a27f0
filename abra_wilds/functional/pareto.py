"""Weights of several losses whose common step leads to a preferred trade-off: exact Pareto optimality (EPO).

Mahapatra & Rajan, ICML 2020, as Chen et al. use it in PAIR (ICLR 2023, arXiv 2206.07766). With preference r,
the losses l are balanced where r_j l_j is the same for all j. Far from there the weights move towards
balance, near it they descend all losses together; either way they solve a linear programme in as many
variables as there are losses. Letters: m losses, P parameters, G (m, P) gradients, C = G G^T (m, m).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Reals = NDArray[np.float64]
# Keeps log(l) finite where a loss is exactly zero.
SHARE_GUARD = float(np.finfo(np.float64).tiny)


def imbalance(losses: Reals, preference: Reals) -> tuple[float, Reals]:
    """How far preferred losses are from equal, and the weights of the steepest way back.

    With shares s_j = r_j l_j / sum_i r_i l_i: mu = KL(s || uniform) = sum_j s_j log(m s_j), and
    a_j = r_j (log(m s_j) - mu), to which the gradient of mu by l is proportional.

    Args:
        losses: l, (m,), 0 or more, not all 0.
        preference: r, (m,), positive.

    Returns:
        mu >= 0, and a (m,).
    """
    rl = preference * losses
    s = np.maximum(rl / rl.sum(), SHARE_GUARD)
    logs = np.log(len(s) * s)
    mu = float(s @ logs)
    return mu, preference * (logs - mu)


def balancing_programme(C: Reals, Ca: Reals, rl: Reals) -> tuple[Reals, Reals, Reals]:
    """The programme while unbalanced: max_alpha alpha . C a.

    Losses that are preferred least well (largest r l) must not rise; one that C a would let rise may rise no
    more than with C a; the others are free.

    Args:
        C: (m, m).
        Ca: C a, (m,).
        rl: r l, (m,).

    Returns:
        Objective (m,), rows (k, m) and bounds (k,) of `rows @ alpha >= bounds`.
    """
    worst = rl == rl.max()
    bounds = np.where(worst, 0.0, Ca)
    bound = worst | (Ca <= 0)
    return Ca, C[bound], bounds[bound]


def descent_programme(C: Reals, Ca: Reals) -> tuple[Reals, Reals, Reals]:
    """The programme at balance: max_alpha sum_j (C alpha)_j with no loss rising.

    Where it is possible, the imbalance does not grow either.

    Args:
        C: (m, m).
        Ca: C a, (m,).

    Returns:
        As `balancing_programme`.
    """
    objective: Reals = C.sum(0)
    return objective, np.vstack([C, Ca]), np.append(np.zeros(len(C)), min(0.0, Ca.max()))


def solve_on_simplex(objective: Reals, rows: Reals, bounds: Reals) -> Reals | None:
    """The point of the simplex with the largest objective among those with rows @ alpha >= bounds, or None.

    Objective and rows are scaled to 1 first, which changes no solution: the solver's tolerances are absolute,
    and gradients of losses near zero would lie below them.

    Args:
        objective: (m,).
        rows: (k, m).
        bounds: (k,).
    """
    scale = np.maximum(np.abs(rows).max(1), np.abs(bounds))
    scale = np.where(scale > 0, scale, 1.0)
    top = np.abs(objective).max()
    solution: Any = linprog(
        -objective / (top if top > 0 else 1.0),
        A_ub=-rows / scale[:, None],
        b_ub=-bounds / scale,
        A_eq=np.ones((1, len(objective))),
        b_eq=[1.0],
        bounds=(0, None),
        method="highs",
    )
    if solution.status != 0:
        return None
    alpha: Reals = np.maximum(solution.x, 0)
    alpha /= alpha.sum()
    return alpha


def pareto_weights(losses: Reals, C: Reals, preference: Reals, eps: float = 1e-4) -> Reals:
    """Weights alpha on the simplex of the losses whose weighted sum is descended next.

    Where no such step exists, or losses or gradients are not finite or all losses are 0: the preference
    itself.

    Args:
        losses: l, (m,), 0 or more.
        C: inner products of the losses' gradients, (m, m).
        preference: r, (m,), positive.
        eps: imbalance up to which losses count as balanced.

    Returns:
        (m,), 0 or more, with sum 1.
    """
    r: Reals = preference / preference.sum()
    if not (np.isfinite(losses).all() and np.isfinite(C).all() and losses.sum() > 0):
        return r
    mu, a = imbalance(losses, r)
    Ca: Reals = C @ a
    programme = balancing_programme(C, Ca, r * losses) if mu > eps else descent_programme(C, Ca)
    alpha = solve_on_simplex(*programme)
    return r if alpha is None else alpha
