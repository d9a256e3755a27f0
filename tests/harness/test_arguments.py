"""One command line for two parsers: what each is given, where values come from, and what is refused."""

import argparse
from importlib import import_module

import pytest

from abra_wilds import METHODS
from abra_wilds.errors import InputError
from abra_wilds.harness.arguments import ANSWERED, NO_PLACE, read_request, words
from abra_wilds.harness.register import registered
from abra_wilds.recipes.flags import WITHOUT_MEANING
from tests.harness.inside import OUTSIDE
from tests.runs import CORE, assert_says

OURS = [name for name in METHODS if name not in ("ABRA", *OUTSIDE)]


@pytest.fixture
def ask(checkout):
    """Reads a command line for one of our methods, or with `own` for whatever it says."""
    with registered(checkout) as harness:
        names = harness.names
    flags = checkout.flags()

    def ask(algorithm, *argv):
        line = [] if algorithm is None else ["--algorithm", names[algorithm]]
        return read_request([*line, *map(str, argv)], names, flags)

    return ask


def value(argv, name):
    """The words after a flag."""
    rest = argv[argv.index(f"--{name}") + 1 :]
    n = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:n]


@pytest.mark.parametrize("algorithm", ["ERM", "FixMatch", "groupDRO"])
def test_a_command_line_for_an_algorithm_of_the_checkouts_own_passes_untouched(ask, algorithm):
    argv = f"--algorithm {algorithm} --unlabeled_split extra --device 0 1 --nonsense --config".split()
    request = ask(None, *argv)
    assert request.argv == argv and request.run is None and request.defaults == {}


@pytest.mark.parametrize("argv", [[], ["--dataset", "rxrx1"], ["-h"], ["--algorithm", "ABRA", "--help"]])
def test_whoever_asks_for_no_algorithm_or_for_help_is_answered_by_the_checkout(ask, argv):
    assert ask(None, *argv).argv == argv and ask(None, *argv).run is None


@pytest.mark.parametrize("name", CORE)
def test_the_checkouts_parser_gets_the_flags_it_knows_and_its_table_the_rest(ask, name, checkout):
    argv = ["--root_dir", "somewhere", "--lr", "0.25", "--new_stem", "--save_pred", "False", "--seed", 4]
    request = ask(name, *argv)
    assert value(request.argv, "algorithm") in (["abra:" + name], [name])
    assert {word.removeprefix("--") for word in request.argv if word.startswith("--")} <= checkout.flags()
    expected = {"dataset": "rxrx1", "root_dir": "somewhere", "lr": "0.25", "save_pred": "false", "seed": "4"}
    assert {flag: value(request.argv, flag) for flag in expected} == {k: [v] for k, v in expected.items()}
    assert "--new_stem" not in request.argv and request.defaults["new_stem"] is True
    assert not {"lr", "save_pred", "seed", "dataset", "algorithm", "device"} & set(request.defaults)
    assert request.defaults["batch_size"] == request.run.data.batch_size
    assert request.run.optim.lr == 0.25 and request.run.origin["lr"] == "flag"


@pytest.mark.parametrize(
    "spelling", [["--algorithm=ABRA", "-d", "rxrx1"], ["-drxrx1", "--algorithm", "ABRA"]]
)
def test_other_spellings_of_argparse_are_understood(ask, spelling):
    request = ask(None, *spelling, "--lr=0.5", "--resume")
    assert request.run.algorithm == "ABRA" and request.run.train.resume
    assert value(request.argv, "lr") == ["0.5"] and value(request.argv, "resume") == ["true"]


@pytest.mark.parametrize("flag", ANSWERED)
def test_what_only_the_checkout_does_reaches_it(ask, flag):
    given = {"wandb_kwargs": "project=x", "algo_log_metric": "accuracy", "wandb_api_key_path": "key"}
    argv = [f"--{flag}", given.get(flag, "true")]
    assert ask("ABRA", *argv).argv[-2:] == argv


@pytest.mark.parametrize("preset", [(), ("--preset", "wilds"), ("--preset", "paper")])
def test_abra_gets_one_bio_batch_a_batch_from_the_group_loader_under_every_preset(ask, preset):
    run = ask("ABRA", *preset).run
    assert not preset or run.preset == preset[1]
    assert (run.data.train_loader, run.data.n_groups_per_batch) == ("group", 1)
    assert run.origin["train_loader"] == run.origin["n_groups_per_batch"] == "WILDS checkout"
    assert run.data.groupby_fields == ("experiment", "plate") and run.eval.bn_stats == "precise"


def test_abra_is_told_otherwise_by_flags_alone(ask):
    run = ask("ABRA", "--n_groups_per_batch", 4, "--batch_size", 32).run
    assert (run.data.train_loader, run.data.n_groups_per_batch) == ("group", 4)
    assert run.origin["n_groups_per_batch"] == "flag" and run.origin["train_loader"] == "WILDS checkout"
    run = ask("ABRA", "--train_loader", "group").run
    assert (run.data.n_groups_per_batch, run.origin["train_loader"]) == (1, "flag")


@pytest.mark.parametrize("name", OURS)
def test_other_methods_keep_the_loader_of_their_plan(ask, name):
    run = ask(name).run
    assert run.data.train_loader == METHODS[name].plan.train_loader
    assert "WILDS checkout" not in run.origin.values()


def test_a_flag_wins_over_the_preset_over_the_method_over_the_default(ask):
    run = ask("ABRA", "--preset", "wilds", "--n_epochs", 3).run
    assert (run.optim.n_epochs, run.origin["n_epochs"]) == (3, "flag")
    assert (run.data.transform, run.origin["transform"]) == ("rxrx1", "preset wilds")
    assert (run.eval.bn_stats, run.origin["bn_stats"]) == ("precise", "training batches")
    assert (run.data.frac, run.origin["frac"]) == (1.0, "default")
    assert ask("ABRA", "--transform", "none", "--preset", "wilds").run.data.transform == "none"


def test_the_data_folder_of_the_environment_is_passed_on(ask, monkeypatch):
    monkeypatch.setenv("WILDS_DATA", "elsewhere")
    assert value(ask("ABRA").argv, "root_dir") == ["elsewhere"]


def test_a_method_that_joins_the_table_has_its_command_line_read(checkout, monkeypatch):
    monkeypatch.setitem(METHODS, "Other", type("Other", (METHODS["ERM"],), {"name": "Other"}))
    with registered(checkout) as harness:
        argv = harness.arguments(["--algorithm", "Other", "--lr", "0.5"])
    assert argv[:2] == ["--algorithm", "Other"] and value(argv, "lr") == ["0.5"]
    assert harness.run.algorithm == "Other" and harness.run.optim.lr == 0.5


# (algorithm, flags, what is named)
REFUSED = [
    ("ABRA", ["--device", "0", "1"], ("--device 0 1", "torchrun --nproc_per_node 2")),
    ("ERM", ["--device", "0", "2", "3"], ("--device 0 2 3", "torchrun --nproc_per_node 3")),
    ("ABRA", ["--train_loader", "plate"], ("--train_loader plate", "group --n_groups_per_batch 1")),
    ("ABRA", ["--eval_loader", "group"], ("--eval_loader", "standard")),
    ("ABRA", ["--config", "a.yaml"], ("--config",)),
    ("ABRA", ["--plate_remainder", "drop"], ("--plate_remainder",)),
    ("ERM", ["--tracker", "tensorboard"], ("--tracker", "--use_wandb")),
    ("ERM", ["--dry_run"], ("--dry_run", "examples/run_expt.py")),
    (
        "ERM",
        ["--target_resolution", 64, "--transform", "rxrx1"],
        ("--target_resolution", "--transform paper"),
    ),
    ("ERM", ["--bacth_size", 8], ("'--bacth_size'", "--batch_size")),
    ("ERM", ["--batch_siz", 8], ("'--batch_siz'", "--batch_size")),
    ("ERM", ["--eval_onl"], ("'--eval_onl'", "--eval_only")),
    ("ERM", ["--save_predi=true"], ("'--save_predi=true'", "--save_pred?")),
    ("ERM", ["--abra_lamm", 1], ("'--abra_lamm'", "--abra_lam?")),
    ("ERM", ["--xyzzy"], ("'--xyzzy'",)),
    ("ABRA", ["--coral_penalty_weight", 1], ("--coral_penalty_weight", "deepCORAL", "ABRA")),
    ("ERM", ["--abra_lam", 1], ("--abra_lam", "ABRA", "ERM")),
    ("deepCORAL", ["--irm_lambda", 1], ("--irm_lambda", "IRM", "deepCORAL")),
    ("ERM", ["--n_groups_per_batch", 4], ("--n_groups_per_batch", "--train_loader group")),
    ("deepCORAL", ["--n_groups_per_batch", 1], ("deepCORAL", "at least 2")),
    ("ERM", ["--preset", "mine"], ("--preset", "'mine'")),
    ("ERM", ["--model", "vgg"], ("--model", "resnet18", "'vgg'")),
    ("ERM", ["--save_pred", "maybe"], ("--save_pred", "true or false")),
    ("ERM", ["--device", "gpu"], ("--device", "'gpu'")),
    ("ERM", ["--scheduler", "FixMatchLR"], ("--scheduler", "'FixMatchLR'")),
]


@pytest.mark.parametrize(("name", "argv", "parts"), REFUSED, ids=[" ".join(map(str, r[1])) for r in REFUSED])
def test_what_cannot_be_followed_is_refused_in_one_sentence(ask, name, argv, parts):
    with pytest.raises(InputError) as fault:
        ask(name, "--root_dir", "data", *argv)
    assert "\n" not in str(fault.value)
    assert_says(str(fault.value), *parts)


@pytest.mark.parametrize("flag", sorted(set(WITHOUT_MEANING) - set(ANSWERED)))
@pytest.mark.parametrize("name", ["ABRA", "ERM"])
def test_a_flag_of_the_checkout_that_says_nothing_to_ours_is_refused_with_the_reason(
    ask, name, flag, checkout
):
    with pytest.raises(InputError) as fault:
        ask(name, f"--{flag}", "1")
    if flag in checkout.flags():
        assert_says(str(fault.value), f"--{flag}", WITHOUT_MEANING[flag])
    else:
        assert f"'--{flag}'" in str(fault.value)


def test_every_flag_of_the_checkout_is_read_refused_or_passed_on(ask, checkout):
    """A flag that a later commit adds is met here."""
    from abra_wilds.recipes.flags import flags_by_name

    known = {*flags_by_name(), *WITHOUT_MEANING, "algorithm", "model_kwargs"}
    assert checkout.flags() - known == set()
    assert not set(NO_PLACE) & checkout.flags()


VALUES = [
    ("save_pred", True),
    ("save_best", False),
    ("groupby_fields", ("experiment", "plate")),
    ("target_resolution", (64, 96)),
    ("lr", 1e-05),
    ("seed", 3),
    ("log_dir", "a folder/with spaces"),
]


@pytest.mark.parametrize(("name", "given"), VALUES)
def test_values_survive_the_checkouts_own_readers(checkout, name, given):
    with registered(checkout):
        utils = import_module("utils")
        many = isinstance(given, tuple)
        kind = type(given[0] if many else given)
        parser = argparse.ArgumentParser()
        if kind is bool:
            parser.add_argument(f"--{name}", type=utils.parse_bool, const=True, nargs="?")
        else:
            parser.add_argument(f"--{name}", type=kind, nargs="+" if many else None)
        read = getattr(parser.parse_args(words(name, given)), name)
    assert (tuple(read) if many else read) == given and type(read) is (list if many else kind)
