"""Where every value of a run comes from, and what identifies a run."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from abra_wilds import METHODS, run_config
from abra_wilds.config.data import DataConfig
from abra_wilds.config.run import COMMON, schema_of
from abra_wilds.config.schema import jsonable
from abra_wilds.config.screen import ScreenConfig
from abra_wilds.recipes.numbers import PAPER, WILDS
from abra_wilds.recipes.resolve import resolve
from abra_wilds.results.runs import digest


def test_a_flag_wins_over_file_preset_method_and_default():
    file = {"batch_size": 32, "n_epochs": 7, "mix": "none", "frac": 0.5}
    config = resolve("ABRA", {"batch_size": 16}, file, "wilds")
    got = {name: (config.values()[name], config.origin[name]) for name in config.origin}
    assert got["batch_size"] == (16, "flag")
    assert (got["n_epochs"], got["mix"], got["frac"]) == (
        (7, "config file"),
        ("none", "config file"),
        (0.5, "config file"),
    )
    assert got["lr"] == (1e-3, "preset wilds")
    assert got["train_loader"] == ("plate", "method")
    assert got["seed"] == (0, "default")
    assert config.preset == "wilds"


@pytest.mark.parametrize("name", METHODS)
def test_every_value_has_an_origin(name):
    config = run_config(name)
    assert {"algorithm", "loop", "world", *config.origin} == set(config.values())
    origins = {"default", "method", "training batches", f"preset {config.preset}"}
    assert set(config.origin.values()) == origins


@pytest.mark.parametrize(
    ("name", "preset"),
    [("ABRA", "paper"), ("ERM", "wilds"), ("IRM", "wilds"), ("deepCORAL", "wilds"), ("groupDRO", "wilds")],
)
def test_the_presets_hold_what_paper_and_wilds_state(name, preset):
    """Paper, section 4.1; p-lambda/wilds 4726775, examples/configs/datasets.py, 'rxrx1'."""
    config = run_config(name)
    assert config.preset == preset
    stated = {
        "paper": (128, 100, "Adam", 1e-2, 1e-5, 10.0, 1e-4, "paper"),
        "wilds": (72, 90, "Adam", 1e-3, 1e-5, 10.0, 0.0, "rxrx1"),
    }
    named = (
        "batch_size",
        "n_epochs",
        "optimizer",
        "lr",
        "weight_decay",
        "warmup_epochs",
        "warmup_from",
        "transform",
    )
    for forced in (preset, "paper", "wilds"):
        values = run_config(name, preset=forced).values()
        assert tuple(values[k] for k in named) == stated[forced]


def test_both_presets_decide_the_same_names_all_of_them_flags():
    assert set(PAPER) == set(WILDS) <= set(COMMON.settings)


@pytest.mark.parametrize(
    ("name", "loader", "bio_batch", "mix", "bn_stats", "uniform"),
    [
        ("ERM", "standard", "experiment", "none", "running", False),
        ("ABRA", "plate", "plate", "cutmix", "precise", True),
        ("deepCORAL", "group", "experiment", "none", "running", True),
        ("groupDRO", "standard", "experiment", "none", "running", True),
        ("IRM", "group", "experiment", "none", "running", True),
    ],
)
def test_each_method_brings_the_batches_it_wants(name, loader, bio_batch, mix, bn_stats, uniform):
    d = run_config(name).data
    assert (d.train_loader, d.bio_batch, d.mix, d.uniform_over_groups) == (loader, bio_batch, mix, uniform)
    assert run_config(name).eval.bn_stats == bn_stats


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("experiment",), "experiment"),
        (("experiment", "plate"), "plate"),
        (("plate", "experiment"), "plate"),
        (("cell_type",), "cell_type"),
        (("cell_type", "site"), "cell_type+site"),
    ],
)
def test_the_bio_batch_is_named(given, named):
    assert DataConfig(groupby_fields=given).bio_batch == named


# A value of each flag that is not its default and changes nothing else.
OTHER = {
    "version": "1.0",
    "split_scheme": "mixed-to-test",
    "transform": "none",
    "target_resolution": (64,),
    "groupby_fields": ("cell_type",),
    "plate_remainder": "drop",
    "eval_loader": "group",
    "loader_kwargs": {"num_workers": 1},
    "model": "resnet18",
    "pretrained_model_path": "w.pth",
    "optimizer": "SGD",
    "optimizer_kwargs": {"eps": 1e-4},
    "max_grad_norm": 1.0,
    "scheduler": "constant_schedule_with_warmup",
    "scheduler_kwargs": {"num_warmup_steps": 3},
    "val_metric": "acc_wg",
    "eval_splits": ("test",),
    "device": ("cpu",),
    "log_dir": "elsewhere",
    "root_dir": "elsewhere",
    "save_step": 2,
    "progress_bar": True,
    "tracker": "tensorboard",
    "eval_epoch": 3,
    "tta": "batch_bn",
    "tta_group": "experiment",
    "also_tta": ("plate_bn",),
    "abra_k_unit": "sigma",
    "abra_at": ("res2",),
    "abra_terms": ("ce",),
    "abra_neck": "layernorm",
    "abra_alpha": 0.1,
    "abra_noise_shape": "image",
    "abra_reduce": "sum",
    "abra_soft_arc": "two_term",
    "abra_stats_over": "batch",
}
# The same where methods differ in their default.
SWAPPED = {
    "mix": {"none": "cutmix", "cutmix": "none", "cutmix_any": "none", "lisa": "none"},
    "train_loader": {"plate": "group", **dict.fromkeys(("group", "standard", "pairs", "controls"), "plate")},
    "accumulate": {"mean": "sum", "sum": "mean"},
    "bn_stats": {"running": "precise", "precise": "running"},
}


def other(name, value):
    """Another value of a flag."""
    if name in OTHER:
        return OTHER[name]
    if name in SWAPPED:
        return SWAPPED[name][value]
    if isinstance(value, bool):
        return not value
    if value is None:
        return 0.5
    if isinstance(value, tuple):
        return value[:-1] or ("A=B",)
    if isinstance(value, str):
        return value + "?"
    return value * 0.7 + 0.0101 if isinstance(value, float) else value + 1


def changed(config, section, field_name, value):
    """The configuration with one field replaced, without the checks that combine fields."""
    part = replace(getattr(config, section))
    object.__setattr__(part, field_name, value)
    return replace(config, **{section: part})


@pytest.mark.parametrize("name", METHODS)
def test_the_digest_depends_on_every_field_that_is_not_local_and_on_no_other(name):
    config = run_config(name)
    digest, seen = config.digest(), set()
    for flag, setting in schema_of(METHODS[name].Config).settings.items():
        value = other(flag, config.values()[flag])
        assert value != config.values()[flag], flag
        now = changed(config, setting.section, setting.field, value).digest()
        assert (now == digest) == setting.flag.local, flag
        seen |= {setting.flag.local}
    assert seen == {True, False}
    assert replace(config, algorithm="other").digest() != digest
    assert replace(config, origin={}).digest() == digest


def test_a_field_that_came_after_digests_were_recorded_enters_them_where_it_is_set():
    later = {flag for flag, setting in COMMON.settings.items() if setting.flag.later}
    assert later == {"tta_controls", "qc", "shuffle_labels", *(field.name for field in fields(ScreenConfig))}
    config = run_config("ERM", tta="controls_bn")
    assert later.isdisjoint(config.values(local=False)) and later < set(config.values())
    assert config.digest() == run_config("ERM", tta="controls_bn", tta_controls="all").digest()
    assert digest(json.loads(json.dumps(jsonable(config.values())))) == config.digest()
    for kind in ("positive", "negative", "none"):
        other = run_config("ERM", tta="controls_bn", tta_controls=kind)
        assert other.values(local=False)["tta_controls"] == kind and other.digest() != config.digest()


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_is_built_again_from_its_values_and_replaced_where_others_are_given(name):
    config, schema = run_config(name), schema_of(METHODS[name].Config)
    assert replace(config, **schema.build(config.values())) == config
    other = schema.replace(config, {"lr": 1, "seed": 7, "loader_kwargs": {"num_workers": 0}})
    now = {"lr": 1.0, "seed": 7, "loader_kwargs": {"num_workers": 0, "pin_memory": True}}
    assert other.values() == {**config.values(), **now}


def test_local_are_the_fields_that_say_where_how_and_what_is_kept():
    local = {name for name, setting in COMMON.settings.items() if setting.flag.local}
    assert local == {
        "save_model",
        "evaluate_all_splits",
        "eval_splits",
        "root_dir",
        "screen",
        "image_root",
        "platemap",
        "data_format",
        "loader_kwargs",
        "also_tta",
        "eval_only",
        "eval_epoch",
        "device",
        "log_dir",
        "log_every",
        "save_step",
        "save_best",
        "save_last",
        "save_pred",
        "no_group_logging",
        "progress_bar",
        "tracker",
        "resume",
        "overwrite",
        "dry_run",
    }
    own = [s for m in METHODS.values() for s in schema_of(m.Config).of("method").values()]
    assert own and not any(setting.flag.local for setting in own)


def test_one_run_has_one_digest_whether_it_is_written_as_flag_or_in_python():
    """A whole number given for a float is that float; a list given for a tuple is that tuple."""
    a = run_config("ABRA", warmup_epochs=1, abra_js_weight=2, groupby_fields=["plate", "experiment"])
    b = run_config("ABRA", warmup_epochs=1.0, abra_js_weight=2.0, groupby_fields=("plate", "experiment"))
    assert a.digest() == b.digest()


def test_infinities_are_written_as_json_has_them():
    config = run_config("ABRA", abra_k_bound=float("inf"))
    assert json.loads(json.dumps(jsonable(config.values()), allow_nan=False))["abra_k_bound"] == "inf"


def test_root_dir_is_wilds_data_then_data(monkeypatch):
    monkeypatch.delenv("WILDS_DATA", raising=False)
    assert run_config("ERM").data.root_dir == "data"
    monkeypatch.setenv("WILDS_DATA", "/elsewhere")
    assert run_config("ERM").data.root_dir == "/elsewhere"
    assert run_config("ERM", root_dir="/here").data.root_dir == "/here"


def test_defaults_are_not_shared_between_runs():
    run_config("ERM").data.loader_kwargs["num_workers"] = 99
    assert run_config("ERM").data.loader_kwargs["num_workers"] == 4


def test_a_part_of_loader_kwargs_leaves_the_other_part():
    assert run_config("ERM", loader_kwargs={"num_workers": 0}).data.loader_kwargs == {
        "num_workers": 0,
        "pin_memory": True,
    }
