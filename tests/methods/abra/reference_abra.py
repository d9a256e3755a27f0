"""One whole ABRA step in NumPy: every open choice of the configuration, no gradient by autograd.

dL_adv/dK comes from central differences. Theta enters through `Model`, whose stages are black boxes.
"""

import math
from dataclasses import dataclass

import numpy as np

from tests import reference


@dataclass
class Model:
    """theta: stage functions by name, head W b, ArcFace weight V, LayerNorm (gamma, beta) or None."""

    stages: dict
    W: np.ndarray
    b: np.ndarray
    V: np.ndarray | None
    neck: tuple | None


def shift_sets(cfg, groups, N):
    """The sets of rows that share their statistics."""
    return [np.arange(N)] if cfg.stats_over == "batch" else groups


def run(model, x, cfg, groups, shifts=None, constants=None, units=None):
    """Pooled features; with shifts {name: (d_mu, d_sigma)} in (N, C), also shifted after those stages.

    constants {name: [(mu, sigma), ...]} replaces the statistics, units those that shifts are multiples of.
    Returns features and statistics met.
    """
    met = {}
    for name, stage in model.stages.items():
        x = stage(x)
        if name not in cfg.at:
            continue
        sets = shift_sets(cfg, groups, len(x))
        met[name] = [reference.channel_stats(x[rows], cfg.eps) for rows in sets]
        x = x.copy()
        for i, rows in enumerate(sets if shifts is not None else []):
            mu, sigma = (constants or met)[name][i]
            unit = (units or met)[name][i][1] if cfg.k_unit == "sigma" else 1.0
            for n in rows:
                d_mu, d_sigma = (unit * shift[n] for shift in shifts[name])
                if cfg.clamp_sigma:
                    d_sigma = np.maximum(sigma + d_sigma, 0) - sigma
                x[n : n + 1] = reference.restyle(x[n : n + 1], mu, sigma, d_mu, d_sigma)
        x = np.maximum(x, 0) if cfg.before_relu else x
    return x.mean((2, 3)), met


def task(model, f, target, cfg):
    """Eq. 10 of features, and the class logits; target is (y, y_b, w)."""
    if model.neck is not None:
        gamma, beta = model.neck
        f = np.array([gamma * (row - row.mean()) / math.sqrt(row.var() + 1e-5) + beta for row in f])
    z = f @ model.W.T + model.b
    y, y_b, w = target
    Y = reference.dense(y, len(model.W), y_b, w)
    ce, arc = reference.cross_entropy(z, Y), 0.0
    V = model.W if cfg.share_arc_weight else model.V
    if "ce" not in cfg.terms or ("arc" in cfg.terms and cfg.lam == 0):
        z = cfg.scale * np.array(
            [[row @ v / np.linalg.norm(row) / np.linalg.norm(v) for v in V] for row in f]
        )
    if "arc" in cfg.terms:
        if cfg.soft_arc == "dense":
            arc = reference.arcface(f, V, Y, cfg.margin, cfg.scale)
        else:
            arc = reference.arcface_two_term(f, V, y, y_b, w, cfg.margin, cfg.scale)
        arc = arc / 2 if cfg.halve_arc else arc
    if "arc" not in cfg.terms:
        return ce, z
    return (cfg.lam * ce + (1 - cfg.lam) * arc if "ce" in cfg.terms else arc), z


def scaled(noise, K):
    """Eq. 8: noise (N, C) times K (C,), for every insertion point."""
    return {name: (noise[name][0] * K[name][0], noise[name][1] * K[name][1]) for name in noise}


def start_K(cfg, sigma):
    """The first K of an insertion point, both equal, within the bound."""
    if cfg.k_unit == "sigma":
        return np.full((2, *sigma.shape), min(cfg.k_init, cfg.k_bound))
    first = cfg.k_init * sigma if cfg.k_init_relative else np.full_like(sigma, cfg.k_init)
    first = np.minimum(first, cfg.k_bound * sigma)
    return np.stack([first, first])


def mean_sigma(cfg, met, groups, N):
    """(C,) mean over the images of the deviation of each one's bio-batch, for every insertion point."""
    sets = shift_sets(cfg, groups, N)
    return {p: sum(len(r) * s for r, (_, s) in zip(sets, met[p], strict=True)) / N for p in met}


def unflattened(flat, K):
    """A vector cut into the shapes of K."""
    out, start = {}, 0
    for name in K:
        out[name] = flat[start : start + K[name].size].reshape(K[name].shape)
        start += K[name].size
    return out


def ascend(model, x, target, cfg, groups, noise, K, ema, alpha):
    """Phase 1 (Eqs. 10 and 12): K one or more steps up the gradient of L_adv, inside the bound."""
    K = {name: K[name].copy() for name in K}
    first = None
    for _ in range(cfg.ascent_steps):
        _, units = run(model, x, cfg, groups, scaled(noise, K))

        def adversary(flat, units=units):
            shifts = scaled(noise, unflattened(flat, K))
            return task(model, run(model, x, cfg, groups, shifts, units=units)[0], target, cfg)[0]

        flat = np.concatenate([K[name].ravel() for name in K])
        first = adversary(flat) if first is None else first
        flat = flat + alpha * cfg.alpha_scale * reference.finite_differences(adversary, flat)
        for name, free in unflattened(flat, K).items():
            limit = cfg.k_bound * (1.0 if cfg.k_unit == "sigma" else ema[name])
            K[name] = np.clip(free, -limit, limit)
    return K, first


def robust_loss(model, x, target, cfg, groups, noise, K, constants=None, p_constant=None, units=None):
    """Phase 2 (Eq. 13); constants, p_constant and units stand where the configuration detaches."""
    clean, p = task(model, run(model, x, cfg, groups)[0], target, cfg)
    hard, q = task(model, run(model, x, cfg, groups, scaled(noise, K), constants, units)[0], target, cfg)
    loss = (clean + hard) / (2 if cfg.reduce == "mean" else 1)
    if "js" in cfg.terms:
        loss += cfg.js_weight * reference.js(p if p_constant is None else p_constant, q)
    return loss
