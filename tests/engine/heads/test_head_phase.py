"""The head phase: classifiers on frozen features, by the real command on tiny data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import nn

from abra_wilds import METHODS, fit, run_config
from abra_wilds.config.fields import option
from abra_wilds.data.augment.transforms import augment
from abra_wilds.engine.artifacts.trackers import Tracker
from abra_wilds.engine.evaluation.evaluate import score
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.engine.heads import phase as head_phase
from abra_wilds.engine.heads.heads import Heads, features, head_optimizer
from abra_wilds.engine.schedule import set_learning_rate
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.engine.step import step
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.methods.erm import ERM
from abra_wilds.results.records import read_records
from abra_wilds.types import Diverged, HeadPhase, InputError
from tests import runs
from tests.helpers import make_batch, make_info, tiny_net, worst

RATES = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class ProbeConfig(MethodConfig):
    """Length of the head phase."""

    epochs: int = option(3, "passes over frozen features")


class Probe(Method):
    """ERM whose classifier is trained again on frozen features."""

    name = "Probe"
    Config = ProbeConfig
    forward = ERM.forward

    def head_phase(self):
        return HeadPhase(self.cfg.epochs, batch_size=16, rates=RATES)


@pytest.fixture(autouse=True)
def probe(monkeypatch, tiny):
    monkeypatch.setitem(METHODS, "Probe", Probe)


def config_of(root, folder, **changes):
    return run_config("Probe", **runs.settings(root, folder, "Probe", **{"n_epochs": 1, **changes}))


def opened(root, folder):
    """The configuration, data and method of a run, and the features of its splits."""
    config = config_of(root, folder)
    setup = prepare(config)
    method = build_method(config, setup.info)
    return config, setup, method, {s: features(config, setup, method, s) for s in ("train", "val")}


def some_heads(standardise=True, rates=RATES, dtype=torch.float64, **changes):
    """A method, features of 24 rows, and heads over them."""
    method = Probe(tiny_net(), make_info(), ProbeConfig()).to(dtype)
    rng = torch.Generator().manual_seed(0)
    f = 3 + 5 * torch.randn(24, method.head.in_features, dtype=dtype, generator=rng)
    torch.manual_seed(1)
    phase = HeadPhase(2, 8, rates=rates, standardise=standardise, **changes)
    return method, phase, f, Heads(method, phase, f).to(dtype)


def feature_batch(f, rows):
    batch = make_batch([0] * len(rows))
    return type(batch)(f[rows], batch.target, batch.g, batch.metadata, batch.rows, batch.groups)


@pytest.mark.parametrize("standardise", [True, False])
def test_folded_weights_give_on_raw_features_what_the_head_gives_on_standardised_ones(standardise):
    _, _, f, heads = some_heads(standardise)
    f_std = (f - f.mean(0)) / f.std(0, correction=0) if standardise else f
    for i, head in enumerate(heads.heads):
        nn.init.normal_(head.weight)
        folded = heads.folded(i)
        assert worst(nn.functional.linear(f, **folded), head(f_std)) < 1e-12


def test_a_constant_feature_is_left_alone_by_standardisation():
    method, phase, f, _ = some_heads()
    f[:, 1] = 7.0
    heads = Heads(method, phase, f).double()
    assert heads.std[1] == 1 and all(v.isfinite().all() for v in heads.folded(0).values())


def test_heads_start_alike_and_from_the_methods_classifier_where_asked():
    method, _, _, fresh = some_heads()
    kept = some_heads(keep_head=True, standardise=False)[3]
    assert all(torch.equal(head.weight, fresh.heads[0].weight) for head in fresh.heads)
    assert not torch.equal(fresh.heads[0].weight, method.head.weight)
    assert all(torch.equal(head.weight, method.head.weight) for head in kept.heads)


def trained(rates, start):
    _, phase, f, heads = some_heads(rates=rates)
    for head in heads.heads:
        head.load_state_dict(start)
    optimizer = head_optimizer(heads, phase)
    for k in range(3):
        set_learning_rate(optimizer, 1 - k / 3)
        step(heads, feature_batch(f, torch.arange(8 * k, 8 * k + 8)), optimizer)
    return [head.weight for head in heads.heads]


def test_heads_trained_side_by_side_end_as_each_would_alone():
    start = nn.Linear(tiny_net().d_feat, make_info().n_classes).double().state_dict()
    together = trained(RATES, start)
    alone = [trained((rate,), start)[0] for rate in RATES]
    assert all(worst(a, b) < 1e-12 for a, b in zip(together, alone, strict=True))
    assert worst(together[0], together[2]) > 1e-3


def test_the_head_that_is_best_on_validation_is_the_methods(root, tmp_path, monkeypatch):
    config, setup, method, cached = opened(root, tmp_path / "run")
    heads = Heads(method, method.head_phase(), cached["train"].f)
    for head in heads.heads:
        nn.init.normal_(head.weight)
    by_hand = []
    for i in range(len(RATES)):
        logits = nn.functional.linear(cached["val"].f, **heads.folded(i))
        by_hand.append(score(setup.subsets["val"], logits.argmax(1))["acc_avg"])
    chosen, value = head_phase.pick(config, setup, method, heads, cached["val"])
    assert len(set(by_hand)) > 1 and value == max(by_hand) and chosen == by_hand.index(max(by_hand))
    assert torch.equal(method.head.weight, heads.folded(chosen)["weight"])


def test_heads_that_diverge_are_passed_over_and_all_of_them_stop_the_run(root, tmp_path):
    config, setup, method, cached = opened(root, tmp_path / "run")
    heads = Heads(method, method.head_phase(), cached["train"].f)
    for i in (0, 2):
        nn.init.constant_(heads.heads[i].weight, float("nan"))
    assert head_phase.pick(config, setup, method, heads, cached["val"])[0] == 1
    nn.init.constant_(heads.heads[1].weight, float("inf"))
    with pytest.raises(Diverged, match="every rate of Probe"):
        head_phase.pick(config, setup, method, heads, cached["val"])


def test_cached_features_are_those_of_evaluation_in_dataset_order(root, tmp_path):
    _, setup, method, cached = opened(root, tmp_path / "run")
    cached = cached["train"]
    rows = setup.train_loader.rows
    x = torch.stack([rows.image(int(rows.indices[k]), None) for k in (0, 17, 40)])
    with torch.no_grad():
        assert worst(cached.f[[0, 17, 40]], method.eval().features(augment(x, "none"))) < 1e-5
    assert torch.equal(cached.y, rows.y)


def test_a_run_trains_images_then_heads_and_predicts_what_its_files_say(root, tmp_path):
    records = fit(config_of(root, tmp_path))
    assert {(r.checkpoint, r.split) for r in records} == set(product(("best", "last"), runs.SPLITS))
    epochs = [int(row["epoch"]) for row in runs.rows_of(tmp_path / "val_eval.csv")]
    assert epochs == [1, 2, 3]  # epoch 0 was over images and had no classifier to evaluate
    assert runs.state(tmp_path)["epoch"] == 3 and "heads" in runs.state(tmp_path)
    again = evaluate_saved(config_of(root, tmp_path, eval_only=True))
    best = {r.split: r for r in records if r.checkpoint == "best"}
    assert all(r.predictions_sha256 == best[r.split].predictions_sha256 for r in again)
    assert json.loads((tmp_path / "config.json").read_text())["values"]["probe_epochs"] == 3


def test_the_backbone_does_not_move_in_the_head_phase(root, tmp_path):
    fit(config_of(root, tmp_path / "one", probe_epochs=1))
    fit(config_of(root, tmp_path / "three"))
    weights = [runs.state(tmp_path / f)["algorithm"].items() for f in ("one", "three")]
    assert runs.differences(*({k: v for k, v in found if "net." in k} for found in weights)) == []


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_broken_off_in_either_phase_ends_bit_identically(root, tmp_path, monkeypatch, stop):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(config_of(root, whole))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        runs.stop_at(patch, stop, head_phase, "head_epoch")
        fit(config_of(root, broken))
    fit(config_of(root, broken, resume=True))
    states = [runs.comparable(runs.state(folder)) for folder in (broken, whole)]
    assert runs.differences(*states) == []
    assert runs.texts(broken) == runs.texts(whole)
    records = [read_records(folder / "results.jsonl") for folder in (broken, whole)]
    costs = [[r.consumed["forward_equivalents"] for r in found] for found in records]
    assert costs[0] == costs[1]


def test_a_run_broken_off_between_the_phases_reestimates_the_same_statistics(root, tmp_path, monkeypatch):
    """Over the batches of the last epoch, which a random loader draws again in each."""
    settings = {"n_epochs": 2, "bn_stats": "precise", "train_loader": "group", "n_groups_per_batch": 2}
    fit(config_of(root, tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        runs.stop_at(patch, 1, head_phase, "reestimate_bn")
        fit(config_of(root, tmp_path / "broken", **settings))
    fit(config_of(root, tmp_path / "broken", resume=True, **settings))
    states = [runs.comparable(runs.state(tmp_path / name)) for name in ("broken", "whole")]
    assert runs.differences(*states) == []


def test_a_model_without_a_trained_classifier_is_not_evaluated(root, tmp_path):
    fit(config_of(root, tmp_path, save_step=1))
    with pytest.raises(InputError, match=r"epoch:0_model\.pth"):
        evaluate_saved(config_of(root, tmp_path, eval_only=True, eval_epoch=0))
    assert {r.epoch for r in evaluate_saved(config_of(root, tmp_path, eval_only=True, eval_epoch=1))} == {1}


def test_what_is_evaluated_does_not_count_as_training(root, tmp_path):
    runs_of = {e: config_of(root, tmp_path / str(e), evaluate_all_splits=e) for e in (True, False)}
    costs = [fit(config)[0].consumed["forward_equivalents"] for config in runs_of.values()]
    assert costs[0] == costs[1]


def test_the_tracker_gets_the_classifiers_epochs_too(root, tmp_path, monkeypatch):
    noted = []
    monkeypatch.setattr(Tracker, "write", lambda self, split, values, step: noted.append((split, step)))
    fit(config_of(root, tmp_path, n_epochs=0, warmup_epochs=0))
    assert noted == [(split, step) for step in (3, 7, 11) for split in ("train", *runs.SPLITS)]


def test_frozen_first_weights_are_probed_with_no_epoch_over_images(root, tmp_path):
    records = fit(config_of(root, tmp_path, n_epochs=0, warmup_epochs=0))
    assert all(r.consumed["images"] == 0 for r in records)
    assert [int(row["epoch"]) for row in runs.rows_of(tmp_path / "val_eval.csv")] == [0, 1, 2]


def test_a_classifier_on_random_features_stays_near_chance(sim_root, tmp_path, monkeypatch):
    """Features that know nothing of the image: whatever the classifier gains would be a leak of labels."""

    def noise(self, x):
        return torch.randn(len(x), self.head.in_features)

    monkeypatch.setattr(Probe, "features", noise)
    records = fit(config_of(sim_root, tmp_path, n_epochs=0, warmup_epochs=0, probe_epochs=10))
    images, chance = 256, 1 / 8  # eight of nine classes are on a plate, one well each
    deviation = (chance * (1 - chance) / images) ** 0.5
    unseen = {(r.checkpoint, r.split): r.acc for r in records if r.split != "val"}
    assert {r.n for r in records} == {images}
    assert all(abs(acc - chance) < 4 * deviation for acc in unseen.values()), unseen
    trained = float(runs.rows_of(tmp_path / "train_eval.csv")[-1]["acc_avg"])
    assert trained > 1.5 * chance  # it does learn the training labels by heart


def test_a_first_convolution_that_no_epoch_would_train_is_refused(root, tmp_path):
    flags = {"n_epochs": 0, "warmup_epochs": 0, "pretrained": True}
    config = config_of(root, tmp_path, **flags)
    with pytest.raises(InputError, match="first convolution of resnet18 for 6 channels"):
        build_method(config, make_info(in_channels=6))
    build_method(config_of(root, tmp_path, **{**flags, "pretrained": False}), make_info(in_channels=6))


def test_methods_without_a_head_phase_need_an_epoch_and_those_with_one_are_not_adapted(root, tmp_path):
    with pytest.raises(InputError, match=r"ERM.* --n_epochs .*got 0"):
        fit(run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", n_epochs=0, warmup_epochs=0)))
    with pytest.raises(InputError, match="Probe"):
        fit(config_of(root, tmp_path / "run", tta="plate_bn", tta_min=2))
    assert not (tmp_path / "run").exists()
