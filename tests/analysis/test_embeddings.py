"""Figs. 9 and 10: features are the model's, and pictures of them repeat themselves."""

import numpy as np
import pytest
import torch

from abra_wilds.analysis import embeddings
from abra_wilds.analysis.embeddings import embedded, image_features, projected
from abra_wilds.errors import InputError
from abra_wilds.tta.adapters import own_statistics
from tests.helpers import worst


@pytest.fixture
def without_umap(monkeypatch):
    monkeypatch.setattr(embeddings, "umap_class", lambda: None)


def blobs(n=60, D=6):
    """Three clouds."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, D)) + 5 * np.arange(n)[:, None] // (n // 3)


def test_the_classifier_makes_of_features_what_the_model_predicts(saved):
    _, batch = next(saved.read("test", saved.members("test"), ""))
    with torch.no_grad():
        plain = saved.method.classify(image_features(saved, batch.x, adapted=False))
        adapted = saved.method.classify(image_features(saved, batch.x, adapted=True))
    x = saved.standardised(batch.x)
    with torch.no_grad():
        assert worst(plain, saved.method.predict(x)) < 1e-5
    assert worst(adapted, own_statistics(saved.method, [x])[0]) < 1e-5
    assert worst(plain, adapted) > 1e-3


def test_every_image_becomes_a_point_with_its_metadata(saved, without_umap):
    points = embedded(saved, ("train", "test"))
    assert len(points) == points[0].of == 128
    subset = saved.setup.subsets["test"]
    names = subset.dataset.metadata_map
    expected = sorted(
        (names["cell_type"][c], names["experiment"][e], str(p), names["well"][w], str(s))
        for c, e, p, w, s, *_ in subset.metadata_array.tolist()
    )
    said = [p for p in points if p.split == "test"]
    assert sorted((p.cell_type, p.experiment, p.plate, p.well, p.site) for p in said) == expected
    assert {(p.projection, p.statistics) for p in points} == {("PCA", "running")}


def test_fewer_points_are_a_choice_of_the_seed(saved, without_umap):
    few, again = (embedded(saved, ("train", "test"), points=20) for _ in range(2))
    assert few == again and len(few) == 20 and few[0].of == 128


def test_pca_is_that_of_the_singular_vectors_of_standardised_features(without_umap):
    f = blobs()
    scaled = (f - f.mean(0)) / f.std(0)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    xy, kind = projected(f, seed=0)
    assert kind == "PCA" and np.allclose(np.abs(xy), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_a_feature_that_never_changes_counts_nothing(without_umap):
    f = blobs()
    wider = np.concatenate([f, np.full((len(f), 1), 7.0)], axis=1)
    assert np.allclose(np.abs(projected(f, 0)[0]), np.abs(projected(wider, 0)[0]), atol=1e-8)


def test_few_images_are_refused():
    with pytest.raises(InputError, match=r"7 images .*8 or more"):
        projected(blobs()[:7], seed=0)


@pytest.mark.slow
def test_umap_repeats_itself_by_its_seed_and_keeps_clouds_apart():
    pytest.importorskip("umap", reason="umap-learn is an extra")
    (a, kind), (b, _) = (projected(blobs(), 1) for _ in range(2))
    assert kind == "UMAP" and np.array_equal(a, b)
    centres = a.reshape(3, 20, 2).mean(1)
    assert np.linalg.norm(a.reshape(3, 20, 2) - centres[:, None], axis=2).max() < min(
        np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))
    )
