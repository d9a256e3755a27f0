"""Acceptance 9: a bad flag is one sentence on stderr and exit code 2, before training, and leaves no file."""

from __future__ import annotations

import pytest

from tests import runs
from tests.runs import assert_says


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    runs.use_tiny_backbone(monkeypatch)


# Command line: (algorithm, flags, parts of the sentence)
FLAGS = [
    ("ERMM", {}, ("unknown algorithm 'ERMM'", "choose one of ERM, SimCLR, BYOL")),
    ("ERM", {"preset": "mine"}, ("--preset must be", "got 'mine'")),
    ("ERM", {"dataset": "poverty"}, ("--dataset must be", "got 'poverty'")),
    ("ERM", {"model": "vgg"}, ("--model must be", "got 'vgg'")),
    ("ERM", {"n_epochs": "many"}, ("--n_epochs", "'many'")),
    ("ERM", {"n_epochs": 0}, ("--n_epochs must be", "got 0")),
    ("ERM", {"batch_size": 1}, ("--batch_size must be", "got 1")),
    ("ERM", {"lr": 0}, ("--lr must be", "got 0.0")),
    ("ERM", {"lr": "nan"}, ("--lr must be", "got nan")),
    ("ERM", {"weight_decay": -1}, ("--weight_decay must be", "got -1.0")),
    ("ERM", {"max_grad_norm": 0}, ("--max_grad_norm must be", "got 0.0")),
    ("ERM", {"frac": 1.5}, ("--frac must be", "got 1.5")),
    ("ERM", {"seed": -1}, ("--seed must be", "got -1")),
    ("ERM", {"device": ["0", "1"]}, ("--device must be", "torchrun", "got '0 1'")),
    ("ERM", {"device": "gpu"}, ("--device must be", "got 'gpu'")),
    ("ERM", {"log_every": 0}, ("--log_every must be", "got 0")),
    ("ERM", {"save_step": 0}, ("--save_step must be", "got 0")),
    ("ERM", {"save_pred": "maybe"}, ("--save_pred", "expected true or false", "'maybe'")),
    (
        "ERM",
        {"transform": "randaugment"},
        ("--transform must be", "got 'randaugment'"),
    ),
    (
        "ERM",
        {"train_loader": "plates"},
        ("--train_loader must be", "got 'plates'"),
    ),
    (
        "ERM",
        {"target_resolution": [64, 64, 64]},
        ("--target_resolution must be", "got (64, 64, 64)"),
    ),
    ("ERM", {"target_resolution": 8}, ("--target_resolution must be", "got 8")),
    (
        "ERM",
        {"loader_kwargs": {"shuffle": True}},
        ("--loader_kwargs must be", "got 'shuffle'"),
    ),
    (
        "ERM",
        {"loader_kwargs": {"num_workers": -1}},
        ("--loader_kwargs num_workers must be", "got -1"),
    ),
    ("ERM", {"loader_kwargs": "num_workers"}, ("--loader_kwargs", "expected key=value", "'num_workers'")),
    ("ERM", {"optimizer": "Lion"}, ("--optimizer must be", "got 'Lion'")),
    ("ERM", {"optimizer_kwargs": {"momentum": 0.9}}, ("Adam does not take --optimizer_kwargs", "momentum")),
    (
        "ERM",
        {"scheduler": "StepLR", "scheduler_kwargs": {"num_warmup_steps": 3}},
        ("of StepLR must be", "got 'num_w"),
    ),
    ("ERM", {"scheduler_kwargs": {"gamma": 3}}, ("must be one of num_warmup_steps", "got 'gamma'")),
    (
        "ERM",
        {"optimizer": "SGD", "scheduler": "cosine"},
        ("--scheduler must be", "got 'cosine'"),
    ),
    ("ERM", {"cutmix_prob": 2, "mix": "cutmix"}, ("--cutmix_prob must be", "got 2.0")),
    (
        "ERM",
        {"resume": True, "overwrite": True},
        ("--resume must be", "got 'both'"),
    ),
    ("ERM", {"n_epoch": 3}, ("unknown argument '--n_epoch'", "did you mean --n_epochs?")),
    ("ERM", {"download": True}, ("--download has no meaning here", "README", "leave it out")),
    ("ERM", {"irm_lambda": 1}, ("--irm_lambda belongs to IRM", "no effect on ERM", "leave it out")),
    (
        "ERM",
        {"n_groups_per_batch": 2},
        ("--n_groups_per_batch would have no effect", "--train_loader group", "add that"),
    ),
    ("ABRA", {"abra_at": "res9"}, ("--abra_at must be", "got 'res9'")),
    ("ABRA", {"abra_neck": "batchnorm"}, ("--abra_neck must be", "got 'batchnorm'")),
    ("ABRA", {"abra_terms": "js"}, ("--abra_terms must be", "got 'js'")),
    ("ABRA", {"abra_lam": 2}, ("--abra_lam must be", "got 2.0")),
    ("IRM", {"irm_lambda": -1}, ("--irm_lambda must be", "got -1.0")),
    (
        "IRM",
        {"train_loader": "plate", "n_groups_per_batch": None},
        ("IRM needs --train_loader group", "got plate"),
    ),
    (
        "ERM",
        {"warmup_epochs": None, "scheduler_kwargs": {"num_warmup_steps": "many"}},
        ("--scheduler_kwargs num_warmup_steps must be", "got 'many'"),
    ),
    (
        "ERM",
        {"warmup_epochs": None, "scheduler_kwargs": {"num_warmup_steps": -3}},
        ("--scheduler_kwargs num_warmup_steps must be", "got -3"),
    ),
    (
        "ERM",
        {"scheduler": "StepLR", "scheduler_kwargs": {"step_size": 0}},
        ("--scheduler_kwargs step_size must be", "got 0"),
    ),
    (
        "ERM",
        {"scheduler": "StepLR", "scheduler_kwargs": {"gamma": "much"}},
        ("--scheduler_kwargs gamma must be", "got 'much'"),
    ),
    ("ERM", {"loader_kwargs": {"num_workers": "["}}, ("cannot read the value of 'num_workers=['",)),
    ("ERM", {"loader_kwargs": {"num_workers": True}}, ("num_workers must be in [0, 1024]", "got True")),
    (
        "ERM",
        {"loader_kwargs": {"pin_memory": "perhaps"}},
        ("pin_memory must be true or false", "got 'perhaps'"),
    ),
]


@pytest.mark.parametrize(("algorithm", "flags", "parts"), FLAGS)
def test_a_bad_flag(root, refused, tmp_path, algorithm, flags, parts):
    assert_says(refused(runs.command(root, tmp_path / "run", algorithm, **flags)), *parts)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ("--algorithm",)),
        (["--algorithm"], ("--algorithm", "expected one argument")),
        (["--algorithm", "ERM", "more"], ("unknown argument 'more'",)),
        (["--algorithm", "ERM", "--batch_size"], ("--batch_size", "expected one argument")),
    ],
)
def test_a_command_line_that_is_none(refused, argv, parts):
    assert_says(refused(argv), *parts)


# With data: (algorithm, flags, parts)
RUNS = [
    (
        "ERM",
        {"groupby_fields": "batch"},
        ("groupby_fields got ['batch']", "give one or more of cell_type, experiment"),
    ),
    ("ERM", {"version": "2.0"}, ("unknown version '2.0'", "choose one of 1.0")),
    ("ERM", {"split_scheme": "mine"}, ("--split_scheme must be", "got 'mine'")),
    (
        "ERM",
        {"evaluate_all_splits": False, "eval_splits": "train"},
        ("--eval_splits got 'train'", "choose among val"),
    ),
    (
        "ERM",
        {"evaluate_all_splits": False, "eval_splits": "ood"},
        ("'ood'", "choose among val, test, id_test"),
    ),
    ("ERM", {"val_metric": "auc"}, ("--val_metric 'auc'", "choose one of acc_avg", "acc_wg")),
    (
        "ERM",
        {"gradient_accumulation_steps": 9},
        ("steps 9 is more than the 8 batches of an epoch", "lower it"),
    ),
    ("ERM", {"frac": 0.001}, ("has no image with frac=0.001", "raise --frac")),
    (
        "ERM",
        {"pretrained_model_path": "none.pth", "pretrained": None},
        ("there is no checkpoint none.pth", "give"),
    ),
    ("ERM", {"eval_only": True}, ("does not exist, so it holds no model to evaluate", "train first")),
    ("ERM", {"val_metric": "count_cell_type:HEPG2"}, ("--val_metric 'count_cell_type:HEPG2' is no entry",)),
    ("ERM", {"weight_decay": "inf"}, ("--weight_decay must be", "got inf")),
]


@pytest.mark.parametrize(("algorithm", "flags", "parts"), RUNS)
def test_settings_that_do_not_fit_the_data(root, refused, tmp_path, algorithm, flags, parts):
    said = refused(runs.command(root, tmp_path / "run", algorithm, **flags))
    assert_says(said, *parts)
    assert not (tmp_path / "run").exists()
