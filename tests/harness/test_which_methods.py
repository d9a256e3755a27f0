"""Which methods a checkout's loop has a place for, and what each of them leaves in its logs."""

import math
import re
from pathlib import Path

import pytest
import torch

from abra_wilds import METHODS
from abra_wilds.__main__ import main
from abra_wilds.errors import InputError
from abra_wilds.harness import algorithm
from abra_wilds.harness.algorithm import no_answers
from abra_wilds.harness.register import registered
from tests import runs
from tests.harness.inside import FILES, OUTSIDE, epochs, line
from tests.helpers import O, make_batch
from tests.runs import assert_says, names_in

OWN_COMMAND = "examples/run_expt.py"
# method -> what is named where it is refused
REFUSED = {
    **dict.fromkeys(("SimCLR", "BYOL", "DINOv2", "IRMX", "IRMX-PAIR"), ("two phases", OWN_COMMAND)),
    "LISA": ("--train_loader pairs", OWN_COMMAND),
    "CS-ARM-BN": ("--train_loader controls", OWN_COMMAND),
    "ARM-BN": ("--tta plate_bn", "--tta none", "abra-wilds predict"),
}
# method -> what it needs to train there, and to show all of itself in a moment
INSIDE = {
    **{name: {} for name in (*runs.CORE, "DSU", "AdvStyle", "MixStyle", "ERM-CutMix", "DANN", "Spectral-OT")},
    "AdvBayes": {"n_epochs": 2},
    "IID-lite": {"n_epochs": 2},
    "ARM-BN": {"tta": "none", "tta_min": None},
}


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def train(checkout, names, root, tmp_path):
    """Trains a method in the checkout for an epoch and returns the run's folder."""

    def train(name, folder="run", **changes):
        changes = {"n_epochs": 1, **INSIDE[name], **changes}
        assert main(line(checkout.path, root, tmp_path / folder, names[name], **changes)) == 0
        return tmp_path / folder

    return train


def numbers(log_dir, column, split="train", kind="algo"):
    """A column of a csv, by epoch, each epoch's last row."""
    return {int(row["epoch"]): float(row[column]) for row in runs.rows_of(log_dir / f"{split}_{kind}.csv")}


def test_every_method_is_said_to_train_in_a_checkout_or_to_be_refused():
    assert {*INSIDE, *OUTSIDE} == set(METHODS) and {*INSIDE} & {*OUTSIDE} == {"ARM-BN"}
    assert set(REFUSED) == set(OUTSIDE)
    text = (Path(algorithm.__file__).parent / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([\w, -]+) \| (trained|refused)\b", text, flags=re.M))
    listed = {name: state for names, state in rows.items() for name in names.split(", ")}
    assert listed == dict.fromkeys(OUTSIDE, "refused") | dict.fromkeys(INSIDE, "trained")


# Those of the main job are trained in test_end_to_end.py, those that change with the epochs further below.
@pytest.mark.parametrize("name", sorted({*INSIDE} - {*runs.CORE, "AdvBayes", "IID-lite"}))
def test_a_method_of_one_phase_trains_and_leaves_the_files(train, name):
    log_dir = train(name)
    assert names_in(log_dir) == FILES
    assert all(epochs(log_dir, split) == ["0"] for split in ("train", *runs.SPLITS))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_checkouts_loop_has_no_place_for_is_refused_before_anything_is_opened(
    checkout, names, tmp_path, refusal, name
):
    argv = line(checkout.path, tmp_path / "no data", tmp_path / "run", names[name])
    assert_says(refusal(argv), *REFUSED[name])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loader", ["plate", "pairs", "controls"])
def test_a_loader_of_our_own_command_is_refused_with_what_takes_its_place(checkout, names, loader):
    with registered(checkout) as harness, pytest.raises(InputError) as fault:
        harness.arguments(["--algorithm", names["LISA"], "--train_loader", loader])
    instead = "group --n_groups_per_batch 1" if loader == "plate" else "examples/run_expt.py"
    assert_says(str(fault.value), f"--train_loader {loader} ", instead)


def test_an_arm_bn_model_of_a_checkout_is_adapted_by_our_command_predict(train):
    log_dir = train("ARM-BN")
    saved = str(log_dir / "rxrx1_seed:0_epoch:last_model.pth")
    assert main(["predict", saved, "--tta", "plate_bn", "--tta_min", "2"]) == 0
    assert len(list(log_dir.glob("tta_*/*_pred.csv"))) == len(runs.SPLITS)


def test_answers_that_were_not_given_are_right_nowhere_and_infinitely_wrong():
    batch = make_batch()
    logits = no_answers(batch, O)
    assert batch.target.y.max() < O and logits.argmax(1).tolist() == [O] * len(batch)
    assert torch.nn.functional.cross_entropy(logits, batch.target.y) == math.inf


def test_an_epoch_that_reads_no_label_has_its_objective_and_no_accuracy(train):
    """IID-lite: an epoch of the auto-encoder, then one of the classifier."""
    log_dir = train("IID-lite")
    assert names_in(log_dir) == FILES
    assert numbers(log_dir, "acc_avg", kind="eval")[0] == 0
    algo = {column: numbers(log_dir, column) for column in ("objective", "L_rec", "loss_avg", "acc_avg")}
    assert math.isfinite(algo["objective"][0]) and algo["objective"][0] == pytest.approx(5 * algo["L_rec"][0])
    assert algo["loss_avg"][0] == math.inf and algo["acc_avg"][0] == 0
    assert math.isfinite(algo["loss_avg"][1]) and math.isnan(algo["L_rec"][1])
    assert all(0 <= acc <= 1 for acc in numbers(log_dir, "acc_avg", "val", "eval").values())


def test_a_log_that_comes_later_than_the_first_row_stands_in_the_text_alone(
    train, checkout, root, names, tmp_path, monkeypatch
):
    """AdvBayes: an epoch of ERM, then one with the climb; the run may be cut in two there."""
    whole = train("AdvBayes", "whole")
    assert names_in(whole) == FILES
    assert "\nconsistency: " in (whole / "log.txt").read_text()
    assert not any("consistency" in row for row in runs.rows_of(whole / "train_algo.csv"))

    argv = line(checkout.path, root, tmp_path / "cut", names["AdvBayes"])
    with monkeypatch.context() as patch:
        runs.stop_at(patch, 12, algorithm)  # in the second epoch of 8 batches
        assert main(argv) == 130
    assert main([*argv, "--resume"]) == 0
    lines = [(folder / "train_algo.csv").read_text().splitlines() for folder in (whole, tmp_path / "cut")]
    assert lines[0][0] == lines[1][0] and len(lines[0]) == len(lines[1]) > 2
    assert {text.count(",") for text in lines[1]} == {lines[0][0].count(",")}


def test_the_magnitudes_of_advstyle_ascend_after_each_step(train):
    """Their first value is the first batch's spread, whatever the strength of the ascent."""
    found = {}
    for w in (0, 10):
        folder = train("AdvStyle", f"w{w}", advstyle_w=w, advstyle_p_adv=1, advstyle_p_dsu=0)
        weights = runs.state(folder)["algorithm"]
        found[w] = {k: v for k, v in weights.items() if "magnitudes" in k}
    assert len(found[0]) == 18 and all(v == 8 for k, v in found[0].items() if k.endswith("seen"))
    constant = "magnitudes.res4.K_sigma"  # there a map is one position, whose deviation is none
    for name in found[0]:
        if not name.endswith("seen") and name != constant:
            assert (found[0][name] != found[10][name]).all(), name
