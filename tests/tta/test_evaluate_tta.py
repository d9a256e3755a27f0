"""Adaptation on real loaders: dataset order, byte-for-byte equality without it, by hand with it, in a run."""

import json
import re
from itertools import chain

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.config.evaluation import ONLINE_TTA, TTA, EvalConfig
from abra_wilds.config.run import PREDICTION_FLAGS
from abra_wilds.data.augment.transforms import standardise
from abra_wilds.data.datasets.catalogue import data_info, make_grouper, split_subset
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.reading.loaders import Loader, make_eval_loader
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.engine.evaluation.evaluate import predict, save_predictions
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.methods import METHODS
from abra_wilds.results.records import read_records
from abra_wilds.tta.adapters import make_adapter
from abra_wilds.tta.plan import split_plan
from abra_wilds.types import InputError
from tests import runs
from tests.tta.made import components
from tests.tta.reference import in_training_mode, with_statistics_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def method(dataset):
    """Trained by nothing, but with running statistics that are not those of any plate."""
    torch.manual_seed(0)
    grouper = make_grouper(dataset, ("experiment",))
    info = data_info(dataset, split_subset(dataset, "train"), grouper)
    made = METHODS["ERM"](runs.tiny_backbone("", 3, False, False), info, METHODS["ERM"].Config())
    with torch.no_grad():
        made.predict(3 * torch.randn(8, 3, 32, 32) + 1)
    return made.eval()


def loader(dataset, split, e, batch_size=5, groupby=("experiment",)):
    """The loader of a run with this evaluation."""
    subset, grouper = split_subset(dataset, split), make_grouper(dataset, groupby)
    return Loader(subset, grouper, PassSampler(split_plan(subset, e, batch_size), batch_size))


def images(dataset, split):
    """Every image of a split in dataset order, standardised."""
    subset = split_subset(dataset, split)
    every = make_eval_loader(subset, make_grouper(dataset, ("plate",)), eval_loader="standard", batch_size=64)
    return standardise(torch.cat([batch.x for batch in every])), subset


def plates_of(subset):
    """(n,) numbers of the plates."""
    return make_grouper(subset.dataset, ("experiment", "plate")).metadata_to_group(subset.metadata_array)


@pytest.mark.parametrize("split", ["val", "test"])
def test_plate_bn_is_training_mode_on_each_whole_plate_in_dataset_order(dataset, method, split):
    e = EvalConfig(tta="plate_bn")
    x, subset = images(dataset, split)
    plates, wanted = plates_of(subset), torch.full((64,), -1)
    for plate in plates.unique():
        wanted[plates == plate] = in_training_mode(method, x[plates == plate]).argmax(1)
    found = predict(method, loader(dataset, split, e), CPU, adapter=make_adapter(e))
    assert torch.equal(found, wanted)
    assert not torch.equal(found, predict(method, loader(dataset, split, e), CPU))


def test_batch_bn_is_training_mode_on_batches_in_dataset_order_and_the_rest_is_not_adapted(dataset, method):
    e = EvalConfig(tta="batch_bn", tta_batch_size=20, tta_min=5)
    x, _ = images(dataset, "val")
    with torch.no_grad():
        rest = method.predict(x[60:]).argmax(1)
    wanted = torch.cat([*(in_training_mode(method, x[i : i + 20]).argmax(1) for i in (0, 20, 40)), rest])
    assert torch.equal(predict(method, loader(dataset, "val", e), CPU, adapter=make_adapter(e)), wanted)


def test_another_plates_images_change_no_prediction(dataset, method):
    e = EvalConfig(tta="plate_bn")
    ordinary, changed = loader(dataset, "val", e), loader(dataset, "val", e)
    one = ordinary.sampler.plan[0].passes[0]
    own = changed.rows.indices[one]

    class Other(type(changed.rows)):
        def image(self, row, window):
            x = super().image(row, window)
            return x if row in own else 255 - x.flip(1)

    changed.rows.__class__ = Other
    a, b = (predict(method, each, CPU, adapter=make_adapter(e)) for each in (ordinary, changed))
    assert torch.equal(a[one], b[one]) and not torch.equal(a, b)


def test_controls_bn_uses_the_control_wells_of_the_plate_alone(dataset, method):
    e = EvalConfig(tta="controls_bn", tta_min=2)
    x, subset = images(dataset, "test")
    plates, is_control = plates_of(subset), torch.from_numpy(control_rows(dataset)[subset.indices])
    found = predict(method, loader(dataset, "test", e), CPU, adapter=make_adapter(e))
    for plate in plates.unique():
        here = plates == plate
        with torch.no_grad():
            wanted = with_statistics_of(method, x[here & is_control]).predict(x[here]).argmax(1)
        assert torch.equal(found[here], wanted)


@pytest.mark.parametrize("tta", TTA[1:])
def test_without_an_adapter_every_loader_gives_the_bytes_of_the_standard_one(dataset, method, tmp_path, tta):
    e = EvalConfig(tta=tta, tta_min=2, tta_batch_size=0 if tta == "controls_bn" else 7)
    subset, grouper = split_subset(dataset, "test"), make_grouper(dataset, ("cell_type",))
    standard = make_eval_loader(subset, grouper, eval_loader="standard", batch_size=9)
    save_predictions(tmp_path / "a", predict(method, standard, CPU))
    save_predictions(tmp_path / "b", predict(method, loader(dataset, "test", e), CPU))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(set((tmp_path / "a").read_text().split())) > 1


@pytest.mark.parametrize("tta", TTA[1:])
def test_labels_change_no_prediction(dataset, method, monkeypatch, tta):
    e = EvalConfig(tta=tta, tta_min=2)
    adapter = make_adapter(e, components(method))
    found = predict(method, loader(dataset, "test", e), CPU, adapter=adapter)
    y = dataset._y_array
    monkeypatch.setattr(dataset, "_y_array", y[torch.randperm(len(y), generator=torch.Generator())])
    assert not torch.equal(split_subset(dataset, "test").y_array, y[split_subset(dataset, "test").indices])
    assert torch.equal(predict(method, loader(dataset, "test", e), CPU, adapter=adapter), found)


def test_what_learns_from_pass_to_pass_is_put_back_between_bio_batches(dataset, method):
    """The bio-batches the other way round give the same predictions."""
    for tta in ONLINE_TTA:
        e = EvalConfig(tta=tta, tta_min=2, tta_batch_size=6)
        ordinary, subset = loader(dataset, "val", e), split_subset(dataset, "val")
        turned = PassSampler(ordinary.sampler.plan[::-1], 5)
        turned = Loader(subset, make_grouper(dataset, ("experiment",)), turned)
        a, b = (predict(method, each, CPU, adapter=make_adapter(e)) for each in (ordinary, turned))
        assert torch.equal(a, b)


def test_small_bio_batches_are_predicted_as_without_adaptation(dataset, method):
    e = EvalConfig(tta="plate_bn", tta_min=9)  # a plate of id_test has 8 images
    each = loader(dataset, "id_test", e)
    assert torch.equal(predict(method, each, CPU, adapter=make_adapter(e)), predict(method, each, CPU))


def test_passes_are_read_in_small_batches_and_watched_whole(dataset, method):
    """Ids of the training grouper come with every pass, whatever adaptation groups by."""
    e, seen = EvalConfig(tta="plate_bn"), []
    each = loader(dataset, "val", e, batch_size=5, groupby=("cell_type",))
    assert max(map(len, each.sampler)) == 4 and len(each) == 16
    predict(method, each, CPU, adapter=make_adapter(e), watch=lambda z, b: seen.append((len(z), b)))
    assert [n for n, _ in seen] == [16] * 4
    assert sorted(chain(*(b.rows.tolist() for _, b in seen))) == list(range(64))
    for _, b in seen:
        assert len(b.x) == 0 and b.g.tolist() == b.metadata[:, 0].tolist() and len(b.groups) == 1
        assert torch.equal(b.target.y, torch.as_tensor(split_subset(dataset, "val").y_array)[b.rows])


def test_a_pass_that_does_not_fit_is_a_sentence(dataset, method):
    def adapter(_method, _images, _known):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"16 images .*--batch_size") as caught:
        predict(method, loader(dataset, "val", EvalConfig(tta="plate_bn")), CPU, adapter=adapter)
    flags = set(re.findall(r"--(\w+)", str(caught.value).partition("predict a saved model")[2]))
    assert flags == {"amp", "device", "tta", "tta_batch_size"} <= set(PREDICTION_FLAGS)


# in a run


@pytest.fixture(scope="module")
def run(root, tiny, tmp_path_factory):
    """A run with --tta plate_bn, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    config = run_config("ERM", **runs.settings(root, folder, "ERM", tta="plate_bn", tta_min=8))
    return config, folder, fit(config)


def test_a_run_predicts_with_its_adaptation_and_says_so(run, root, dataset):
    config, folder, records = run
    assert {r.tta for r in records} == {"plate_bn_min8"} and read_records(folder / "results.jsonl") == records
    log = (folder / "log.txt").read_text()
    assert "--tta plate_bn on val: 64 images, 4 plates, 4 passes; statistics of 16 to 16 images; 0 cut" in log
    assert "--tta plate_bn on id_test: 64 images, 8 plates, 8 passes; statistics of 8 to 8 images" in log
    from abra_wilds.engine.setup import build_method, prepare

    trained = build_method(config, prepare(config).info)
    trained.load_state_dict(runs.state(folder)["algorithm"])
    x, subset = images(dataset, "val")
    plates, wanted = plates_of(subset), torch.full((64,), -1)
    for plate in plates.unique():
        wanted[plates == plate] = in_training_mode(trained.eval(), x[plates == plate]).argmax(1)
    found = np.loadtxt(folder / "rxrx1_split:val_seed:0_epoch:last_pred.csv", dtype=int)
    assert found.tolist() == wanted.tolist()


def test_group_columns_stay_those_of_training(run):
    _, folder, _ = run
    rows = runs.rows_of(folder / "val_algo.csv")
    for row in rows:
        counts = {k: float(v) for k, v in row.items() if k.startswith("count_group:")}
        assert sorted(counts.values())[-2:] == [32, 32] and sum(counts.values()) == 64, "two experiments"


def test_adaptation_in_evaluation_changes_no_training(run, root, tiny, tmp_path):
    _, folder, _ = run
    fit(run_config("ERM", **runs.settings(root, tmp_path / "plain", "ERM")))
    a, b = (runs.comparable(runs.state(f)) for f in (folder, tmp_path / "plain"))
    assert runs.differences(a["algorithm"], b["algorithm"]) == []
    assert runs.differences(a["optimizer"], b["optimizer"]) == []


def test_evaluating_again_gives_the_same_bytes(run, root):
    _, folder, _ = run
    path = folder / "rxrx1_split:test_seed:0_epoch:best_pred.csv"
    before = path.read_bytes()
    settings = runs.settings(root, folder, "ERM", tta="plate_bn", tta_min=8)
    evaluate_saved(run_config("ERM", **settings, eval_only=True))
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"tta \(was plate_bn, is none\)"):
        evaluate_saved(run_config("ERM", **runs.settings(root, folder, "ERM"), eval_only=True))
    assert json.loads((folder / "config.json").read_text())["values"]["tta"] == "plate_bn"
