"""Acceptance 5, compilation: no graph break, few graphs, the same losses, and nothing that hides in them.

The backend is AOT autograd alone, which takes moments for what Inductor would compile, and runs torch's own
operators.
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from abra_wilds.commands.train import main
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.engine import precision as speed
from abra_wilds.engine.evaluation.evaluate import reestimate_bn
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.precision import check_speed, configure_precision
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.styles.dsu import DSUConfig
from abra_wilds.nets.backbones import build_net, densenet
from abra_wilds.nets.staged import STAGES, bn_buffers_kept
from abra_wilds.tta.adapters import own_statistics
from abra_wilds.tta.eb_bn import class_aware_statistics
from abra_wilds.types import InputError, Target
from tests import runs
from tests.helpers import make_batch, make_method, tiny_net, tiny_vit, worst
from tests.speed_tools import CPU, losses, prepared, simulated, take
from tests.tta.made import components


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A quick backend, and no memory of what other tests compiled."""
    monkeypatch.setattr(speed, "BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()


def graphs():
    return counters["stats"]["unique_graphs"]


def breaks():
    return sum(counters["graph_break"].values())


def first(batch, n):
    """The first n images of a batch."""
    rows = torch.arange(n)
    y = Target(batch.target.y[:n])
    return replace(
        batch, x=batch.x[:n], target=y, g=batch.g[:n], metadata=batch.metadata[:n], rows=rows, groups=(rows,)
    )


def epoch(method, optimizer, scaler):
    """What an epoch does with a network: its first step counted, batches of unequal size, evaluation."""
    batches = [simulated()[0], first(simulated()[1], 6), simulated()[2], first(simulated()[3], 7)]
    method.train()
    for i, batch in enumerate(batches):
        if i == 0:
            with FlopCount() as count:
                take(method, optimizer, scaler, batch, i)
            assert count.total > 0
        take(method, optimizer, scaler, batch, i)
    reestimate_bn(method, method.predict, (batch.x for batch in batches))
    with torch.no_grad():
        for batch in batches:
            method.predict(batch.x)
    own_statistics(method, [batch.x for batch in batches])


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_nothing_is_compiled_after_the_second_epoch_and_one_graph_serves_a_step(name):
    method, *rest = prepared(name, compile=True, amp="bf16")
    found = []
    for _ in range(4):
        epoch(method, *rest)
        found.append(graphs())
    assert breaks() == 0
    assert found[1] == found[2] == found[3]
    # The whole backbone in one graph: in training for the first batch size and for any, and in evaluation.
    assert found[0] == 3


@pytest.mark.slow
def test_shifts_between_stages_take_more_graphs_and_no_break():
    method, *rest = prepared("ABRA", ABRAConfig(at=("res2", "res4")), compile=True)
    found = []
    for _ in range(3):
        epoch(method, *rest)
        found.append(graphs())
    assert breaks() == 0
    assert 3 < found[0] <= found[1] == found[2] < speed.GRAPHS


def test_random_taps_leave_the_stages_between_them_compiled():
    method, *rest = prepared("DSU", DSUConfig(p=0.5), compile=True)
    found = []
    for i in range(24):
        take(method, *rest, simulated()[i % 4], i)
        found.append(graphs())
    assert breaks() == 0
    # Each stage alone, and all of them where no tap acts.
    assert found[11] == found[-1] <= 2 * len(STAGES) + 1


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_compiled_losses_equal_those_of_eager_steps(name):
    full, _ = losses(name)
    compiled, method = losses(name, compile=True)
    torch.testing.assert_close(compiled, full, rtol=1e-5, atol=1e-6)
    assert graphs() == 1 and breaks() == 0
    both, method = losses(name, amp="bf16", compile=True, channels_last=True)
    assert ((both - full).abs() / full).max() < 0.1
    assert {t.dtype for t in method.state_dict().values() if t.is_floating_point()} == {torch.float32}


def trace_whole(net, x):
    """Let torch raise where the backbone would leave its graph; in training, evaluation, and between."""
    net.compile(backend="eager", fullgraph=True)
    net.train()(x).sum().backward()
    with bn_buffers_kept(net):
        net(x)
    net(net(x, upto="res2"), after="res2")
    with torch.no_grad():
        net.eval()(x)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_no_resnet_breaks_its_graph(name):
    trace_whole(build_net(name, 3, pretrained=False), torch.randn(2, 3, 32, 32))


@pytest.mark.slow
def test_no_densenet_breaks_its_graph():
    net = densenet("densenet121", 3, pretrained=False, new_stem=False)
    net.compile(backend="eager", fullgraph=True)
    net(torch.randn(2, 3, 32, 32))


def test_no_transformer_breaks_its_graph_nor_its_stem_with_masks():
    net, x = tiny_vit(), torch.randn(2, 3, 8, 8)
    trace_whole(net, x)
    mask, token = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(32)
    plain = copy.deepcopy(net)
    assert worst(net.enter(x, mask, token), plain.enter(x, mask, token)) < 1e-6


def test_the_state_dict_keeps_its_keys_and_a_copy_is_not_compiled():
    net = tiny_net()
    keys = list(net.state_dict())
    net.compile(backend="eager")
    x = torch.randn(2, 3, 8, 8)
    net.eval()(x)
    assert list(net.state_dict()) == keys and graphs() == 1
    twin = copy.deepcopy(net)
    torch.compiler.reset()
    assert worst(twin(x), net(x)) == 0
    assert graphs() == 2, "the copy compiled nothing, the original once more"


def test_running_statistics_follow_and_are_kept_as_in_eager_mode():
    a, b = tiny_net(), tiny_net()
    b.compile(backend="aot_eager")
    x = torch.randn(6, 3, 8, 8)
    for net in (a, b):
        net.train()
        net(x)
        with bn_buffers_kept(net):
            net(2 * x)
        net(x + 1)
    assert worst(dict(a.named_buffers()), dict(b.named_buffers())) < 1e-6


def test_adaptation_reaches_into_a_compiled_network():
    """Compiled code would not call the hooks by which batch norms take the statistics of their input."""
    a, b = make_method("ERM"), make_method("ERM")
    configure_precision(b, SpeedConfig(compile=True))
    passes = [make_batch(seed=s).x + 3 for s in (1, 2)]
    for method in (a, b):
        method.eval()
        with torch.no_grad():
            method.predict(passes[0])
    parts = components(a)
    by_class = [torch.cat(class_aware_statistics(m, passes, components=parts)) for m in (a, b)]
    adapted = [torch.cat(own_statistics(method, passes)) for method in (a, b)]
    assert worst(*adapted) < 1e-12 and worst(*by_class) < 1e-12
    with torch.no_grad():
        plain = torch.cat([b.predict(x) for x in passes])
    assert worst(adapted[1], plain) > 0.01 and worst(by_class[1], plain) > 0.01


def test_flops_are_counted_in_a_compiled_network_as_in_another():
    a, b = make_method("ABRA", ABRAConfig(alpha=0.1)), make_method("ABRA", ABRAConfig(alpha=0.1))
    configure_precision(b, SpeedConfig(compile=True))
    totals = []
    for method in (a, b, b):
        with FlopCount() as count:
            method(make_batch()).loss.backward()
        totals.append(count.total)
        method(make_batch())
    assert totals[0] == totals[1] == totals[2] > 0
    assert graphs() == 1, "what was counted is compiled afterwards"


def test_reestimated_statistics_do_not_depend_on_compilation():
    a, b = make_method("ERM"), make_method("ERM")
    configure_precision(b, SpeedConfig(compile=True))
    for method in (a, b):
        reestimate_bn(method, method.predict, [make_batch(seed=s).x for s in range(3)])
    assert worst(dict(a.named_buffers()), dict(b.named_buffers())) == 0


def test_without_a_compiler_the_command_refuses_before_training(root, tiny, tmp_path, capsys, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(speed, "BACKEND", broken)
    said = runs.sentence(capsys, main, runs.command(root, tmp_path / "run", "ERM", compile=True))
    runs.assert_says(said, "--compile", "cpu", "(No working C++ compiler found)", "clang++")
    assert not (tmp_path / "run").exists()


def test_a_gpu_needs_other_tools(monkeypatch):
    monkeypatch.setattr(speed, "BACKEND", "no such backend")
    with pytest.raises(InputError, match=r"no such backend.*Triton"):
        check_speed(SpeedConfig(compile=True), torch.device("cuda", 0))
    check_speed(SpeedConfig(), CPU)


def test_compiling_asks_for_nothing_that_an_older_torch_does_not_know(monkeypatch):
    ours = torch.compile

    def older(model=None, *, fullgraph=False, dynamic=None, backend="inductor"):
        return ours(model, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", older)
    check_speed(SpeedConfig(compile=True), CPU)
    method = make_method("ERM", dtype=torch.float32)
    configure_precision(method, SpeedConfig(compile=True))
    method(make_batch(dtype=torch.float32))
    assert graphs() == 2  # the addition, and the backbone


def test_a_call_that_torch_does_not_know_is_not_put_down_to_compilers(monkeypatch):
    def unknown(model, **kwargs):
        raise TypeError("compile() got an unexpected keyword argument")

    monkeypatch.setattr(torch, "compile", unknown)
    with pytest.raises(TypeError, match="unexpected keyword"):
        check_speed(SpeedConfig(compile=True), CPU)


@pytest.mark.parametrize("name", ["recompile_limit", "cache_size_limit"])
@pytest.mark.parametrize(("before", "after"), [(8, speed.GRAPHS), (99, 99)])
def test_torch_is_allowed_enough_graphs_whatever_it_calls_their_limit(monkeypatch, name, before, after):
    config = SimpleNamespace(**{name: before})
    monkeypatch.setattr(torch._dynamo, "config", config)
    configure_precision(make_method("ERM"), SpeedConfig())
    assert getattr(config, name) == before
    configure_precision(make_method("ERM"), SpeedConfig(compile=True))
    assert vars(config) == {name: after}


def test_a_compiled_run_ends_as_an_uncompiled_one(root, tiny, tmp_path):
    flags = {"True": {"compile": True}, "False": {}}
    for label, more in flags.items():
        assert main(runs.command(root, tmp_path / label, "ABRA", bn_stats="precise", **more)) == 0
    assert graphs() > 0 and breaks() == 0
    states = [runs.state(tmp_path / label)["algorithm"] for label in flags]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_inductors_code_in_bf16_trains_as_eager_float32(monkeypatch):
    monkeypatch.setattr(speed, "BACKEND", "inductor")
    check_speed(SpeedConfig(compile=True), CPU)
    for name in ("ERM", "ABRA"):
        full, _ = losses(name)
        both, _ = losses(name, amp="bf16", compile=True)
        assert ((both - full).abs() / full).max() < 0.1
    assert breaks() == 0
