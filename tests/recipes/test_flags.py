"""The command line: WILDS' flags, forms of values, config files."""

from __future__ import annotations

import re

import pytest

from abra_wilds import METHODS
from abra_wilds.commands.train import main
from abra_wilds.recipes.flags import flag_parser, parse
from abra_wilds.types import InputError

# p-lambda/wilds 4726775: grep -oP "add_argument\(.*?'--\K\w+" examples/run_expt.py
WILDS = """
dataset algorithm root_dir split_scheme dataset_kwargs download frac version unlabeled_split
unlabeled_version use_unlabeled_y loader_kwargs unlabeled_loader_kwargs train_loader uniform_over_groups
distinct_groups n_groups_per_batch unlabeled_n_groups_per_batch batch_size unlabeled_batch_size eval_loader
gradient_accumulation_steps model model_kwargs noisystudent_add_dropout noisystudent_dropout_rate
pretrained_model_path load_featurizer_only teacher_model_path transform additional_train_transform
target_resolution resize_scale max_token_length randaugment_n loss_function loss_kwargs groupby_fields
group_dro_step_size coral_penalty_weight dann_penalty_weight dann_classifier_lr dann_featurizer_lr
dann_discriminator_lr afn_penalty_weight safn_delta_r hafn_r use_hafn irm_lambda irm_penalty_anneal_iters
self_training_lambda self_training_threshold pseudolabel_T2 soft_pseudolabels algo_log_metric
process_pseudolabels_function val_metric val_metric_decreasing n_epochs optimizer lr weight_decay
max_grad_norm optimizer_kwargs scheduler scheduler_kwargs scheduler_metric_split scheduler_metric_name
process_outputs_function evaluate_all_splits eval_splits eval_only eval_epoch device seed log_dir log_every
save_step save_best save_last save_pred no_group_logging progress_bar resume use_wandb wandb_api_key_path
wandb_kwargs
"""
WILDS_FLAGS = WILDS.split()


@pytest.mark.parametrize("name", WILDS_FLAGS)
def test_every_flag_of_wilds_is_known_or_refused_with_a_reason(name):
    known = {flag for action in flag_parser()._actions for flag in action.option_strings}
    if f"--{name}" in known:
        return
    with pytest.raises(InputError, match=rf"--{name} has no meaning here: .{{10,}}; leave it out"):
        parse(["--algorithm", "ERM", f"--{name}", "1"])
    with pytest.raises(InputError, match=rf"--{name} has no meaning here"):
        parse(["--algorithm", "ERM", f"--{name}=1"])


CARRIED_OVER = """
-d rxrx1 --algorithm groupDRO --root_dir data --split_scheme official --frac 0.5 --version 1.0
--loader_kwargs num_workers=2 pin_memory=False --uniform_over_groups --batch_size 72 --eval_loader standard
--model resnet50 --model_kwargs pretrained=False --transform rxrx1 --target_resolution 128 128
--groupby_fields experiment --group_dro_step_size 0.02 --val_metric acc_avg --val_metric_decreasing False
--n_epochs 90 --optimizer Adam --lr 1e-3 --weight_decay 1e-5 --max_grad_norm 1.0 --scheduler
cosine_schedule_with_warmup --scheduler_kwargs num_warmup_steps=5415 --device 0 --seed 2 --log_dir ./logs
--log_every 10 --save_step 5 --save_best true --save_last --save_pred false --no_group_logging
--progress_bar --resume
"""


def test_a_command_carried_over_from_wilds_is_understood():
    config = parse(CARRIED_OVER.split())
    d, t = config.data, config.train
    assert d.loader_kwargs == {"num_workers": 2, "pin_memory": False}
    assert (d.size, d.frac, d.version) == ((128, 128), 0.5, "1.0")
    assert (config.model.pretrained, config.method.step_size) == (False, 0.02)
    assert config.optim.scheduler_kwargs == {"num_warmup_steps": 5415}
    assert (t.device, t.seed, t.save_last, t.save_pred, t.resume) == (("0",), 2, True, False, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", True), ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False)],
)
def test_booleans_are_written_as_in_wilds(text, value):
    assert (
        parse(["--algorithm", "ERM", "--evaluate_all_splits", *text.split()]).eval.evaluate_all_splits
        is value
    )


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ("64 64", (64, 64)), ("64 96", (64, 96))])
def test_target_resolution_is_one_or_two_sides(text, size):
    assert parse(["--algorithm", "ERM", "--target_resolution", *text.split()]).data.size == size


@pytest.mark.parametrize("value", ["False", "false"])
def test_model_kwargs_pretrained_is_pretrained(value):
    config = parse(["--algorithm", "ERM", "--model_kwargs", f"pretrained={value}"])
    assert (config.model.pretrained, config.origin["pretrained"]) == (False, "flag")


@pytest.mark.parametrize(
    "more",
    [
        "--model_kwargs pretrained=False --pretrained false",
        "--model_kwargs depth=3",
        "--model_kwargs p=1 pretrained=True",
    ],
)
def test_other_model_kwargs_are_refused(more):
    with pytest.raises(
        InputError, match=r"--model_kwargs takes pretrained=True\|False, once with --pretrained"
    ):
        parse(["--algorithm", "ERM", *more.split()])


def test_numbers_in_key_value_pairs_may_be_written_with_an_exponent():
    config = parse(["--algorithm", "ERM", "--optimizer_kwargs", "eps=1e-4"])
    assert config.optim.optimizer_kwargs == {"eps": 1e-4}


def test_method_flags_carry_the_methods_name():
    argv = ["--algorithm", "ABRA", "--abra_at", "res2", "res4", "--abra_k_bound", "inf", "--abra_two_forward"]
    method = parse(argv).method
    assert (method.at, method.k_bound, method.two_forward) == (("res2", "res4"), float("inf"), True)


def write(path, text):
    path.write_text(text)
    return ["--config", str(path)]


def test_a_config_file_gives_values_their_flags_types(tmp_path):
    text = """
    lr: 1e-3
    warmup_epochs: 1
    max_grad_norm: 2
    n_epochs: 5
    groupby_fields: [experiment, plate]
    target_resolution: 64
    device: 0
    version: 1.0
    save_pred: false
    optimizer_kwargs: {eps: 0.5}
    progress_bar: null
    abra_at: res3
    abra_k_bound: inf
    """
    config = parse(["--algorithm", "ABRA", *write(tmp_path / "c.yaml", text)])
    got = config.values()
    assert got["lr"] == 1e-3 and type(got["warmup_epochs"]) is type(got["max_grad_norm"]) is float
    assert got["groupby_fields"] == ("experiment", "plate") and got["target_resolution"] == (64,)
    assert (got["device"], got["version"], got["save_pred"]) == (("0",), "1.0", False)
    assert (got["abra_at"], got["abra_k_bound"], got["optimizer_kwargs"]) == (
        ("res3",),
        float("inf"),
        {"eps": 0.5},
    )
    assert {config.origin[k] for k in ("lr", "device", "abra_at")} == {"config file"}


@pytest.mark.parametrize("text", ["NA", "001", "1.10", "no", "1e5", "0x1f", "2024-01-01", "1_000", "on"])
def test_a_text_of_a_config_file_is_what_stands_there(tmp_path, text):
    """YAML would take them for numbers, dates and truth values; a folder or column may be called so."""
    content = f"log_dir: {text}\npretrained_model_path: {text}\nversion: {text}\n"
    content += f"groupby_fields: [{text}, plate]\neval_splits: {text}\nevaluate_all_splits: off\n"
    values = parse(["--algorithm", "ERM", *write(tmp_path / "c.yaml", content)]).values()
    found = [values[name] for name in ("log_dir", "pretrained_model_path", "version")]
    assert found == [text] * 3 and values["groupby_fields"] == (text, "plate")
    assert values["eval_splits"] == (text,) and values["evaluate_all_splits"] is False


def test_a_run_has_one_digest_by_flags_and_by_file(tmp_path):
    by_file = parse(
        ["--algorithm", "ABRA", *write(tmp_path / "c.yaml", "warmup_epochs: 1\ngroupby_fields: plate\n")]
    )
    assert (
        by_file.digest()
        == parse(["--algorithm", "ABRA", "--warmup_epochs", "1", "--groupby_fields", "plate"]).digest()
    )


def test_flags_win_over_the_config_file(tmp_path):
    config = parse(["--algorithm", "ERM", "--lr", "0.5", *write(tmp_path / "c.yaml", "lr: 0.25\nseed: 3\n")])
    assert (config.optim.lr, config.origin["lr"], config.train.seed) == (0.5, "flag", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate: 1", "unknown setting 'learning_rate'; `--help` lists the known ones"),
        ("irm_lambda: 1", "--irm_lambda belongs to IRM and would have no effect on ERM; leave it out"),
        ("n_epochs: many", "--n_epochs must be a whole number; got 'many'"),
        ("n_epochs: 2.5", "--n_epochs must be a whole number; got 2.5"),
        ("n_epochs: true", "--n_epochs must be a whole number; got True"),
        ("lr: fast", "--lr must be a number; got 'fast'"),
        ("save_pred: 1", "--save_pred must be true or false; got 1"),
        ("optimizer_kwargs: 3", "--optimizer_kwargs must be key=value pairs; got 3"),
        ("- 1", "holds no settings; write one `name: value` a line"),
        ("", "holds no settings"),
        ("a: [", "is no YAML"),
        ("mix: mixup", "--mix must be one of none, cutmix, cutmix_any, lisa; got 'mixup'"),
        ("n_groups_per_batch: 2", "--n_groups_per_batch would have no effect here"),
        ("n_epochs:", "--n_epochs must be a whole number; got None"),
    ],
)
def test_a_config_file_is_checked_as_flags_are(tmp_path, text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse(["--algorithm", "ERM", *write(tmp_path / "c.yaml", text)])


def test_a_config_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--config .*none.yaml cannot be read \(.*No such file"):
        parse(["--algorithm", "ERM", "--config", str(tmp_path / "none.yaml")])


def test_a_config_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"c\.yaml"):
        parse(["--algorithm", "ERM", "--config", str(tmp_path / "c.yaml")])


def test_help_lists_every_flag_and_method(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)
    assert all(f"--{name}" in shown for name in ("abra_k_bound", "irm_lambda", "plate_remainder", "dry_run"))
