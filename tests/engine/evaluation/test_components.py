"""Components of a saved model, and predictions by them: kept, fitted again, blind to labels, alike cut."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.engine.evaluation import components as module
from abra_wilds.engine.evaluation.components import adapter_of, components_path, fit_components
from abra_wilds.engine.evaluation.evaluate import predict
from abra_wilds.engine.evaluation.results import load_method
from abra_wilds.engine.evaluation.saved import changed, predict_saved, saved_config
from abra_wilds.engine.setup import open_evaluation
from abra_wilds.errors import InputError
from abra_wilds.functional.effects import EffectSums, mix_spread
from abra_wilds.functional.stats import instance_moments
from abra_wilds.results.names import read_model_name
from abra_wilds.tta.components import Components
from abra_wilds.tta.plan import known_controls_of, split_plan
from tests import disks, runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"
KEPT = "rxrx1_seed:0_epoch:best_components_plate.pth"
OF = ("checkpoint_sha256", "data_sha256", "controls", "form")  # whose components they are
EB = {"tta": "eb_bn", "tta_min": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small(tiny):
    """The tiny network in place of a ResNet."""


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """The folder of a run of ERM without adaptation."""
    folder = tmp_path_factory.mktemp("trained")
    fit(run_config("ERM", **runs.settings(root, folder, "ERM", lr=0.02)))
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def predicted(folder, out, splits=None, **flags):
    """{split: predictions} of the command."""
    records = predict_saved(folder / MODEL, splits, out, EB | flags)
    return {r.split: np.loadtxt(out / r.predictions, dtype=int).tolist() for r in records}


def opened(folder, **flags):
    """Configuration, data and method of a saved model."""
    from abra_wilds.engine.artifacts.folder import RunFolder

    named = read_model_name(MODEL)
    config = changed(saved_config(RunFolder(folder, named.dataset, named.seed)), EB | flags)
    setup = open_evaluation(config, None)
    return config, setup, load_method(config, setup, folder / MODEL)[0]


def test_components_are_those_of_every_image_by_hand(trained, root):
    """All plates have fewer images than are drawn; here they are read one by one, and hooked by name."""
    config, setup, method = opened(trained)
    found = fit_components(config, setup, method)
    subset = split_subset(setup.dataset, "train")
    fields = [setup.dataset.metadata_fields.index(name) for name in ("experiment", "plate")]
    _, g = np.unique(subset.metadata_array[:, fields].numpy(), axis=0, return_inverse=True)
    y, seen = subset.y_array, {}
    names = [name for name, m in method.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    norms = dict(method.named_modules())
    for name in names:
        norms[name].register_forward_pre_hook(lambda m, a, name=name: seen.setdefault(name, []).append(a[0]))
    from abra_wilds.data.augment.transforms import augment
    from abra_wilds.data.reading.images import read_image

    with torch.no_grad():
        for row in subset.indices:
            method.predict(augment(read_image(setup.dataset, int(row))[None], "none"))
    assert list(found.means) == list(found.variances) == names
    for name in names:
        for moments, made, own in zip(
            instance_moments(torch.cat(seen[name])),
            (found.means, found.variances),
            (norms[name].running_mean, norms[name].running_var),
            strict=True,
        ):
            sums = EffectSums(setup.info.n_classes, int(g.max()) + 1, moments.shape[1])
            sums.add((moments - own).double(), y, torch.from_numpy(g.ravel()))
            wanted = sums.effects()
            torch.testing.assert_close(made[name].within, wanted.within, rtol=1e-3, atol=1e-9)
            torch.testing.assert_close(made[name].between, wanted.between, rtol=1e-2, atol=1e-7)
            a, b = (e.scores @ e.loadings for e in (made[name], wanted))
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    counts = np.zeros((g.max() + 1, setup.info.n_classes))
    np.add.at(counts, (g.ravel(), y.numpy()), 1)
    np.testing.assert_allclose(found.pi, counts.sum(0) / counts.sum())
    assert found.usual == pytest.approx(mix_spread(torch.from_numpy(counts)))
    assert (found.group, found.measured_on) == ("plate", "val")


def test_components_are_kept_and_fitted_anew_for_another_model_or_other_data(
    run_folder, tmp_path, monkeypatch
):
    first = predicted(run_folder, tmp_path / "a", ["test"])
    kept = (run_folder / KEPT).read_bytes()
    assert (
        Components.from_state(
            {k: v for k, v in torch.load(run_folder / KEPT, weights_only=True).items() if k not in OF}
        ).group
        == "plate"
    )
    fits, original = [], fit_components
    monkeypatch.setattr(module, "fit_components", lambda *args: fits.append(args) or original(*args))
    assert predicted(run_folder, tmp_path / "b", ["test"]) == first and not fits
    predicted(run_folder, tmp_path / "group", ["test"], tta_group="experiment")
    assert len(fits) == 1 and (run_folder / KEPT.replace("plate", "experiment")).exists()

    state = torch.load(run_folder / MODEL, weights_only=True)
    state["algorithm"]["net.stages.stem.1.running_mean"] += 1
    torch.save(state, run_folder / MODEL)
    predicted(run_folder, tmp_path / "c", ["test"])
    assert len(fits) == 2 and (run_folder / KEPT).read_bytes() != kept
    of = torch.load(run_folder / KEPT, weights_only=True)
    torch.save({**of, "data_sha256": "other"}, run_folder / KEPT)
    predicted(run_folder, tmp_path / "d", ["test"])
    assert len(fits) == 3 and torch.load(run_folder / KEPT, weights_only=True)["data_sha256"] != "other"


def test_a_damaged_file_is_a_sentence_and_one_of_another_form_too(run_folder, tmp_path):
    predicted(run_folder, tmp_path / "a", ["test"])
    state = torch.load(run_folder / KEPT, weights_only=True)
    torch.save({**state, "more": 1}, run_folder / KEPT)
    with pytest.raises(InputError, match="fit them again"):
        predicted(run_folder, tmp_path / "b", ["test"])
    (run_folder / KEPT).write_bytes(b"no file of torch")
    with pytest.raises(InputError, match=KEPT):
        predicted(run_folder, tmp_path / "c", ["test"])


@pytest.mark.skipif(sys.platform != "linux", reason="root is bound by rights as Linux binds it")
def test_a_run_that_may_not_be_written_is_predicted_all_the_same(run_folder, tmp_path):
    before = runs.names_in(run_folder)
    with disks.mode(run_folder, 0o555):
        found = predicted(run_folder, tmp_path / "a", ["test"])
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, run_folder, "*_components_*", 0)
        assert predicted(run_folder, tmp_path / "full", ["test"]) == found
    assert runs.names_in(run_folder) == before
    assert predicted(run_folder, tmp_path / "b", ["test"]) == found and (run_folder / KEPT).exists()


def permuted(root, folder, rows_of, seed=0):
    """A root_dir in which labels are permuted among the rows of the test split that `rows_of` names."""
    data = folder / "rxrx1_v1.0"
    data.mkdir(parents=True)
    for name in ("images", "RELEASE_v1.0.txt"):
        (data / name).symlink_to(root / "rxrx1_v1.0" / name)
    table = pd.read_csv(root / "rxrx1_v1.0" / "metadata.csv")
    rows = table.index[(table["dataset"] == "test") & rows_of(table)]
    order = np.random.default_rng(seed).permutation(rows)
    assert (table.loc[rows, "sirna_id"].to_numpy() != table.loc[order, "sirna_id"].to_numpy()).any()
    table.loc[rows, "sirna_id"] = table.loc[order, "sirna_id"].to_numpy()
    table.to_csv(data / "metadata.csv", index=False)
    return folder


TREATED = ("treatment",)


@pytest.mark.parametrize(("kind", "well_types"), [("none", (*TREATED, "negative_control")), ("all", TREATED)])
def test_no_label_of_a_bio_batch_enters_but_those_of_known_controls(
    run_folder, root, tmp_path, kind, well_types
):
    other = permuted(root, tmp_path / "root", lambda table: table["well_type"].isin(well_types))
    flags = {"tta_controls": kind}
    found = predicted(run_folder, tmp_path / "a", ["test", "id_test"], **flags)
    assert predicted(run_folder, tmp_path / "b", ["test", "id_test"], root_dir=str(other), **flags) == found
    assert len(set(found["test"])) > 1


def logits_of(folder, split="test", **flags):
    """Logits (n, O) of a split in dataset order, and the labels that the adapter gets."""
    config, setup, method = opened(folder, **flags)
    subset, known = setup.subsets[split], known_controls_of(setup.subsets[split], config.eval)
    z = torch.zeros(len(subset), setup.info.n_classes)

    def watch(found, batch):
        z[batch.rows] = found

    adapter = adapter_of(config.eval, config, setup, method, folder / MODEL)
    loader = setup.eval_loaders[split]
    predict(method, loader, CPU, config.data.size, watch, adapter=adapter, known=known)
    return z, known


def test_controls_that_are_known_enter_by_their_kind(run_folder, root):
    dataset = load_dataset("rxrx1", root)
    subset = split_subset(dataset, "test")
    given = {
        kind: logits_of(run_folder, tta_controls=kind) for kind in ("all", "positive", "negative", "none")
    }
    for kind, (_, known) in given.items():
        rows = torch.from_numpy(control_rows(dataset, kind)[np.asarray(subset.indices)])
        assert torch.equal(known, torch.where(rows, subset.y_array, -1)), kind
    assert (given["negative"][1] == 8).sum() == 8 and (given["positive"][1] == -1).all()
    assert torch.equal(given["all"][0], given["negative"][0]) and torch.equal(
        given["positive"][0], given["none"][0]
    )
    assert not torch.equal(given["all"][0], given["none"][0])


def test_other_adaptations_know_no_class(run_folder):
    config, setup, _ = opened(run_folder)
    assert known_controls_of(setup.subsets["test"], EvalConfig(tta="plate_bn")) is None
    assert known_controls_of(setup.subsets["test"], config.eval) is not None


@pytest.mark.parametrize("group", ["plate", "experiment"])
def test_cutting_bio_batches_changes_no_logit(run_folder, group):
    whole, _ = logits_of(run_folder, tta_group=group, tta_min=2)
    for most in (5, 8):
        cut, _ = logits_of(run_folder, tta_group=group, tta_min=2, tta_batch_size=most)
        torch.testing.assert_close(cut, whole, rtol=0, atol=2e-5)


def test_one_image_alone_is_predicted_as_without_adaptation(run_folder):
    config, setup, method = opened(run_folder, tta_min=1)
    adapter, subset = adapter_of(config.eval, config, setup, method), setup.subsets["test"]
    plan = split_plan(subset, EvalConfig(tta="batch_bn", tta_min=1, tta_batch_size=1), 1)
    found = []
    for each in (adapter, None):
        z, loader = [], Loader(subset, setup.grouper, PassSampler(plan, 1))
        more = {} if each is None else {"adapter": each}
        predict(method, loader, CPU, None, lambda logits, _, z=z: z.append(logits), **more)
        found.append(torch.cat(z))
    assert len(found[0]) == 64 and torch.equal(*found)


def test_predictions_say_which_controls_were_known_and_what_components_were_found(run_folder, tmp_path):
    records = [
        predict_saved(run_folder / MODEL, ["test"], tmp_path / kind, EB | {"tta_controls": kind})[0]
        for kind in ("negative", "all")
    ]
    assert [r.tta for r in records] == ["eb_bn_min8_negative_controls", "eb_bn_min8"]
    assert len({r.config_sha256 for r in records}) == 2
    log = (tmp_path / "negative" / "log.txt").read_text()
    assert "Components of 5 batch norms" in log and "posteriors of val" in log


def test_a_run_that_trains_with_it_evaluates_by_the_model_of_each_epoch(root, tmp_path):
    records = fit(run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", lr=0.02, **EB)))
    own = {r.split: r for r in records if r.checkpoint == "best"}
    again = predict_saved(tmp_path / "run" / MODEL, None, tmp_path / "again", {})
    assert {r.tta for r in records} == {"eb_bn_min8"} and len(again) == 3
    for r in again:
        ours, theirs = (
            (where / each.predictions).read_bytes()
            for where, each in ((tmp_path / "run", own[r.split]), (tmp_path / "again", r))
        )
        assert ours == theirs
    assert components_path(tmp_path / "run" / MODEL, "plate").name == KEPT


def test_certificates_stand_beside_the_predictions_and_know_no_label(run_folder, tmp_path):
    predict_saved(run_folder / MODEL, ["test"], tmp_path / "a", EB)
    (path,) = (tmp_path / "a").glob("*split:test*certificates.csv")
    rows = pd.read_csv(path)
    assert rows["split"].eq("test").all() and rows["bio_batch"].is_unique and len(rows)
    assert (rows["low"] <= rows["accuracy"]).all() and (rows["accuracy"] <= rows["high"]).all()
    assert set(rows["advice"]) <= {"adapt", "do not adapt", "cannot tell"} and rows["because"].notna().all()
    assert "Estimated accuracy of test, without its labels" in (tmp_path / "a" / "log.txt").read_text()
    predict_saved(run_folder / MODEL, ["test"], tmp_path / "plain", {"tta": "plate_bn", "tta_min": 2})
    assert not list((tmp_path / "plain").glob("*certificates*"))
