"""Acceptance 5, precision: half in the backbone alone, close losses, scaled steps, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

from abra_wilds import run_config
from abra_wilds.__main__ import main as console
from abra_wilds.commands.train import main
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.engine.artifacts.checkpoint import Progress, load_checkpoint, save_checkpoint
from abra_wilds.engine.dry_run import activation_bytes
from abra_wilds.engine.precision import check_speed, configure_precision, fused, make_scaler
from abra_wilds.engine.step import step
from abra_wilds.functional.stats import channel_stats, instance_moments
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.results.records import read_records
from abra_wilds.types import InputError
from tests import runs
from tests.helpers import make_batch, make_info, make_method, worst
from tests.speed_tools import CPU, losses, prepared, simulated, take

# Of bf16 losses relative to those of float32: of each step, and on average. Runs drift apart, how far depends
# on the CPU.
TOLERANCE, MEAN_TOLERANCE = 0.1, 0.02


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_losses_in_bf16_stay_within_a_tenth_of_float32_over_50_steps(name, channels_last):
    full, _ = losses(name)
    half, method = losses(name, amp="bf16", channels_last=channels_last)
    assert (half - full).abs().max() > 0
    error = (half - full).abs() / full
    assert error.max() < TOLERANCE and error.mean() < MEAN_TOLERANCE
    assert full[-5:].mean() < 0.8 * full[:5].mean(), "it learns, so that agreeing means something"
    assert all(t.dtype == torch.float32 for t in method.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize("at", [("res4",), ("res2", "res4")])
def test_under_bf16_maps_are_half_and_K_mu_sigma_logits_and_losses_float32(at):
    method, optimizer, scaler = prepared("ABRA", ABRAConfig(at=at), amp="bf16")
    points, maps = [], []
    arrive = method.perturb.arrive

    def watched(name, X, batch):
        maps.append(X.dtype)
        points.append(arrive(name, X, batch))
        return points[-1]

    method.perturb.arrive = watched
    out = take(method, optimizer, scaler, simulated()[0], 0)
    assert set(maps) == {torch.bfloat16}
    assert {t.dtype for p in points for t in (p.x, p.mu, p.sigma)} == {torch.float32}
    assert {b.dtype for n, b in method.named_buffers() if b.is_floating_point()} == {torch.float32}
    assert {t.dtype for t in (out.loss, out.logits, *out.logs.values())} == {torch.float32}


def test_what_follows_the_backbone_is_computed_outside_autocast():
    method, *_ = prepared("ERM", amp="bf16")
    x = simulated()[0].x
    states = []
    method.head.register_forward_pre_hook(lambda *_: states.append(torch.is_autocast_enabled("cpu")))
    stage = method.net.stages["res1"]
    stage.register_forward_pre_hook(lambda *_: states.append(torch.is_autocast_enabled("cpu")))
    method.predict(x)
    assert states == [True, False]
    assert not torch.is_autocast_enabled("cpu")


def test_a_pass_without_gradients_takes_none_from_the_next():
    """Autocast would keep the weights that phase 1 of the literal algorithm cast without gradients."""
    method, *_ = prepared("ABRA", ABRAConfig(two_forward=True, alpha=0.1), amp="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        method(simulated()[0]).loss.backward()
    assert [n for n, p in method.net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_teachers_run_in_the_precision_of_their_students():
    method = make_method("BYOL", dtype=torch.float32)
    configure_precision(method, SpeedConfig(amp="bf16", channels_last=True))
    nets = [m for m in method.modules() if isinstance(m, StagedNet)]
    assert len(nets) == 2
    assert {net(make_batch(dtype=torch.float32).x).dtype for net in nets} == {torch.bfloat16}


def test_dinov2_enters_its_stem_in_half_precision():
    method = make_method("DINOv2", dtype=torch.float32)
    configure_precision(method, SpeedConfig(amp="bf16"))
    x = make_batch(size=8, dtype=torch.float32).x
    dtypes = []
    method.net.stages["stem"].vit.patch_embed.register_forward_hook(lambda m, a, y: dtypes.append(y.dtype))
    method.tokens(method.net, x)
    assert dtypes == [torch.bfloat16]


# Memory format


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_channels_last_changes_where_maps_lie_and_no_number(name):
    a, b = make_method(name), make_method(name)
    configure_precision(b, SpeedConfig(channels_last=True))
    batch = make_batch((0,) * 6, size=8)
    X = b.net(batch.x, upto="res1")
    assert X.is_contiguous(memory_format=torch.channels_last) and not X.is_contiguous()
    assert b.net.stages["stem"][0].weight.is_contiguous(memory_format=torch.channels_last)
    outs = []
    for method in (a, b):
        torch.manual_seed(0)
        outs.append(method(batch))
        outs[-1].loss.backward()
    assert worst(outs[0].loss, outs[1].loss) < 1e-12
    assert all(worst(outs[0].logs[key], outs[1].logs[key]) < 1e-12 for key in outs[0].logs)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert worst(p.grad, q.grad) < 1e-12
    stats = (torch.stack(channel_stats(method.net(batch.x))) for method in (a, b))
    assert worst(*stats) < 1e-12
    assert a.state_dict().keys() == b.state_dict().keys()


class Reads(TorchDispatchMode):
    """Names the operators that are given one tensor's memory in full."""

    def __init__(self, n):
        super().__init__()
        self.n, self.found = n, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(a, torch.Tensor) and a.numel() == self.n for a in args):
            self.found.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_a_device_pooling_and_statistics_take_one_read_of_the_map(layout):
    X = torch.empty(4, 8, 3, 3, device="meta").contiguous(memory_format=layout)
    with Reads(X.numel()) as reads:
        mean, var = instance_moments(X)
    assert reads.found == ["var_mean"]
    assert mean.shape == var.shape == (4, 8)


# Scaled losses; how they step is in test_step.py


def test_only_fp16_scales():
    scales = {amp: make_scaler(SpeedConfig(amp=amp), CPU).is_enabled() for amp in ("none", "bf16", "fp16")}
    assert scales == {"none": False, "bf16": False, "fp16": True}


def scaled(scale=2.0**10):
    return GradScaler("cpu", init_scale=scale, growth_interval=2)


def test_the_scale_is_saved_and_taken_up_again(tmp_path):
    method = make_method("ERM")
    optimizer, scaler = torch.optim.SGD(method.parameters(), 0.1), scaled()
    for seed in range(3):
        step(method, make_batch(seed=seed), optimizer, scaler=scaler)
    save_checkpoint(tmp_path / "model.pth", method, Progress(epoch=0), optimizer, scaler=scaler)
    fresh = scaled(8.0)
    load_checkpoint(tmp_path / "model.pth", method, optimizer, scaler=fresh)
    assert fresh.state_dict() == scaler.state_dict()
    off = GradScaler(enabled=False)
    save_checkpoint(tmp_path / "none.pth", method, Progress(epoch=0), optimizer, scaler=off)
    load_checkpoint(tmp_path / "none.pth", method, optimizer, scaler=off)
    with pytest.raises(InputError, match=r"none\.pth .*scaler"):
        load_checkpoint(tmp_path / "none.pth", method, optimizer, scaler=fresh)


# What is refused, and what a device gets


def test_fp16_needs_a_gpu():
    with pytest.raises(InputError, match=r"--amp fp16 .*cpu.*--amp bf16"):
        check_speed(SpeedConfig(amp="fp16"), CPU)
    for amp in ("none", "bf16"):
        check_speed(SpeedConfig(amp=amp), CPU)


def test_bf16_needs_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(InputError, match=r"Old GPU .*--amp fp16"):
        check_speed(SpeedConfig(amp="bf16"), torch.device("cuda", 0))


@pytest.mark.parametrize(
    "name, cfg", [("AdvStyle", None), ("AdvBayes", None), ("ABRA", ABRAConfig(at=("res3",)))]
)
def test_methods_that_differentiate_the_backbone_themselves_refuse_fp16(name, cfg):
    with pytest.raises(InputError, match=rf"--amp fp16 .*{name}.*--amp bf16"):
        configure_precision(make_method(name, cfg), SpeedConfig(amp="fp16"))
    configure_precision(make_method(name, cfg), SpeedConfig(amp="bf16"))
    configure_precision(make_method("ABRA"), SpeedConfig(amp="fp16"))


def test_the_command_refuses_fp16_on_a_cpu_before_training(root, tiny, tmp_path, refused):
    assert "--amp fp16" in refused(runs.command(root, tmp_path / "run", "ERM", amp="fp16"))


def test_optimisers_are_fused_on_a_gpu_unless_told_otherwise():
    on_gpu, on_cpu = (SimpleNamespace(device=torch.device(d)) for d in ("cuda:0", "cpu"))
    assert fused([on_gpu, on_gpu], {"lr": 1}) == {"fused": True}
    assert fused([on_gpu, on_cpu], {}) == fused([on_cpu], {}) == {}
    assert fused([on_gpu], {"foreach": True}) == fused([on_gpu], {"fused": False}) == {}


@pytest.mark.parametrize(("device", "timed"), [("cuda:0", True), ("cpu", False)])
def test_cudnn_times_its_algorithms_where_there_is_a_gpu(monkeypatch, device, timed):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    parameter = SimpleNamespace(device=torch.device(device))
    method = SimpleNamespace(parameters=lambda: [parameter], modules=lambda: [])
    configure_precision(method, SpeedConfig())
    assert torch.backends.cudnn.benchmark == timed


# Whole runs

FAST = {"amp": "bf16", "channels_last": True}


@pytest.fixture(scope="module")
def fast_run(root, tiny, tmp_path_factory):
    """The folder of a run of ABRA in bf16 with channels last."""
    folder = tmp_path_factory.mktemp("fast") / "run"
    assert main(runs.command(root, folder, "ABRA", **FAST)) == 0
    return folder


def test_a_run_in_bf16_resumes_bit_for_bit(root, tiny, fast_run, tmp_path):
    argv = runs.command(root, tmp_path / "run", "ABRA", **FAST)
    with pytest.MonkeyPatch.context() as patch:
        runs.stop_at(patch, 12)
        assert main(argv) == 130
    assert main([*argv, "--resume"]) == 0
    states = [runs.comparable(runs.state(folder)) for folder in (tmp_path / "run", fast_run)]
    assert runs.differences(*states) == []
    assert runs.texts(tmp_path / "run") == runs.texts(fast_run)


def test_a_saved_model_predicts_in_its_own_precision_or_another(fast_run, capsys, tmp_path):
    model = str(fast_run / "rxrx1_seed:0_epoch:last_model.pth")
    for out, words in (("own", ()), ("full", ("--amp", "none"))):
        command = ["predict", model, "--split", "val", "--out", str(tmp_path / out), *words]
        assert console(command) == 0
    own = fast_run / "rxrx1_split:val_seed:0_epoch:last_pred.csv"
    again = tmp_path / "own" / "rxrx1_split:val_seed:0_epoch:last_tta:none_pred.csv"
    assert again.read_bytes() == own.read_bytes()
    own, full = (read_records(tmp_path / out / "results.jsonl")[0] for out in ("own", "full"))
    assert own.config_sha256 != full.config_sha256


def test_a_dry_run_expects_half_the_feature_maps():
    method = make_method("ERM", dtype=torch.float32).to("meta")
    full, half = (activation_bytes(method, make_info(), 8, 16, 16, half=h) for h in (False, True))
    assert 0.45 < half / full < 0.55


def test_precision_is_part_of_what_a_run_is():
    assert run_config("ERM").digest() != run_config("ERM", amp="bf16").digest()
