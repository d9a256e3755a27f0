"""Predictions in dataset order, batch-norm statistics as torch re-estimates them, and WILDS' numbers."""

import copy
from itertools import chain

import numpy as np
import pytest
import torch

from abra_wilds.data.datasets.catalogue import data_info, load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.loaders import make_eval_loader, make_train_loader
from abra_wilds.engine.evaluation.evaluate import (
    by_cell,
    plain_images,
    predict,
    reestimate_bn,
    save_predictions,
    score,
)
from abra_wilds.methods import METHODS
from abra_wilds.nets.staged import BATCH_NORMS
from tests import runs
from tests.helpers import make_method

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(root):
    """(dataset, grouper by plate)."""
    dataset = load_dataset("rxrx1", root)
    return dataset, make_grouper(dataset, ("experiment", "plate"))


@pytest.fixture
def method(data):
    torch.manual_seed(0)
    info = data_info(data[0], split_subset(data[0], "train"), data[1])
    return METHODS["ABRA"](runs.tiny_backbone("", 3, False, False), info, METHODS["ABRA"].Config())


def loader(data, split, kind, batch_size=5):
    return make_eval_loader(split_subset(data[0], split), data[1], eval_loader=kind, batch_size=batch_size)


@pytest.mark.parametrize("split", runs.SPLITS)
def test_the_grouped_loader_gives_the_predictions_of_the_standard_one(data, method, split):
    """The rows of the data set are not sorted by plate, so that the grouped loader has to put them back."""
    seen = []
    grouped = predict(
        method, loader(data, split, "group"), CPU, watch=lambda _, b: seen.append(b.rows.tolist())
    )
    standard = predict(method, loader(data, split, "standard"), CPU)
    assert torch.equal(grouped, standard)
    assert list(chain(*seen)) != sorted(chain(*seen)) == list(range(64))
    assert standard.dtype == torch.int64 and len(set(standard.tolist())) > 1


def test_dataset_order_survives_a_loader_that_mixes_everything(data, method):
    shuffled = make_train_loader(
        split_subset(data[0], "test"), data[1], train_loader="standard", batch_size=7, seed=3
    )
    rows = [b.rows.tolist() for b in shuffled]
    assert list(chain(*rows)) != sorted(chain(*rows))
    assert torch.equal(predict(method, shuffled, CPU), predict(method, loader(data, "test", "standard"), CPU))


def test_predicting_leaves_evaluation_mode_and_touches_no_statistic(data, method):
    before = copy.deepcopy(method.state_dict())
    predict(method.train(), loader(data, "val", "standard"), CPU)
    assert not method.training
    assert runs.differences(dict(before), dict(method.state_dict())) == []


def test_reestimated_statistics_are_those_of_torch(data, method):
    batches = [b.x.float() + 3 for b in loader(data, "test", "standard", 16)]
    twin = copy.deepcopy(method)
    torch.optim.swa_utils.update_bn(batches, twin.net)
    reestimate_bn(method, method.features, batches)
    assert runs.differences(dict(method.state_dict()), dict(twin.state_dict())) == []


def test_reestimated_statistics_are_the_plain_average_over_batches():
    """Of the first batch norm, whose input does not depend on the others: by hand."""
    method = make_method("ERM")
    rng = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, 6, 6, generator=rng, dtype=torch.float64) * s + s for s in (1, 2, 5)]
    reestimate_bn(method, method.features, batches)
    conv, norm = method.net.stages["stem"][:2]
    with torch.no_grad():
        stats = [torch.var_mean(conv(x), dim=(0, 2, 3), correction=1) for x in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([m for _, m in stats]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([v for v, _ in stats]).mean(0))


@pytest.mark.parametrize("fails", [False, True])
def test_reestimating_puts_momentum_and_mode_back(fails):
    method = make_method("ERM")
    norms = [m for m in method.modules() if isinstance(m, BATCH_NORMS)]
    for i, m in enumerate(norms):
        m.momentum = 0.1 * (i + 1)
    modes = []

    def forward(x):
        y = method.features(x)
        modes.append((method.training, {m.training for m in norms}, {m.momentum for m in norms}))
        if fails:
            raise KeyboardInterrupt
        return y

    method.train()
    try:
        reestimate_bn(method, forward, [torch.randn(4, 3, 6, 6, dtype=torch.float64)])
    except KeyboardInterrupt:
        assert fails
    assert modes == [(False, {True}, {1.0})]
    assert [m.momentum for m in norms] == pytest.approx([0.1 * (i + 1) for i in range(len(norms))])
    assert not any(m.training for m in method.modules())


@pytest.mark.parametrize(("name", "part"), [("DANN", "discriminator"), ("BYOL", "teacher")])
def test_reestimating_leaves_alone_what_prediction_does_not_reach(name, part):
    method = make_method(name)
    with torch.no_grad():
        for m in method.modules():
            if isinstance(m, BATCH_NORMS):
                m.running_mean.fill_(0.5)
    inside = {id(m) for n, child in method.named_children() if part in n for m in child.modules()}
    reestimate_bn(method, method.predict, [torch.randn(4, 3, 6, 6, dtype=torch.float64)])
    norms = [m for m in method.modules() if isinstance(m, BATCH_NORMS)]
    kept = [m for m in norms if bool((m.running_mean == 0.5).all())]
    assert kept and {id(m) for m in kept} >= {id(m) for m in norms if id(m) in inside}
    assert not any(
        bool((m.running_mean == 0.5).any()) for m in method.net.modules() if isinstance(m, BATCH_NORMS)
    )


def test_plain_images_are_those_that_evaluation_sees(data, method):
    subset = loader(data, "val", "standard")
    images = torch.cat(list(plain_images(subset, CPU, None)))
    torch.testing.assert_close(images.mean((2, 3)), torch.zeros(64, 3), atol=1e-5, rtol=0)
    with torch.no_grad():
        method.eval()
        assert torch.equal(method.predict(images).argmax(1), predict(method, subset, CPU))
    assert next(iter(plain_images(subset, CPU, (40, 48)))).shape == (5, 3, 40, 48)


def test_evaluate_is_wilds_evaluation(data):
    subset = split_subset(data[0], "test")
    y_pred = torch.where(torch.arange(64) % 3 == 0, (subset.y_array + 1) % 9, subset.y_array)
    results = score(subset, y_pred)
    wanted, _ = data[0].eval(y_pred, subset.y_array, subset.metadata_array)
    assert results == {k: float(v) for k, v in wanted.items()}
    right = (y_pred == subset.y_array).numpy()
    names = np.array(data[0]._metadata_map["cell_type"])[subset.metadata_array[:, 0].numpy()]
    assert results["acc_avg"] == pytest.approx(right.mean())
    assert by_cell(results) == pytest.approx({c: right[names == c].mean() for c in ("HEPG2", "HUVEC")})


def test_a_cell_type_that_does_not_occur_has_no_accuracy():
    results = {"acc_avg": 0.5, "acc_cell_type:A": 0.5, "count_cell_type:A": 2.0}
    assert by_cell({**results, "acc_cell_type:B": 0.0, "count_cell_type:B": 0.0}) == {"A": 0.5}


def test_predictions_are_saved_one_a_line(tmp_path):
    path = tmp_path / "pred.csv"
    save_predictions(path, torch.tensor([3, 0, 1138]))
    assert path.read_bytes() == b"3\n0\n1138\n"
    assert [p.name for p in tmp_path.iterdir()] == ["pred.csv"]
