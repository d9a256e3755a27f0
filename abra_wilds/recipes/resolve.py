"""The numbers of the paper and of WILDS, each with its source, and how a run's values are decided.

A value comes from the first of: a flag, the config file, the preset, what the method itself asks for, the
default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from abra_wilds.config.checks import refuse_idle
from abra_wilds.config.data import DataConfig
from abra_wilds.config.datasets import DATASETS, TTA_GROUPS
from abra_wilds.config.evaluation import GROUPED_TTA, TTA_MIN
from abra_wilds.config.fields import require_choice
from abra_wilds.config.files import beside_screen
from abra_wilds.config.run import SECTIONS, RunConfig, schema_of
from abra_wilds.config.schema import Schema
from abra_wilds.config.screen import DATASET
from abra_wilds.dist import launched
from abra_wilds.errors import InputError
from abra_wilds.methods import METHODS, get_method
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.recipes.numbers import OTHERS, PRESETS, preset_values
from abra_wilds.types import BatchPlan


def method_values(method: type[Method]) -> dict[str, Any]:
    """What a method asks for by its plan."""
    plan = method.plan
    return {
        "train_loader": plan.train_loader,
        "groupby_fields": plan.groupby_fields,
        "uniform_over_groups": plan.uniform_over_groups,
        "distinct_groups": plan.distinct_groups,
        "mix": plan.mix,
        "cutmix_alpha": plan.mix_alpha,
        "tta": plan.tta,
        **({} if method.backbone is None else {"model": method.backbone}),
    }


def evaluation_values(method: type[Method], d: DataConfig) -> dict[str, Any]:
    """What evaluation takes over from the batches that training will have.

    Running batch-norm statistics predict where they are those of mixed batches of images like the predicted
    ones. Those of one-plate batches keep the noise of the last plates, and those of crops, mixtures, views or
    perturbed features belong to other images, so that there the statistics are estimated again.

    Args:
        method: of the run.
        d: the resolved data settings.
    """
    grouped = d.train_loader == "group"
    several = d.n_groups_per_batch > 1 if grouped else d.train_loader not in ("plate", "controls")
    unchanged = d.transform in ("rxrx1", "none", "imagenet") and d.mix == "none"
    found: dict[str, Any] = {
        "bn_stats": "running" if several and unchanged and method.plain_forward else "precise"
    }
    if method.plan.tta_support:
        support = d.batch_size // d.n_groups_per_batch if grouped else d.batch_size
        found |= {"tta_batch_size": support, "tta_min": max(min(TTA_MIN, support // 2), 1)}
    return found


def resolve(
    algorithm: str,
    flags: Mapping[str, Any],
    file: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> RunConfig:
    """Decide every value of a run.

    Args:
        algorithm: a name in METHODS.
        flags: flag name -> value, as given on the command line.
        file: the same, from a config file.
        preset: "paper", "paper_text", "wilds", or None for the method's own.

    Returns:
        The configuration; its `origin` says "flag", "config file", "preset NAME", "method", "training
        batches" (what evaluation follows from them) or "default".

    Raises:
        InputError: for an unknown name, a value that is not allowed, or one that would have no effect.
    """
    method = get_method(algorithm)
    dataset = dataset_of(flags, file or {})
    preset = preset or ("wilds" if dataset in OTHERS else method.preset)
    require_choice("preset", preset, PRESETS)
    given = {**(file or {}), **flags}
    schema = schema_of(method.Config)
    refuse_unknown(algorithm, given)
    screen = given.get("screen")
    layers = [
        ("flag", flags),
        ("config file", file or {}),
        ("screen.yaml", {} if screen is None else {"dataset": DATASET, **beside_screen(screen, given)}),
        # A number of bio-batches that a method insists on goes before a preset's.
        ("method", {"n_groups_per_batch": method.plan.n_groups} if method.plan.n_groups else {}),
        (f"preset {preset}", known_to(schema, preset_values(preset, dataset))),
        ("data set", DATASETS[dataset].values),
        ("method", method_values(method)),
        ("default", {"root_dir": os.environ.get("WILDS_DATA", "data")}),
    ]
    layers.append(("training batches", evaluation_values(method, schema.section("data", merged(layers)))))
    parts = schema.build(merged(layers))
    origin = {name: source for source, layer in reversed(layers) for name in layer}
    origin = dict.fromkeys(schema.settings, "default") | origin
    parts["method"] = shortened(parts["method"], parts["optim"].n_epochs, origin)
    config = RunConfig(algorithm, preset, origin, **parts, world=launched())
    refuse_idle(config, given)
    refuse_unfit(config, method)
    check_trains_something(config)
    return config


def dataset_of(flags: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    """The data set of a run, as far as it is one; what is none is refused with the other values."""
    name = flags.get("dataset", file.get("dataset", "rxrx1"))
    return name if name in DATASETS else "rxrx1"


def known_to(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some values that are flags of the method's runs."""
    return {name: value for name, value in values.items() if name in schema.settings}


def merged(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Flag name -> value in the first of some layers that has it."""
    return {name: value for _, layer in reversed(layers) for name, value in layer.items()}


def shortened(method: MethodConfig, n_epochs: int, origin: dict[str, str]) -> MethodConfig:
    """The settings of a method whose first epochs, where nobody asked for as many, leave half of a short run.

    Args:
        method: the settings.
        n_epochs: of the run.
        origin: of every value; noted there.
    """
    for flag, first in method.first_epochs().items():
        if 0 < n_epochs <= first and origin[flag] not in ("flag", "config file"):
            method = replace(method, **{flag.removeprefix(method.prefix): n_epochs // 2})
            origin[flag] = "length of the run"
    return method


def run_config(algorithm: str, preset: str | None = None, **values: Any) -> RunConfig:
    """The configuration of a run from Python: `run_config("ABRA", root_dir="data", n_epochs=3)`.

    Args:
        algorithm: a name in METHODS.
        preset: "paper", "paper_text", "wilds", or None for the method's own.
        values: flags without dashes.

    Raises:
        InputError: as `resolve`.
    """
    return resolve(algorithm, values, preset=preset)


def refuse_unknown(algorithm: str, given: Mapping[str, Any]) -> None:
    """Raise for names that are no flag, or another method's."""
    known = schema_of(get_method(algorithm).Config).settings
    for name in given:
        if name in known:
            continue
        owner = all_flags().settings.get(name)
        if owner is None:
            raise InputError(f"unknown setting {name!r}; `--help` lists the known ones")
        raise InputError(
            f"--{name} belongs to {owner.section} and would have no effect on {algorithm}; leave it out"
        )


def all_flags() -> Schema:
    """The flags of every method, each method's as a section of its name."""
    return Schema({**SECTIONS, **{method.name: method.Config for method in METHODS.values()}})


def refuse_unfit(config: RunConfig, method: type[Method]) -> None:
    """Raise for batches with which the method makes no sense."""
    d, plan = config.data, method.plan
    if d.train_loader not in plan.loaders:
        allowed = " or ".join(plan.loaders)
        raise InputError(f"{method.name} needs --train_loader {allowed}; got {d.train_loader}")
    if d.mix not in plan.mixes:
        raise InputError(f"{method.name} needs --mix {' or '.join(plan.mixes)}; got {d.mix}")
    config.method.check_loader(d.train_loader)
    if plan.needs_uniform and not d.uniform_over_groups:
        raise InputError(f"{method.name} needs --uniform_over_groups true; got false")
    for e in (config.eval, *config.eval.alternatives()):
        require_choice("tta_group", e.tta_group, DATASETS[d.dataset].groups)
    refuse_other_groups(config, plan)
    if d.train_loader != "group":
        return
    if d.n_groups_per_batch < plan.min_groups:
        raise InputError(
            f"{method.name} compares at least {plan.min_groups} bio-batches per batch; "
            f"got --n_groups_per_batch {d.n_groups_per_batch}; raise it"
        )
    rows = d.batch_size // d.n_groups_per_batch
    if rows < plan.min_group_rows:
        raise InputError(
            f"{method.name} needs at least {plan.min_group_rows} images of each bio-batch in a batch; "
            f"--batch_size {d.batch_size} over --n_groups_per_batch {d.n_groups_per_batch} leaves {rows}; "
            "change one of them"
        )


def refuse_other_groups(config: RunConfig, plan: BatchPlan) -> None:
    """Raise where a method that learns to be adapted would be adapted to other groups of images."""
    d, e = config.data, config.eval
    if plan.tta not in GROUPED_TTA or e.tta not in GROUPED_TTA:
        return
    if tuple(d.groupby_fields) != TTA_GROUPS[e.tta_group]:
        raise InputError(
            f"{config.algorithm} learns to be adapted to its bio-batches, one {d.bio_batch} each, and --tta "
            f"{e.tta} would adapt it to each {e.tta_group}; make --groupby_fields and --tta_group alike, or "
            "give --tta none or batch_bn"
        )


def check_trains_something(config: RunConfig) -> None:
    """Raise for a run that ends before its method begins, or that never trains the weights it draws."""
    n, m = config.optim.n_epochs, config.model
    for flag, first in config.method.first_epochs().items():
        if 0 < n <= first:
            raise InputError(
                f"{config.algorithm} begins after its first {first} epochs (--{flag}), and --n_epochs {n} "
                "ends before; lower the one or raise the other"
            )
    if n == 0 and m.pretrained and m.new_stem and m.pretrained_model_path is None:
        raise InputError(
            "--n_epochs 0 trains no backbone, so the fresh first convolution of --new_stem true would stay "
            "random before pretrained weights; add --new_stem false"
        )
