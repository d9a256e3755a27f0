"""The paper's formulas once more, in NumPy float64 and plain loops, apart from the package.

Letters: N images, C channels, h w map, D features, O classes.
"""

import math

import numpy as np


def channel_stats(X, eps):
    """Eq. 1: mean and deviation of each channel over N, h and w, dividing by N h w."""
    N, C, h, w = X.shape
    mu, sigma = np.zeros(C), np.zeros(C)
    for c in range(C):
        total = 0.0
        for value in X[:, c].ravel():
            total += value
        mu[c] = total / (N * h * w)
        squares = 0.0
        for value in X[:, c].ravel():
            squares += (value - mu[c]) ** 2
        sigma[c] = math.sqrt(squares / (N * h * w) + eps)
    return mu, sigma


def instance_stats(X, eps):
    """Eq. 4: Eq. 1 of each image alone."""
    pairs = [channel_stats(X[n : n + 1], eps) for n in range(len(X))]
    return np.stack([mu for mu, _ in pairs]), np.stack([sigma for _, sigma in pairs])


def restyle(X, mu, sigma, d_mu, d_sigma):
    """Eq. 7 as printed: (sigma + d_sigma) (X - mu) / sigma + mu + d_mu, for (C,) statistics."""
    out = np.empty_like(X)
    for n in range(X.shape[0]):
        for c in range(X.shape[1]):
            out[n, c] = (sigma[c] + d_sigma[c]) * (X[n, c] - mu[c]) / sigma[c] + mu[c] + d_mu[c]
    return out


def softmax(z):
    """Rows of probabilities."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def dense(y, O, y_b=None, w=1.0):
    """The target distribution: w on y, 1 - w on y_b; w is a number or one for each image."""
    Y = np.zeros((len(y), O))
    for n in range(len(y)):
        share = w if np.ndim(w) == 0 else w[n]
        Y[n, y[n]] += share
        if y_b is not None:
            Y[n, y_b[n]] += 1 - share
    return Y


def cross_entropy(z, Y):
    """-(1/N) sum_n sum_o Y log softmax(z)."""
    p = softmax(z)
    return -sum(
        Y[n, o] * math.log(p[n, o]) for n in range(len(z)) for o in range(z.shape[1]) if Y[n, o]
    ) / len(z)


def cosines(f, V):
    """Cosine of every feature with every class direction, (N, O)."""
    return np.array([[a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for b in V] for a in f])


def psi(c, m):
    """cos(arccos c + m), and its line beyond pi - m."""
    return math.cos(math.acos(c) + m) if c > math.cos(math.pi - m) else c - m * math.sin(math.pi - m)


def arcface(f, V, Y, m, s):
    """Eq. 11, dense in the target."""
    c = cosines(f, V)
    zeta = np.array(
        [
            [s * (y * psi(x, m) + (1 - y) * x) for x, y in zip(*row, strict=True)]
            for row in zip(c, Y, strict=True)
        ]
    )
    return cross_entropy(zeta, Y)


def arcface_two_term(f, V, y, y_b, w, m, s):
    """w ArcFace(y) + (1 - w) ArcFace(y_b), image by image."""
    O, total = len(V), 0.0
    for n in range(len(f)):
        share = w if np.ndim(w) == 0 else w[n]
        total += share * arcface(f[n : n + 1], V, dense(y[n : n + 1], O), m, s)
        if y_b is not None:
            total += (1 - share) * arcface(f[n : n + 1], V, dense(y_b[n : n + 1], O), m, s)
    return total / len(f)


def js(z, z_t):
    """Eq. 14: half the divergences of both distributions from their middle."""
    total = 0.0
    for p, q in zip(softmax(z), softmax(z_t), strict=True):
        for a, b in zip(p, q, strict=True):
            middle = (a + b) / 2
            total += a * math.log(a / middle) / 2 + b * math.log(b / middle) / 2
    return total / len(z)


def consistency(views, floor):
    """Mean over views and images of KL(p || M), M the mean distribution kept at floor or above (ABA)."""
    p = [softmax(z) for z in views]
    total = 0.0
    for n in range(len(p[0])):
        for o in range(p[0].shape[1]):
            M = max(sum(q[n, o] for q in p) / len(p), floor)
            total += sum(q[n, o] * np.log(q[n, o] / M) for q in p)
    return total / len(p) / len(p[0])


def ascent_gradient(f, mu, sigma, e_mu, e_sigma, K_mu, K_sigma, W, b, V, Y, lam, m, s):
    """dL_adv/dK_mu and dL_adv/dK_sigma in closed form, for a perturbation of pooled features."""
    N, D = f.shape
    u = (f - mu) / sigma
    f_t = f + (e_sigma * K_sigma) * u + e_mu * K_mu
    G = lam * (softmax(f_t @ W.T + b) - Y) @ W / N
    c = cosines(f_t, V)
    V_hat = V / np.linalg.norm(V, axis=1, keepdims=True)
    q = softmax(
        np.array(
            [
                [s * (Y[n, o] * psi(c[n, o], m) + (1 - Y[n, o]) * c[n, o]) for o in range(len(V))]
                for n in range(N)
            ]
        )
    )
    for n in range(N):
        length = np.linalg.norm(f_t[n])
        for o in range(len(V)):
            inside = c[n, o] > math.cos(math.pi - m)
            slope = math.cos(m) + math.sin(m) * c[n, o] / math.sqrt(1 - c[n, o] ** 2) if inside else 1.0
            R = (q[n, o] - Y[n, o]) * s * (Y[n, o] * slope + 1 - Y[n, o]) / N
            G[n] += (1 - lam) * R * (V_hat[o] - c[n, o] * f_t[n] / length) / length
    g_mu, g_sigma = np.zeros(D), np.zeros(D)
    for d in range(D):
        for n in range(N):
            g_mu[d] += e_mu[d] * G[n, d]
            g_sigma[d] += e_sigma[d] * G[n, d] * u[n, d]
    return g_mu, g_sigma


def finite_differences(function, x, h=1e-6):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (function(up) - function(down)) / (2 * h)
    return gradient


def coral(features, groups):
    """Mean over pairs of domains of mean squared differences of means and of covariances (n - 1)."""
    total, pairs = 0.0, 0
    for a in range(len(groups)):
        for b in range(a + 1, len(groups)):
            fa, fb = features[groups[a]], features[groups[b]]
            total += ((fa.mean(0) - fb.mean(0)) ** 2).mean()
            total += ((np.cov(fa.T, ddof=1) - np.cov(fb.T, ddof=1)) ** 2).mean()
            pairs += 1
    return total / pairs


def scale_slope(z, Y):
    """d CE(w z, Y) / dw at w = 1: mean of sum_o p z - sum_o Y z."""
    p = softmax(z)
    return sum((p[n] - Y[n]) @ z[n] for n in range(len(z))) / len(z)
