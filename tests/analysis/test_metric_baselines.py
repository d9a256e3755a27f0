"""Baselines: statistics of raw channels against loops, positions, and weights that nothing has trained."""

import numpy as np
import pandas as pd
import torch

from abra_wilds.analysis.metrics import baselines
from abra_wilds.engine.setup import build_method, evaluation_loaders
from abra_wilds.nets.staged import BATCH_NORMS


def smoothed(image):
    """Means over 3 x 3 pixels, of those that there are at the rim."""
    H, W = image.shape
    places = [(slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)) for i in range(H) for j in range(W)]
    return np.array([image[place].mean() for place in places]).reshape(H, W)


def otsu(values):
    """The share above the threshold of least variance inside both sides, by trying each of 256 levels.

    It is 0 where less than 0.68 of the variance is between the sides.
    """
    v = values.astype(np.float64).ravel()
    level = np.round((v - v.min()) / max(v.max() - v.min(), 1e-6) * 255)
    best = (np.inf, 0.0)
    for t in range(256):
        low, high = level[level <= t], level[level > t]
        if len(low) and len(high):
            best = min(best, (low.var() * len(low) + high.var() * len(high), len(high) / len(level)))
    return best[1] if best[0] < 0.32 * level.var() * len(level) else 0.0


def test_channel_statistics_are_mean_deviation_and_the_share_above_otsus_threshold():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (5, 2, 16, 16))
    x[:, 0, :4] += 150  # a quarter is foreground
    x[3, 1] = 7  # a blank channel
    found = baselines.channel_statistics(torch.from_numpy(x.astype(np.uint8))).numpy()
    flat = x.reshape(5, 2, -1)
    np.testing.assert_allclose(found[:, :2], flat.mean(2), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2:4], flat.std(2), rtol=1e-5)
    expected = np.array([[otsu(smoothed(channel)) for channel in image] for image in x])
    np.testing.assert_allclose(found[:, 4:], expected, atol=1e-6)
    assert (found[:, 4] > 0.2).all() and (found[:, 4] < 0.35).all()
    assert (found[:, 5] == 0).all(), "noise and nothing are no foreground"


def test_position_is_the_row_and_the_column_alone():
    table = pd.DataFrame({"Metadata_Well": ["B02", "B03", "C02", "17", "B02"]})
    f = baselines.plate_position(table)
    together = f @ f.T
    assert (np.diag(together) == 2).all()
    assert [together[0, j] for j in (1, 2, 3, 4)] == [1, 1, 0, 2]


def test_the_untrained_copy_has_the_first_weights_of_the_seed_and_statistics_of_the_images(saved):
    loaders = evaluation_loaders(saved.config, saved.setup, ["val"])
    copy, channels = baselines.untrained_copy(saved, loaders)
    first = build_method(saved.config, saved.setup.info, load=False)
    for (name, a), b in zip(copy.method.named_parameters(), first.parameters(), strict=True):
        assert torch.equal(a, b), name
    trained = dict(saved.method.named_parameters())
    assert any(not torch.equal(a, trained[name]) for name, a in first.named_parameters())
    (loader,) = loaders.values()
    raw = torch.cat([batch.x for batch in loader])
    rows = torch.cat([batch.rows for batch in loader])
    norm = next(m for m in copy.method.modules() if isinstance(m, BATCH_NORMS))
    maps = []
    hook = norm.register_forward_pre_hook(lambda _, given: maps.append(given[0].mean((0, 2, 3))))
    with torch.no_grad():
        for batch in loader:
            copy.method.predict(copy.standardised(batch.x))
    hook.remove()
    torch.testing.assert_close(norm.running_mean, torch.stack(maps).mean(0), atol=1e-5, rtol=1e-4)
    statistics = baselines.channel_statistics(raw).numpy()
    expected = np.empty_like(statistics)
    expected[rows.numpy()] = (statistics - statistics.mean(0)) / np.maximum(statistics.std(0), 1e-12)
    np.testing.assert_allclose(channels, expected, atol=1e-3)
    assert saved.method is not copy.method
