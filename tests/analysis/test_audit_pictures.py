"""Pictures without cells: what stays and what goes, against loops over pixels."""

import numpy as np
import torch

from abra_wilds.analysis.audit import pictures


def made(dtype=np.uint8, side=24):
    """Noise around 20, and a square of 9 bright pixels a side in the second channel of two images."""
    rng = np.random.default_rng(0)
    x = rng.integers(15, 26, (3, 2, side, side)).astype(dtype)
    x[:2, 1, 8:17, 6:15] += 180
    return torch.from_numpy(x)


def test_cells_are_what_is_bright_in_any_channel_and_a_margin():
    x = made()
    x[:, 0] = 20
    cells = pictures.cells_of(x)
    assert cells.shape == (3, 1, 24, 24) and cells[:2, 0, 8:17, 6:15].all()
    rows, columns = np.nonzero(cells[0, 0].numpy())
    assert rows.min() >= 6 and rows.max() <= 18 and columns.min() >= 4 and columns.max() <= 16
    assert 0.3 < cells[2].float().mean() < 1, "of noise the brighter half, and what is beside it"


def test_masked_cells_have_the_mean_of_the_background_and_all_else_stays():
    x = made()
    cells, found = pictures.cells_of(x).numpy(), pictures.cells_masked(x).numpy()
    for i in range(3):
        for c in range(2):
            own = cells[i, 0]
            assert (found[i, c][~own] == x.numpy()[i, c][~own]).all()
            assert (found[i, c][own] == np.round(x.numpy()[i, c][~own].mean())).all()


def test_background_alone_has_pixels_of_the_background_alone_all_channels_of_one_place():
    x = made()
    x[:, 0] = torch.arange(24 * 24).reshape(24, 24) % 251  # a pixel names its place
    cells, found = pictures.cells_of(x)[:, 0].numpy(), pictures.background_only(x).numpy()
    for i in range(2):
        pixels = {tuple(v) for v in x[i].numpy()[:, ~cells[i]].T}
        assert {tuple(v) for v in found[i][:, cells[i]].T} <= pixels
        assert (found[i][:, ~cells[i]] == x[i].numpy()[:, ~cells[i]]).all()
    assert torch.equal(pictures.background_only(x), torch.from_numpy(found)), "by a fixed seed"


def test_an_image_of_cells_alone_becomes_blank(monkeypatch):
    monkeypatch.setattr(pictures, "cells_of", lambda x: torch.ones(len(x), 1, 24, 24, dtype=torch.bool))
    assert not pictures.background_only(made()).any()


def test_swapped_gains_give_each_channel_the_mean_of_the_next():
    x = made()
    means = x.float().mean((2, 3))
    found = pictures.gains_swapped(x).float().mean((2, 3))
    torch.testing.assert_close(found[2], means[2].flip(0), atol=0.5, rtol=0)
    assert pictures.gains_swapped(x).dtype == torch.uint8
    sixteen = torch.from_numpy(made(np.int16).numpy() * 100)
    assert pictures.gains_swapped(sixteen).dtype == torch.int16
