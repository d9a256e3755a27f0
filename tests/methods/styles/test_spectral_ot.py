"""Spectral-OT against a loop in NumPy, and what holds of its draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm, sqrtm

from abra_wilds.functional.spectra import cross_spectra
from abra_wilds.methods.styles import spectral_ot
from abra_wilds.methods.styles.spectral_ot import FARTHEST, LEAST, LEAST_SHARE, SpectralOTConfig
from tests.functional.test_spectra import slow_spectra
from tests.helpers import array, assert_is_erm, erm_like, make_batch, make_info, make_method, worst

G = (0, 1, 1, 0, 2, 2, 4, 4, 4, 0)
LINES = (7, 3, 3, 7)  # of the training bio-batches 0, 1, 2 and 4
PLACE = {0: 0, 1: 1, 2: 2, 4: 3}


def method_of(cfg=None, lines=LINES, **more):
    return make_method("Spectral-OT", cfg, info=replace(make_info(), cell_lines=lines), **more)


def batch_of(seed=1, w=None, size=8):
    return make_batch(G, seed=seed, w=w, size=size)


def slow_measures(S, b, y):
    """Level and deviation of each measured bio-batch, (R, C, C), from spectra (N, R, C, C)."""
    R, C = S.shape[1:3]
    line = np.array([LINES[k] for k in b])

    def log(mean):
        least = [LEAST + LEAST_SHARE * np.trace(mean[r]) / C for r in range(R)]
        return np.stack([np.real(logm(mean[r] + least[r] * np.eye(C))) for r in range(R)])

    own = {k: log(S[b == k].mean(0)) for k in set(b)}
    gap = {}
    for k in own:
        of_class = [S[(line == LINES[k]) & (y == label)].mean(0) for label in y[b == k]]
        gap[k] = own[k] - log(np.mean(of_class, axis=0))
    centred = {k: gap[k] - np.mean([gap[j] for j in gap if LINES[j] == LINES[k]], axis=0) for k in gap}
    return {k: own[k] - centred[k] for k in own}, centred


def slow_carried(x, b, level, deviation, noise, rings, spread):
    """Each image by loops over frequencies."""
    N, C, H, W = x.shape
    out = np.empty_like(x)
    for n in range(N):
        shift = spread * sum(noise[n, k] * deviation[k] for k in deviation)
        f = np.stack([np.fft.fft2(x[n, c]) for c in range(C)])
        for i, fy in enumerate(np.fft.fftfreq(H)):
            for j, fx in enumerate(np.fft.fftfreq(W)):
                r = min(round(np.hypot(fy, fx) * 2 * rings), rings)
                S, T = expm((level[b[n]] + deviation[b[n]])[r]), expm((level[b[n]] + shift)[r])
                root = np.real(sqrtm(S))
                inverse = np.linalg.inv(root)
                f[:, i, j] = inverse @ np.real(sqrtm(root @ T @ root)) @ inverse @ f[:, i, j]
        moved = np.real(np.fft.ifft2(f))
        mean, var = (s(moved, axis=(1, 2), keepdims=True) for s in (np.mean, np.var))
        x_mean, x_var = (s(x[n], axis=(1, 2), keepdims=True) for s in (np.mean, np.var))
        out[n] = (moved - mean) * np.sqrt((x_var + 1e-6) / (var + 1e-6)) + x_mean
    return out


def centred(batch):
    """Images without their means."""
    x = array(batch.x)
    return x - x.mean((2, 3), keepdims=True)


def test_the_loss_equals_the_slow_loop():
    method, batch = method_of(SpectralOTConfig(rings=3, strength=1.3)), batch_of()
    noise = torch.from_numpy(np.random.default_rng(5).normal(size=(len(G), 4)))
    method.drawn = lambda N: torch.einsum("nb,brij->nrij", 1.3 / 2**0.5 * noise, method.deviation)
    b = np.array([PLACE[g] for g in G])
    level, deviation = slow_measures(slow_spectra(centred(batch), 4), b, batch.target.y.numpy())
    x = slow_carried(array(batch.x), b, level, deviation, noise.numpy(), 3, 1.3 / 2**0.5)
    found = method(batch).loss
    assert float(method.freedom) == 2  # four bio-batches of two cell lines
    for k in range(4):
        np.testing.assert_allclose(array(method.deviation[k]), deviation[k], atol=1e-8)
    expected = erm_like(method)(replace(batch, x=torch.from_numpy(x))).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-7)
    assert abs(found.item() - erm_like(method)(batch).loss.item()) > 1e-4


@pytest.mark.parametrize("draws", ["measured", "independent"])
def test_drawn_bio_batches_spread_as_the_measured_ones(draws):
    method = method_of(SpectralOTConfig(rings=2, strength=0.5, draws=draws))
    method(batch_of())
    found = method.drawn(40_000)
    expected = 0.25 * method.deviation.square().sum(0) / 2
    assert worst(found.square().mean(0), expected) < 0.05 * expected.max()
    assert worst(found, found.mT) < 1e-12
    few = np.linalg.matrix_rank(array(found[:50].flatten(1)), tol=1e-8) <= 4
    assert few == (draws == "measured")


def test_without_a_draw_all_bio_batches_of_a_cell_line_get_its_level(monkeypatch):
    monkeypatch.setattr(spectral_ot, "with_moments_of", lambda z, x: z)
    method, batch = method_of(SpectralOTConfig(strength=0, rings=2)), batch_of()
    method(batch)
    b = method.place[batch.g]
    moved = cross_spectra(method.carried(batch.x, b), method.rings_of(batch.x), 3)
    for k in range(4):
        goal = torch.matrix_exp(method.level[k])
        assert worst(moved[b == k].mean(0)[1:], goal[1:]) < 1e-3  # ring 0 is the mean, which stays


def test_a_bio_batch_of_a_rare_mix_of_classes_does_not_deviate_by_that():
    """Two bio-batches whose images differ by class alone."""
    y = torch.tensor([0] * 3 + [1] + [0] + [1] * 3)
    x = batch_of().x[:2][y]
    b = torch.tensor([0] * 4 + [1] * 4)
    by_class, blind = (method_of(SpectralOTConfig(rings=3), lines=()) for _ in range(2))
    by_class.measure(x, b, y)
    blind.measure(x, b, torch.zeros_like(y))
    assert by_class.deviation.abs().max() < 1e-8 < 0.1 < blind.deviation.abs().max()


def test_measures_are_those_of_all_batches_of_the_first_epoch_and_then_stay():
    parts, whole = method_of(), method_of()
    batch = batch_of()
    for rows in (slice(0, 4), slice(4, 10)):
        parts.measure(batch.x[rows], parts.place[batch.g[rows]], batch.target.y[rows])
    whole.measure(batch.x, whole.place[batch.g], batch.target.y)
    assert worst(parts.deviation, whole.deviation) < 1e-10 and worst(parts.level, whole.level) < 1e-10
    before = whole.deviation.clone()
    whole.context = replace(whole.context, epoch=1)
    whole(batch_of(seed=3))
    assert torch.equal(whole.deviation, before) and whole.seen.sum() == len(G)


def test_a_bio_batch_that_was_not_seen_does_not_deviate_and_changes_no_other():
    method = method_of(SpectralOTConfig(rings=3))
    rows = [n for n, g in enumerate(G) if g != 2]
    batch = batch_of()
    method.measure(batch.x[rows], method.place[batch.g[rows]], batch.target.y[rows])
    b = np.array([PLACE[G[n]] for n in rows])
    level, deviation = slow_measures(slow_spectra(centred(batch)[rows], 4), b, batch.target.y[rows].numpy())
    assert (method.deviation[2] == 0).all() and method.deviation.isfinite().all()
    for k in (0, 1, 3):
        np.testing.assert_allclose(array(method.deviation[k]), deviation[k], atol=1e-8)
        np.testing.assert_allclose(array(method.level[k]), level[k], atol=1e-8)
    assert float(method.freedom) == 1  # 0 and 4 of one line; 1 is alone in its own


def test_a_bio_batch_that_training_does_not_have_fails():
    method, batch = method_of(), batch_of()
    with pytest.raises(IndexError):
        method.carried(batch.x, method.place[torch.full_like(batch.g, 5)])


def test_a_bio_batch_with_a_blank_channel_does_not_set_the_scale():
    method, batch = method_of(), batch_of()
    x = batch.x.clone()
    x[batch.g == 4, 1] = 0.0
    method.measure(x, method.place[batch.g], batch.target.y)
    assert method.deviation.abs().max() == FARTHEST
    assert method.carried(x, method.place[batch.g]).isfinite().all()


def test_it_says_so_where_no_bio_batch_deviates():
    alone = method_of(lines=(0, 1, 2, 3))
    logs = {key: float(value) for key, value in alone(batch_of()).logs.items()}
    assert "as ERM does" in alone.remark(logs)
    one_line = method_of()
    assert one_line.remark({key: float(v) for key, v in one_line(batch_of()).logs.items()}) is None
    assert method_of(SpectralOTConfig(p=0.0)).remark({"deviation": 0.0}) is None


def test_some_images_stay_where_they_are():
    method = method_of(SpectralOTConfig(p=0.3))
    batch = make_batch((0, 1, 2, 4) * 300, size=8)
    method.measure(batch.x, method.place[batch.g], batch.target.y)
    moved = (method.carried(batch.x, method.place[batch.g]) != batch.x).flatten(1).any(1)
    assert moved.double().mean() == pytest.approx(0.3, abs=0.04)


def test_six_channels_are_carried():
    info = replace(make_info(in_channels=6), cell_lines=LINES)
    method, batch = make_method("Spectral-OT", info=info), make_batch(G, in_channels=6, size=8)
    out = method(batch)
    assert out.loss.isfinite() and method.deviation.shape == (4, 21, 6, 6)


def test_channels_apart_share_nothing():
    method = method_of(SpectralOTConfig(channels="apart"))
    method(batch_of())
    off = method.deviation - torch.diag_embed(method.deviation.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-12 and method.deviation.abs().max() > 0.01


def test_without_a_cell_line_all_are_of_one():
    one, none = method_of(lines=(5, 5, 5, 5)), method_of(lines=())
    for method in (one, none):
        torch.manual_seed(0)
        method(batch_of())
    assert torch.equal(one.deviation, none.deviation)


@pytest.mark.parametrize("w", [None, 0.63])
def test_with_probability_zero_or_in_evaluation_it_is_erm(w):
    assert_is_erm(method_of(SpectralOTConfig(p=0.0)), batch_of(w=w))
    method = method_of().eval()
    erm = erm_like(method).eval()
    assert worst(method(batch_of(w=w)).loss, erm(batch_of(w=w)).loss) < 1e-12


def test_images_keep_mean_and_deviation():
    method, batch = method_of(), batch_of()
    method(batch)
    moved = method.carried(batch.x, method.place[batch.g])
    assert worst(moved.mean((2, 3)), batch.x.mean((2, 3))) < 1e-10
    assert worst(moved.std((2, 3)), batch.x.std((2, 3))) < 1e-4
    assert worst(moved, batch.x) > 0.01
