"""Averages against NumPy, csv files that survive a kill, and the end of a run whose loss is lost."""

import math
import re

import numpy as np
import pytest
import torch

from abra_wilds.commands.train import main
from abra_wilds.engine.artifacts.checkpoint import load_checkpoint
from abra_wilds.engine.artifacts.logs import CsvLog, DivergenceCheck, Meter, TextLog
from abra_wilds.engine.schedule import learning_rate
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.methods import METHODS
from abra_wilds.recipes.resolve import run_config
from abra_wilds.types import Diverged, StepOutput, Target
from tests import runs
from tests.helpers import N_GROUPS, make_batch

O = 4


def steps(w=None):
    """Batches of different sizes with the outputs of a step."""
    rng = np.random.default_rng(0)
    found = []
    for n, g in ((6, [0, 0, 1, 1, 4, 4]), (2, [4, 0]), (5, [1] * 5)):
        batch = make_batch(tuple(g), seed=n, w=w, n_classes=O)
        logits = torch.from_numpy(rng.normal(size=(n, O)))
        found.append((StepOutput(torch.tensor(float(n)), logits, {"R_JS": torch.tensor(0.1 * n)}), batch))
    return found


def by_numpy(found, w=1.0):
    """The same averages, image by image."""
    images = []
    for out, batch in found:
        logits = out.logits.numpy()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for i in range(len(batch)):
            y = int(batch.target.y[i])
            loss = -np.log(p[i, y])
            if batch.target.y_b is not None:
                loss = w * loss - (1 - w) * np.log(p[i, int(batch.target.y_b[i])])
            shared = (float(out.loss), float(out.logs["R_JS"]))
            images.append((loss, float(logits[i].argmax() == y), int(batch.g[i]), *shared))
    loss, right, g, objective, js = (np.array(column) for column in zip(*images, strict=True))
    row = {"objective": objective.mean(), "R_JS": js.mean(), "loss_avg": loss.mean(), "acc_avg": right.mean()}
    row["count"] = len(loss)
    for k in range(N_GROUPS):
        inside = g == k
        row[f"loss_group:{k}"] = loss[inside].mean() if inside.any() else math.nan
        row[f"acc_group:{k}"] = right[inside].mean() if inside.any() else math.nan
        row[f"count_group:{k}"] = inside.sum()
    return row


@pytest.mark.parametrize("w", [None, 0.3])
def test_the_meter_averages_over_images_as_numpy_does(w):
    meter = Meter(N_GROUPS, torch.device("cpu"), by_group=True)
    found = steps(w)
    for out, batch in found:
        meter.update(out, batch)
    wanted = by_numpy(found, 1.0 if w is None else w)
    got = meter.read()
    assert list(got) == list(wanted)
    assert got == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_the_meter_forgets_and_can_leave_groups_out():
    meter = Meter(N_GROUPS, torch.device("cpu"), by_group=False)
    (first, a), (second, b), _ = steps()
    meter.update(first, a)
    meter.reset()
    meter.update(second, b)
    got = meter.read()
    assert set(got) == {"objective", "R_JS", "loss_avg", "acc_avg", "count"}
    assert (got["objective"], got["count"]) == (2.0, 2)


def test_a_log_that_only_some_steps_have_is_averaged_over_those():
    """L_adv_after is computed only where it will be read."""
    meter = Meter(N_GROUPS, torch.device("cpu"), by_group=False)
    (out, a), (_, b), _ = steps()
    meter.update(out, a)
    meter.update(StepOutput(out.loss, torch.zeros(2, O), {"L_adv_after": torch.tensor(3.0)}), b)
    assert meter.read()["L_adv_after"] == 3.0


def test_evaluation_loss_is_that_of_the_logits():
    meter = Meter(N_GROUPS, torch.device("cpu"), by_group=True)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    meter.add_predictions(logits, Target(torch.tensor([0, 1])), torch.tensor([2, 2]))
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).item()
    got = meter.read()
    assert (got["loss_avg"], got["acc_avg"], got["count_group:2"]) == (pytest.approx(wanted), 0.5, 2)


def test_a_row_with_new_columns_widens_the_csv_log(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    log.write({"epoch": 0, "acc": 0.5})
    log.write({"epoch": 1, "more": 7})
    CsvLog(tmp_path / "a.csv").write({"acc": 0.25, "epoch": 2})
    assert runs.rows_of(tmp_path / "a.csv") == [
        {"epoch": "0", "acc": "0.5", "more": ""},
        {"epoch": "1", "acc": "", "more": "7"},
        {"epoch": "2", "acc": "0.25", "more": ""},
    ]


def test_keep_through_drops_the_rows_of_later_epochs_alone(tmp_path):
    log, path = CsvLog(tmp_path / "a.csv"), tmp_path / "a.csv"
    texts = []
    for epoch in range(12):
        log.write({"epoch": epoch, "value": 0.1 * epoch, "name": "nan"})
        texts.append(path.read_bytes())
    log.keep_through(10)
    assert path.read_bytes() == texts[10]
    log.keep_through(1)
    assert path.read_bytes() == texts[1]
    log.keep_through(-1)
    log.write({"epoch": 0, "value": 0.0, "name": "nan"})
    assert path.read_bytes() == texts[0]
    CsvLog(tmp_path / "none.csv").keep_through(3)
    assert not (tmp_path / "none.csv").exists()


def test_keep_through_drops_a_row_that_was_cut_short(tmp_path):
    log, path = CsvLog(tmp_path / "a.csv"), tmp_path / "a.csv"
    for epoch in range(13):
        log.write({"epoch": epoch, "value": 1})
    path.write_bytes(path.read_bytes()[: -len(b"2,1\r\n")])  # "12,1" became "1"
    log.keep_through(11)
    assert [row["epoch"] for row in runs.rows_of(path)] == [str(epoch) for epoch in range(12)]


@pytest.mark.parametrize("cut", [0, 3])
def test_a_row_of_an_epoch_that_is_there_or_was_cut_short_is_replaced(tmp_path, cut):
    log, path = CsvLog(tmp_path / "a.csv"), tmp_path / "a.csv"
    for epoch in (0, 1, 10):
        log.replace({"epoch": epoch, "acc": 0.5})
    path.write_bytes(path.read_bytes()[: -cut or None])
    log.replace({"epoch": 10, "acc": 0.25})
    log.replace({"epoch": 1, "acc": 0.125, "more": 7})
    assert runs.rows_of(path) == [
        {"epoch": "0", "acc": "0.5", "more": ""},
        {"epoch": "1", "acc": "0.125", "more": "7"},
        {"epoch": "10", "acc": "0.25", "more": ""},
    ]


def test_the_text_log_writes_to_file_and_terminal(tmp_path, capsys):
    log = TextLog(tmp_path / "log.txt")
    log.write("one")
    log.write("two\nthree")
    assert (tmp_path / "log.txt").read_text() == capsys.readouterr().out == "one\ntwo\nthree\n"


def note(guard, step, loss, groups=(3,), **logs):
    out = StepOutput(torch.tensor(loss), torch.zeros(1, 2), {k: torch.tensor(v) for k, v in logs.items()})
    guard.note(step, 0.01, list(groups), out)


def test_the_guard_names_the_first_step_that_is_not_finite():
    guard = DivergenceCheck(lambda g: f"plate = {g}")
    note(guard, 4, 1.0)
    note(guard, 5, math.inf, (1, 2, 3, 4), L_clean=2.0, L_shifted=math.inf, K_rel_max=9.0)
    note(guard, 6, math.nan)
    with pytest.raises(Diverged) as caught:
        guard.check("nothing is left")
    said = ("inf at step 5", "0.01", "plate = 1; plate = 2; plate = 3 and others", "L_clean = 2")
    runs.assert_says(
        str(caught.value), *said, "L_shifted = inf", "nothing is left", "--lr", "--max_grad_norm"
    )
    assert "K_rel_max" not in str(caught.value)


def test_the_guard_forgets_what_was_finite():
    guard = DivergenceCheck(str)
    guard.check("")
    note(guard, 0, 1.0)
    guard.check("")
    assert guard.steps == []


def lose_at(patch, name, call):
    """Let a method's loss be NaN at its n-th step, and count the steps."""
    forward, calls = METHODS[name].forward, [0]

    def lost(self, batch):
        out = forward(self, batch)
        calls[0] += 1
        if calls[0] != call:
            return out
        return StepOutput(
            out.loss * math.nan, out.logits, {**out.logs, "L_shifted": out.loss.detach() * math.nan}
        )

    patch.setattr(METHODS[name], "forward", lost)
    return calls


def test_a_lost_loss_stops_the_run_and_keeps_the_last_good_checkpoint(root, tiny, tmp_path, capsys):
    """Step 12 is the fifth of epoch 1; the sentence names it although it is read at the next log row."""
    argv = runs.command(root, tmp_path, "ABRA", log_every=3)
    with pytest.MonkeyPatch.context() as patch:
        lose_at(patch, "ABRA", 13)
        error = runs.sentence(capsys, main, argv, code=1)
    config = run_config("ABRA", **runs.settings(root, tmp_path))
    rate = f"{learning_rate(config.optim, 12, 8):.3g}"
    plate = r"plate = [12], experiment = (HEPG2|HUVEC)-0[12]"
    losses = r"(L_adv\w* = [\d.]+, )*L_clean = [\d.]+, L_shifted = nan"
    assert re.search(
        rf"nan at step 12 \(learning rate {re.escape(rate)}, bio-batch {plate}, {losses}\)", error
    )
    runs.assert_says(error, "rxrx1_seed:0_epoch:last_model.pth", "epoch 0", "--lr", "--max_grad_norm")
    method = build_method(config, prepare(config).info)
    assert load_checkpoint(tmp_path / "rxrx1_seed:0_epoch:last_model.pth", method).epoch == 0
    assert all(bool(torch.isfinite(t).all()) for t in method.state_dict().values())
    assert main([*argv, "--resume"]) == 0
    assert runs.state(tmp_path)["epoch"] == 1


@pytest.mark.parametrize("call", [2, 8])
def test_a_loss_lost_in_the_first_epoch_leaves_no_checkpoint(root, tiny, tmp_path, capsys, call):
    """Also where the lost step is the epoch's last, and log_every is longer than the epoch."""
    with pytest.MonkeyPatch.context() as patch:
        calls = lose_at(patch, "ERM", call)
        error = runs.sentence(capsys, main, runs.command(root, tmp_path, "ERM"), code=1)
    assert calls == [8]
    assert f"nan at step {call - 1} " in error and "no epoch was completed" in error
    assert not list(tmp_path.glob("*.pth")) and not (tmp_path / "train_algo.csv").exists()


def test_a_run_that_diverges_by_itself_ends_the_same_way(root, tiny, tmp_path, capsys):
    run = {"optimizer": "SGD", "lr": 1e30, "warmup_epochs": 0, "log_every": 2}
    error = runs.sentence(capsys, main, runs.command(root, tmp_path, "ERM", **run), code=1)
    assert re.search(r"(nan|inf) at step [12] ", error)
