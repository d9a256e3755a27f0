"""What the checkout's own configuration holds when training begins is what our configuration says."""

import ast
import sys
from importlib import import_module

import pytest

from abra_wilds import METHODS
from abra_wilds.config.run import schema_of
from abra_wilds.harness.register import registered
from tests.runs import CORE

# No more than the tiny data set has, and a multiple of the 4, 8 and 9 bio-batches of defaults and presets.
BATCH = 72
CHANGED = {
    "defaults": {},
    "preset wilds": {"preset": "wilds"},
    "preset paper": {"preset": "paper"},
    "optimiser": {
        "optimizer": "SGD",
        "optimizer_kwargs": "momentum=0.9 nesterov=true",
        "lr": "3e-5",
        "weight_decay": 0,
        "max_grad_norm": 1.5,
        "n_epochs": 7,
        "gradient_accumulation_steps": 2,
        "scheduler": "linear_schedule_with_warmup",
        "scheduler_kwargs": "num_warmup_steps=3",
    },
    "data": {
        "transform": "paper",
        "target_resolution": "48 64",
        "groupby_fields": "plate experiment",
        "loader_kwargs": "num_workers=0 pin_memory=False",
        "frac": 0.75,
        "split_scheme": "mixed-to-test",
        "version": "1.0",
    },
    "model": {"model": "resnet18", "model_kwargs": "pretrained=False", "new_stem": ""},
    "files": {
        "seed": 5,
        "log_every": 3,
        "save_step": 2,
        "save_best": "false",
        "save_last": "False",
        "save_pred": "FALSE",
        "no_group_logging": "",
        "progress_bar": "true",
        "evaluate_all_splits": "false",
        "eval_splits": "test id_test",
        "val_metric": "acc_wg",
        "val_metric_decreasing": "",
    },
    "evaluation": {"eval_only": "", "eval_epoch": 3},
    "another schedule": {"scheduler": "StepLR", "scheduler_kwargs": "step_size=2 gamma=0.5"},
    "constant": {"scheduler": "constant_schedule_with_warmup", "warmup_epochs": 0.5},
}


class Reached(Exception):
    """Holds the checkout's configuration at the moment it asks for an algorithm."""


def final(checkout, name, root, log_dir, flags):
    """(the checkout's configuration, ours, the checkout's flags)."""
    with registered(checkout) as harness:
        argv = ["--algorithm", harness.names[name], "--root_dir", str(root), "--log_dir", str(log_dir)]
        for flag, text in {"batch_size": BATCH, **flags}.items():
            argv += [f"--{flag}", *str(text).split()]
        sys.argv = ["run_expt.py", *harness.arguments(argv)]
        run_expt = import_module("run_expt")

        def stop(config, **_):
            raise Reached(config)

        run_expt.initialize_algorithm = stop
        try:
            run_expt.main()
        except Reached as reached:
            return vars(reached.args[0]), harness.run, checkout.flags()
    raise AssertionError("run_expt.py asked for no algorithm")


def as_ours(name, value):
    """A value of the checkout's configuration in our types."""
    if name == "target_resolution" and value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


def differing(theirs, run, flags):
    """{flag: (theirs, ours)} where the two configurations disagree, of every flag that they share."""
    values = {k: v for k, v in run.values().items() if k in flags and k not in ("algorithm", "device")}
    if values["progress_bar"] is None:
        values["progress_bar"] = False
    assert len(values) > 35
    pairs = {name: (as_ours(name, theirs[name]), ours) for name, ours in values.items()}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b or type(a) is not type(b)}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("name", CORE)
def test_every_shared_flag_has_one_value(checkout, sim_root, tmp_path, name, changed):
    flags = dict(CHANGED[changed])
    theirs, run, known = final(checkout, name, sim_root, tmp_path / "log", flags)
    assert differing(theirs, run, known) == {}
    assert theirs["model_kwargs"] == {"pretrained": run.model.pretrained}
    assert theirs["batch_size"] == BATCH and theirs["additional_train_transform"] is None
    assert not theirs["use_data_parallel"] and theirs["loss_function"] == "cross_entropy"


def test_the_processor_can_be_asked_for(checkout, sim_root, tmp_path):
    theirs, run, _ = final(checkout, "ABRA", sim_root, tmp_path / "log", {"device": "cpu"})
    assert theirs["device"].type == "cpu" and run.train.device == ("cpu",)


def other_values(method):
    """{flag: another value} of a method's own numbers."""
    own = schema_of(method.Config).of("method")
    numbers = {n: s for n, s in own.items() if s.flag.kind in (int, float) and not s.flag.many}
    return {
        n: s.default + 1 if s.flag.kind is int else s.default / 2
        for n, s in numbers.items()
        if s.flag.choices is None and s.default
    }


@pytest.mark.parametrize("name", CORE)
def test_a_methods_own_numbers_have_one_value_where_the_checkout_knows_them(
    checkout, sim_root, tmp_path, name
):
    flags = {n: v for n, v in other_values(METHODS[name]).items() if n in checkout.flags()}
    theirs, run, known = final(checkout, name, sim_root, tmp_path / "log", flags)
    assert differing(theirs, run, known) == {}
    assert {n: theirs[n] for n in flags} == flags


def test_the_three_baselines_with_numbers_share_them_with_the_checkout(checkout):
    """So that the test above compares something."""
    shared = {n for m in METHODS.values() for n in other_values(m)} & checkout.flags()
    own = {"group_dro_step_size", "coral_penalty_weight", "irm_lambda", "irm_penalty_anneal_iters"}
    assert own <= shared


@pytest.mark.parametrize("name", CORE)
def test_the_checkouts_log_shows_every_value_of_the_run(checkout, sim_root, tmp_path, name):
    _, run, _ = final(checkout, name, sim_root, tmp_path / "log", {"lr": 0.125})
    text = (tmp_path / "log" / "log.txt").read_text()
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    shown = {n: lines[n.replace("_", " ").capitalize()] for n in run.values() if n not in HIDDEN}
    assert shown["lr"] == "0.125" and shown["bn_stats"] == run.eval.bn_stats
    for flag, text in shown.items():
        assert read(text) == plain(run.values()[flag]), flag


# Shown under the checkout's own names or by its own values.
HIDDEN = ("algorithm", "pretrained", "device", "progress_bar", "target_resolution", "pretrained_model_path")


def read(text):
    """A value as the log writes it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return float(text) if text in ("inf", "nan") else text


def plain(value):
    """A value as a log can show it."""
    return list(value) if isinstance(value, tuple) else value
