"""Runs on two processes: what is alike on both, what equals one process, what is written and what refused."""

import os
import shutil

import pytest
import torch

from abra_wilds import METHODS, fit, run_config
from abra_wilds.commands.train import main
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.methods.abra import loss as phases
from abra_wilds.methods.abra import perturbation
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.domains.group_dro import group_means
from tests import ranks, runs
from tests.helpers import gradients, magnitudes, make_batch, make_method, worst

BEST = "rxrx1_seed:0_epoch:best_model.pth"
# A plate alone in every batch, and nothing drawn: then two processes and two accumulated batches are one sum.
STILL = {"train_loader": "plate", "groupby_fields": ["experiment", "plate"], "transform": "none"}
STILL |= {"mix": None, "optimizer": "SGD", "lr": 0.1}
PLATES = ((0,) * 5, (1,) * 6)


@pytest.fixture(scope="module")
def trained(on_two_ranks, root, tmp_path_factory):
    """Folder of a run of ABRA by two processes, and what they returned."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, on_two_ranks(ranks.trained, runs.command(root, folder, "ABRA", log_every=3))


def predictions(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*_pred.csv")}


def test_k_weights_and_averaged_statistics_are_bit_identical_across_ranks(trained):
    folder, ((code, err, first), (other_code, other_err, second)) = trained
    assert (code, err, other_code, other_err) == (0, "", 0, "")
    assert runs.differences(first, second) == []
    assert first["perturb.res4.K_mu"].abs().min() > 0 and first["perturb.res4.seen"] == 2 * 4
    assert runs.differences(first, runs.state(folder)["algorithm"]) == []  # no prefix of a wrapper


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ABRA", {"abra_prob": 0.5, "abra_at": ["res2", "res4"], "abra_ascent_steps": 2}),
        ("ABRA", {"abra_terms": ["arc"], "gradient_accumulation_steps": 3, "max_grad_norm": 0.1}),
        ("ERM", {"bn_stats": "running"}),
        ("SimCLR", {"n_epochs": 1}),
    ],
    ids=["coins and two points", "a classifier that nothing trains", "running statistics", "a head phase"],
)
def test_ranks_do_not_part_where_they_could(root, on_two_ranks, tmp_path, name, changes):
    ends = on_two_ranks(ranks.trained, runs.command(root, tmp_path, name, **changes))
    seeds = on_two_ranks(torch.initial_seed)
    assert [end[:2] for end in ends] == [(0, ""), (0, "")]
    assert runs.differences(ends[0][2], ends[1][2]) == []
    assert (seeds[0] == seeds[1]) == (name == "SimCLR")  # noise of their own; the same classifier


def test_one_process_writes_what_a_run_of_one_writes(trained, root, tiny, tmp_path):
    folder, _ = trained
    fit(run_config("ABRA", **runs.settings(root, tmp_path / "one", "ABRA", log_every=3)))
    assert {p.name for p in folder.iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
    for name in ("val_eval.csv", "val_algo.csv", "train_eval.csv", "results.jsonl"):
        count = [len((path / name).read_text().splitlines()) for path in (folder, tmp_path / "one")]
        assert count[0] == count[1]
    rows = runs.rows_of(folder / "train_algo.csv")
    assert [(row["epoch"], row["batch"], row["count"]) for row in rows] == [
        *(("0", "3", "48"), ("0", "4", "16"), ("1", "3", "48"), ("1", "4", "16"))
    ]
    assert "2 processes, each taking 4 of the 8 batches" in (folder / "log.txt").read_text()


def test_predictions_in_parallel_are_the_one_process_file(trained, root, tiny, on_two_ranks, tmp_path):
    folder, _ = trained
    alone = shutil.copytree(folder, tmp_path / "alone")
    for path in alone.glob("*_pred.csv"):
        path.unlink()
    evaluate_saved(run_config("ABRA", **runs.settings(root, alone, log_every=3), eval_only=True))
    best = {name: text for name, text in predictions(folder).items() if "epoch:best" in name}
    assert len(best) == 3 and predictions(alone) == best
    assert runs.rows_of(alone / "test_algo.csv")[-1]["batch"] == "8"

    for tta in ("plate_bn", "eb_bn"):
        flags, one, two = {"tta": tta, "tta_min": 2}, tmp_path / tta / "one", tmp_path / tta / "two"
        predict_saved(folder / BEST, None, one, flags)
        for path in folder.glob("*_components_*.pth"):
            path.unlink()
        on_two_ranks(predict_saved, folder / BEST, None, two, flags)
        assert len(predictions(one)) == 3 and predictions(two) == predictions(one)
        logs = [(out / "log.txt").read_text().splitlines()[1:5] for out in (one, two)]
        assert logs[0] == logs[1] and "64 images, 4 plates" in logs[0][0]
        assert ("Components of" in logs[0][3]) == (tta == "eb_bn")


def test_an_adaptation_with_components_picks_on_two_processes_as_it_predicts_on_one(
    root, tiny, on_two_ranks, tmp_path
):
    name, flags = "eb_bn_experiment_min4", {"tta": "eb_bn", "tta_group": "experiment", "tta_min": 4}
    argv = runs.command(root, tmp_path / "run", "ERM", also_tta=["eb_bn,group=experiment,min=4"])
    ends = on_two_ranks(ranks.trained, argv)
    assert [end[:2] for end in ends] == [(0, "")] * 2 and runs.differences(ends[0][2], ends[1][2]) == []
    value, epoch = runs.state(tmp_path / "run")["picked"][name]
    kept = tmp_path / "run" / BEST.replace("best", f"best_{name}")
    (record,) = predict_saved(kept, ["val"], tmp_path / "out", flags)
    assert (record.acc, record.epoch) == (pytest.approx(value, abs=1e-7), epoch)


def test_two_processes_step_as_one_that_accumulates_their_batches(root, tiny, on_two_ranks, tmp_path):
    argv = runs.command(root, tmp_path / "two", "ERM", **STILL)
    (_, err, two), _ = on_two_ranks(ranks.trained, argv)
    assert err == ""
    settings = runs.settings(root, tmp_path / "one", "ERM", **STILL, gradient_accumulation_steps=2)
    fit(run_config("ERM", **settings))
    one = runs.state(tmp_path / "one")["algorithm"]
    start = make_start(root, tmp_path)
    names = [name for name in one if "running" not in name and "tracked" not in name]
    assert max(worst(one[name], start[name]) for name in names) > 1e-2
    assert max(worst(one[name], two[name]) for name in names) < 1e-5


def make_start(root, folder):
    """The weights before the first step."""
    settings = {**STILL, "lr": 1e-30, "n_epochs": 1}
    fit(run_config("ERM", **runs.settings(root, folder / "start", "ERM", **settings)))
    return runs.state(folder / "start")["algorithm"]


def test_an_abra_step_of_two_ranks_is_the_mean_of_its_plates_with_one_k(on_two_ranks):
    cfg = ABRAConfig(alpha=0.5, k_bound=3.0)
    found = on_two_ranks(ranks.together, ranks.abra_step, cfg, PLATES)

    def on_plate(k, sigma=None, ascent=None):
        """Gradients of theta, K, sigma and the gradient of K; the last two are replaced where given."""
        seen = {}

        def observed(own):
            return seen.setdefault("sigma", own) if sigma is None else sigma

        def ascended(own):
            seen["ascent"] = own
            return list(own) if ascent is None else ascent

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(perturbation, "mean_across_ranks", observed)
            patch.setattr(phases, "means_across_ranks", ascended)
            method = make_method("ABRA", cfg)
            torch.manual_seed(k)
            loss = method(make_batch(g=PLATES[k], seed=k)).loss
        return gradients(method, loss), magnitudes(method), seen

    sigma = sum(on_plate(k)[2]["sigma"] for k in range(2)) / 2
    each = [on_plate(k, sigma)[2]["ascent"] for k in range(2)]
    ascent = [(a + b) / 2 for a, b in zip(*each, strict=True)]
    (g0, K, _), (g1, _, _) = (on_plate(k, sigma, ascent) for k in range(2))
    expected = {name: (g0[name] + g1[name]) / 2 for name in g0}
    for grads, K_found in found:
        assert worst(grads, expected) < 1e-12
        assert all(worst(a, b) < 1e-12 for a, b in zip(K_found["res4"], K["res4"], strict=True))
    assert runs.differences(*(list(f) for f in found)) == []


def test_group_dro_weighs_by_the_losses_of_all_ranks(on_two_ranks):
    values, g = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 2])
    more, elsewhere = torch.tensor([4.0, 5.0]), torch.tensor([1, 2])
    together = group_means(torch.cat([values, more]), torch.cat([g, elsewhere]), 4)
    for found in on_two_ranks(ranks.together, ranks.group_means_of, [(values, g), (more, elsewhere)]):
        assert found.tolist() == together.tolist() == [2.0, 4.0, 6.5, 0.0]


def test_a_resumed_run_of_two_processes_ends_as_the_uninterrupted_one(trained, root, on_two_ranks, tmp_path):
    whole, (_, reference) = trained
    argv = runs.command(root, tmp_path, "ABRA", log_every=3)
    ends = on_two_ranks(ranks.trained, argv, stop=6)
    assert [end[0] for end in ends] == [130, 130]
    assert sum("interrupted" in end[1] for end in ends) == 1
    assert runs.state(tmp_path)["epoch"] == 0
    _, (code, _, state) = on_two_ranks(ranks.trained, [*argv, "--resume"])
    assert code == 0 and runs.differences(state, reference[2]) == []
    assert runs.differences(*(runs.comparable(runs.state(f)) for f in (tmp_path, whole))) == []
    assert runs.texts(tmp_path) == runs.texts(whole)


def resumed_apart(root, folders):
    """The end of resuming with a log_dir of each process's own, as on machines that share none."""
    folder = folders[int(os.environ["RANK"])]
    return ranks.said([*runs.command(root, folder, "ABRA", log_every=3), "--resume"])


@pytest.mark.parametrize("epoch", [-1, 0], ids=["a checkpoint on one machine alone", "an older one there"])
def test_processes_that_find_different_checkpoints_do_not_resume(
    trained, root, on_two_ranks, tmp_path, epoch
):
    folders = [shutil.copytree(trained[0], tmp_path / "0"), tmp_path / "1"]
    if epoch >= 0:
        shutil.copytree(trained[0], folders[1])
        path = folders[1] / BEST.replace("best", "last")
        torch.save({**torch.load(path), "epoch": epoch}, path)
    before = [sorted(p.name for p in folder.glob("*")) for folder in folders]
    ends = on_two_ranks(resumed_apart, root, folders)
    assert [code for code, _ in ends] == [2, 2]
    (sentence,) = [err for _, err in ends if err]
    runs.assert_says(sentence, "--resume", f"epochs 1, {epoch} ")
    assert [sorted(p.name for p in folder.glob("*")) for folder in folders] == before


def test_another_number_of_processes_does_not_resume(trained, root, tiny, capsys):
    folder, _ = trained
    argv = [*runs.command(root, folder, "ABRA", log_every=3), "--resume"]
    assert "number of processes (was 2, is 1)" in runs.sentence(capsys, main, argv)


def test_batches_that_do_not_come_out_even_are_counted_with_those_that_come_twice(
    root, on_two_ranks, tmp_path
):
    argv = runs.command(root, tmp_path, "ERM", batch_size=6, n_epochs=1)  # 10 batches of 6, and one of 4
    assert [end[0] for end in on_two_ranks(ranks.trained, argv)] == [0, 0]
    state, rows = runs.state(tmp_path), runs.rows_of(tmp_path / "train_algo.csv")
    assert (state["images"], state["steps"], rows[-1]["count"]) == (70, 6, "70")
    runs.assert_says((tmp_path / "log.txt").read_text(), "6 of the 11 batches", "first 1 come twice")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"lr": -1}, ["lr"]),
        ({"root_dir": "nowhere"}, ["nowhere"]),
        ({"device": ["1"]}, ["--device"]),
        ({"batch_size": 64}, ["1 batches", "2 processes"]),
        ({"log_dir": "FULL"}, ["--resume"]),
    ],
)
def test_bad_input_is_refused_by_both_and_said_once(root, trained, on_two_ranks, tmp_path, changes, parts):
    changes = {name: trained[0] if value == "FULL" else value for name, value in changes.items()}
    wanted = {"root": root, "log_dir": tmp_path / "run", "algorithm": "ERM", **changes}
    ends = on_two_ranks(ranks.said, runs.command(wanted.pop("root"), wanted.pop("log_dir"), **wanted))
    assert [code for code, _ in ends] == [2, 2]
    (sentence,) = [err for _, err in ends if err]
    assert sentence.startswith("error: ") and sentence.count("\n") == 1
    runs.assert_says(sentence, *parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_steps_on_two_processes_and_stays_alike(root, on_two_ranks, tmp_path, name):
    argv = runs.command(root, tmp_path, name, evaluate_all_splits=False)
    (code, err, first), (_, other_err, second) = on_two_ranks(ranks.trained, argv)
    assert (code, err, other_err) == (0, "", "")
    assert runs.differences(first, second) == []
    assert runs.state(tmp_path)["steps"] >= 2


@pytest.mark.slow
def test_torchrun_says_a_refusal_once(root, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "tests.runs")
    done = runs.process(*torchrun, *runs.command(root, tmp_path, "ERM", batch_size=64), timeout=600)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and "2 processes" in done.stderr
    assert list(tmp_path.iterdir()) == []
