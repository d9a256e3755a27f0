"""The learning rate against closed forms and torch's schedulers; how fit counts and averages steps."""

import math

import pytest
import torch
from torch import nn

from abra_wilds import fit, run_config
from abra_wilds.config.optim import OptimConfig
from abra_wilds.engine import fit as fit_module
from abra_wilds.engine.schedule import learning_rate, make_optimizer, set_learning_rate, warmup_steps
from abra_wilds.types import InputError
from tests import runs

STEPS = 7


def rates(steps_per_epoch=STEPS, **config):
    """The learning rate of every step of a run."""
    o = OptimConfig(**config)
    return [learning_rate(o, step, steps_per_epoch) for step in range(o.n_epochs * steps_per_epoch)]


def by_torch(scheduler_of, n, lr):
    """The learning rates that a torch scheduler gives, stepped after every optimiser step as WILDS does."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = scheduler_of(optimizer), []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warm", [0, 1, 10, 34])
def test_cosine_with_warmup_equals_the_lambda_that_wilds_steps(warm):
    """transformers.get_cosine_schedule_with_warmup, as WILDS calls it, with half a wave."""
    total = 5 * STEPS

    def factor(step):
        if step < warm:
            return step / max(1, warm)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))

    wanted = by_torch(lambda o: torch.optim.lr_scheduler.LambdaLR(o, factor), total, 3e-3)
    got = rates(n_epochs=5, lr=3e-3, scheduler_kwargs={"num_warmup_steps": warm})
    assert got == pytest.approx(wanted, rel=1e-12, abs=1e-18)


def test_linear_with_warmup_equals_the_lambda_that_wilds_steps():
    def factor(step):
        return step / 4 if step < 4 else max(0.0, (3 * STEPS - step) / (3 * STEPS - 4))

    wanted = by_torch(lambda o: torch.optim.lr_scheduler.LambdaLR(o, factor), 3 * STEPS, 0.2)
    linear = {"scheduler": "linear_schedule_with_warmup", "scheduler_kwargs": {"num_warmup_steps": 4}}
    got = rates(n_epochs=3, lr=0.2, **linear)
    assert got == pytest.approx(wanted, rel=1e-12)


def test_steplr_equals_torch_stepped_once_an_epoch():
    kwargs = {"step_size": 2, "gamma": 0.3}
    wanted = by_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, **kwargs), 5, 0.7)
    got = rates(n_epochs=5, lr=0.7, scheduler="StepLR", scheduler_kwargs=kwargs)
    assert got[::STEPS] == pytest.approx(wanted, rel=1e-12)
    assert got[1::STEPS] == got[STEPS - 1 :: STEPS] == got[::STEPS]


def test_constant_after_warmup():
    got = rates(n_epochs=2, lr=0.5, scheduler="constant_schedule_with_warmup", warmup_epochs=1)
    assert got == pytest.approx([0.5 * k / STEPS for k in range(STEPS)] + [0.5] * STEPS)


def test_warmup_from_is_the_first_rate_and_lr_the_first_after_it():
    """Paper, section 4.1: 1e-4 to 1e-2, linearly over the warm-up's epochs."""
    got = rates(n_epochs=4, lr=1e-2, warmup_from=1e-4, warmup_epochs=2)
    line = [1e-4 + (1e-2 - 1e-4) * k / (2 * STEPS) for k in range(2 * STEPS + 1)]
    assert got[: 2 * STEPS + 1] == pytest.approx(line)
    assert got[2 * STEPS] == max(got)
    assert got[-1] == pytest.approx(1e-2 * 0.5 * (1 + math.cos(math.pi * (1 - 1 / (2 * STEPS)))))


@pytest.mark.parametrize("epochs", [0.5, 1, 2])
def test_warmup_in_epochs_is_warmup_in_steps(epochs):
    assert warmup_steps(OptimConfig(warmup_epochs=epochs), 8) == epochs * 8
    in_steps = rates(8, n_epochs=3, scheduler_kwargs={"num_warmup_steps": int(epochs * 8)})
    assert rates(8, n_epochs=3, warmup_epochs=epochs) == in_steps


def test_a_warmup_as_long_as_the_run_never_divides_by_zero():
    found = rates(n_epochs=2, lr=1.0, warmup_epochs=2)
    assert found == pytest.approx([k / (2 * STEPS) for k in range(2 * STEPS)])


class Grouped:
    """What make_optimizer asks of a method."""

    def __init__(self, *groups):
        self.groups = groups

    def parameter_groups(self):
        return self.groups


def test_every_parameter_group_gets_the_rate():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 2.0)]
    optimizer = torch.optim.SGD(groups, lr=3.0)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize(
    ("name", "kwargs"), [("Adam", {"eps": 1e-4}), ("AdamW", {}), ("SGD", {"momentum": 0.9})]
)
def test_optimisers_take_their_arguments(name, kwargs):
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    config = OptimConfig(optimizer=name, lr=0.5, weight_decay=0.25, optimizer_kwargs=kwargs)
    optimizer = make_optimizer(config, Grouped(([nn.Parameter(torch.zeros(1)), frozen], 1.0)))
    assert type(optimizer) is getattr(torch.optim, name)
    group = optimizer.param_groups[0]
    assert {"lr": 0.5, "weight_decay": 0.25, **kwargs}.items() <= group.items()
    assert len(group["params"]) == 1


def test_an_optimiser_argument_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"Adam .*--optimizer_kwargs .*momentum"):
        parameters = Grouped(([nn.Parameter(torch.zeros(1))], 1.0))
        make_optimizer(OptimConfig(optimizer_kwargs={"momentum": 0.9}), parameters)


def test_a_methods_parameter_groups_keep_their_factors_on_the_rate():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(OptimConfig(), Grouped(([slow], 0.5), ([fast], 10.0)))
    set_learning_rate(optimizer, 0.125)
    first, second = optimizer.param_groups
    assert first["params"][0] is slow and first["lr"] == 0.0625
    assert second["params"][0] is fast and second["lr"] == 1.25


def recorded(patch):
    """The (share, take, learning rate) of every step that fit takes."""
    step, found = fit_module.step, []

    def recording(method, batch, optimizer, share, take, *more, **named):
        found.append((share, take, optimizer.param_groups[0]["lr"]))
        return step(method, batch, optimizer, share, take, *more, **named)

    patch.setattr(fit_module, "step", recording)
    return found


def test_the_last_window_of_an_epoch_is_averaged_over_its_own_batches(root, tiny, tmp_path, monkeypatch):
    found = recorded(monkeypatch)
    run = runs.settings(root, tmp_path, "ERM", gradient_accumulation_steps=3, log_every=1, lr=0.25)
    config = run_config("ERM", **run)
    fit(config)
    third, half = 1 / 3, 1 / 2
    assert [share for share, _, _ in found] == [third, third, third, third, third, third, half, half] * 2
    assert [take for _, take, _ in found] == [False, False, True, False, False, True, False, True] * 2
    lrs = [learning_rate(config.optim, step, 3) for step in range(6)]
    assert [lr for _, take, lr in found if take] == lrs
    rows = runs.rows_of(tmp_path / "train_algo.csv")
    assert [float(row["lr"]) for row in rows] == lrs
    assert [(int(row["batch"]), int(row["count"])) for row in rows] == [(1, 24), (2, 24), (3, 16)] * 2
    assert all(int(s["step"]) == 6 for s in runs.state(tmp_path)["optimizer"]["state"].values())


def test_one_batch_is_one_step_without_accumulation(root, tiny, tmp_path, monkeypatch):
    found = recorded(monkeypatch)
    fit(run_config("ERM", **runs.settings(root, tmp_path, "ERM", n_epochs=1)))
    assert [(share, take) for share, take, _ in found] == [(1.0, True)] * 8


def test_irm_forgets_moments_at_the_annealing_step_and_keeps_the_schedule(root, tiny, tmp_path, monkeypatch):
    found = recorded(monkeypatch)
    changes = {"irm_penalty_anneal_iters": 5, "log_every": 1}
    config = run_config("IRM", **runs.settings(root, tmp_path, "IRM", **changes))
    fit(config)
    assert [lr for _, _, lr in found] == [learning_rate(config.optim, step, 8) for step in range(16)]
    saved = runs.state(tmp_path)["optimizer"]["state"]
    assert {int(s["step"]) for s in saved.values()} == {16 - 5}
