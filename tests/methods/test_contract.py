"""What every row of METHODS owes to the engine."""

import copy
import io
from pathlib import Path

import pytest
import torch

from abra_wilds.methods import METHODS, get_method
from abra_wilds.nets.staged import StagedNet
from abra_wilds.nets.vit import PatchStem
from abra_wilds.types import InputError
from tests.helpers import make_batch, make_info, make_method, worst
from tests.methods.settings import SETTINGS

EVERY = pytest.mark.parametrize(
    "name, label", [(name, label) for name in METHODS for label in SETTINGS[name]]
)
# These learn from views without labels: a step has no logits, and the classifier comes afterwards.
UNLABELLED = ("SimCLR", "BYOL", "DINOv2")
LABELLED = pytest.mark.parametrize(
    "name, label", [(name, label) for name in METHODS if name not in UNLABELLED for label in SETTINGS[name]]
)
G = (0, 1, 1, 0, 2, 2, 0, 1)


def method_of(name, label, seed=0, dtype=torch.float32):
    return make_method(name, SETTINGS[name][label], seed, dtype)


def batch_of(dtype=torch.float32, **kwargs):
    return make_batch(G, dtype=dtype, **kwargs)


def train(method, steps=3):
    """Some steps of SGD, with seeded noise; the losses."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        out = method(batch_of(seed=step, w=0.63))
        out.loss.backward()
        optimizer.step()
        method.after_step()
        losses.append(out.loss.detach())
    return torch.stack(losses)


# What predictions are made with; the last three are IID-lite's.
PREDICTORS = ("net.", "head.", "neck.", "noise.", "style.", "autoencoder.")
# They compute no clean features in training; their own tests compare the logits of a step.
PERTURBED_ALONE = ("DSU", "AdvStyle", "MixStyle", "Spectral-OT")


def own_state(method):
    """Parameters and buffers that belong neither to the backbone nor to the classifier."""
    everything = [*method.named_parameters(), *method.named_buffers()]
    return {name: t for name, t in everything if not name.startswith(PREDICTORS)}


def learned(method):
    """{name: parameter} of all that is not frozen and not left to the head phase."""
    later = "head." if method.name in UNLABELLED else "no parameter"
    parameters = method.named_parameters()
    return {name: p for name, p in parameters if p.requires_grad and not name.startswith(later)}


@EVERY
def test_loss_and_logits_are_finite_float32_and_logs_detached_scalars(name, label):
    out = method_of(name, label)(batch_of())
    assert out.loss.shape == ()
    assert out.loss.dtype == torch.float32
    assert out.loss.isfinite()
    if name in UNLABELLED:
        assert out.logits is None
    else:
        assert out.logits.shape == (len(G), 5)
        assert out.logits.dtype == torch.float32
        assert out.logits.isfinite().all()
    assert all(v.shape == () and not v.requires_grad and v.isfinite() for v in out.logs.values())


@LABELLED
def test_logits_of_a_step_are_the_predictions_on_clean_images(name, label):
    method, batch = method_of(name, label, dtype=torch.float64), batch_of(torch.float64, w=0.63)
    method.train(name not in PERTURBED_ALONE)
    expected = torch.empty(len(batch), 5, dtype=torch.float64)
    # ARM-BN and CS-ARM-BN normalise each bio-batch by itself; to the others a batch is one.
    for rows in batch.groups if "ARM-BN" in name else [slice(None)]:
        expected[rows] = method.predict(batch.x[rows])
    assert worst(method(batch).logits, expected) < 1e-12


@EVERY
def test_under_bfloat16_autocast_losses_gradients_and_buffers_stay_float32_and_finite(name, label):
    method = method_of(name, label)
    dtypes = {n: b.dtype for n, b in method.named_buffers()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = method(batch_of(w=0.63))
        assert method.predict(batch_of().x).dtype == torch.float32
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert out.logits is None or out.logits.dtype == torch.float32
    assert all(v.dtype == torch.float32 and v.isfinite() for v in out.logs.values())
    assert all(p.grad.isfinite().all() for p in learned(method).values())
    assert {n: b.dtype for n, b in method.named_buffers()} == dtypes
    assert torch.bfloat16 not in dtypes.values()


@EVERY
def test_under_autocast_only_the_backbone_computes_in_half_precision(name, label):
    outs = []
    for half in (False, True):
        method = method_of(name, label)
        for net in [m for m in method.modules() if isinstance(m, StagedNet | PatchStem)]:

            def forward(*args, inner=net.forward, **kwargs):
                with torch.autocast("cpu", enabled=False):
                    return inner(*args, **kwargs)

            net.forward = forward  # the backbone is held in float32; whatever differs now is ours
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outs.append(method(batch_of(w=0.63)))
    assert worst(outs[0].logits, outs[1].logits) < 1e-6
    assert outs[1].loss.item() == pytest.approx(outs[0].loss.item(), rel=1e-6)
    for key, value in outs[0].logs.items():
        assert outs[1].logs[key].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), key


@EVERY
def test_mixed_targets_change_the_loss_and_a_weight_of_one_does_not(name, label):
    losses = []
    for w in (None, 1.0, torch.ones(len(G)), 0.5):
        torch.manual_seed(3)
        losses.append(method_of(name, label)(batch_of(w=w)).loss.item())
    hard, one, ones, half = losses
    assert one == pytest.approx(hard, rel=1e-6)
    assert ones == pytest.approx(hard, rel=1e-6)
    assert (half == hard) if name in UNLABELLED else abs(half - hard) > 1e-3


@EVERY
def test_a_saved_and_loaded_method_takes_the_next_step_bitwise_alike(name, label):
    method = method_of(name, label)
    train(method)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    loaded = method_of(name, label, seed=9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    outs = []
    for m in (method, loaded):
        torch.manual_seed(3)
        outs.append(m(batch_of(w=0.63)))
    assert torch.equal(outs[0].loss, outs[1].loss)
    assert outs[0].fresh_optimizer == outs[1].fresh_optimizer
    assert outs[0].logs.keys() == outs[1].logs.keys()
    assert all(torch.equal(outs[0].logs[key], outs[1].logs[key]) for key in outs[0].logs)


@EVERY
def test_two_runs_of_one_seed_are_bitwise_equal(name, label):
    methods = [method_of(name, label) for _ in range(2)]
    assert torch.equal(*(train(m) for m in methods))
    a, b = (m.state_dict() for m in methods)
    assert all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


@EVERY
def test_predictions_need_no_state_of_the_method_and_no_other_image(name, label):
    method, x = method_of(name, label), batch_of().x
    train(method)
    method.eval()
    before = {k: v.clone() for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        whole = method.predict(x)
        parts = torch.cat([method.predict(x[:3]), method.predict(x[3:4]), method.predict(x[4:])])
        assert all(torch.equal(v, method.state_dict()[k]) for k, v in before.items())
        for tensor in own_state(method).values():
            tensor.fill_(123)
        assert torch.equal(method.predict(x), whole)
    assert worst(parts, whole) < 1e-5


# A batch norm follows and takes any constant away again, so that only rounding is left of their gradients.
CANCELLED = {
    "BYOL": {"projector.layers.3.bias"},
    "IID-lite": {"neck.3.bias"},
    "ERM-CutMix": {"neck.3.bias"},
    "DANN": {"discriminator.0.bias", "discriminator.3.bias"},
}
ROUNDING = 1e-9  # of float64; true gradients are above 1e-5


@EVERY
def test_every_parameter_has_a_gradient_after_one_step(name, label):
    """IID-lite needs more: its deepest map has one pixel of small images, and a mean of 0 without dropout."""
    method, size = method_of(name, label, dtype=torch.float64), 4
    if name == "IID-lite":
        size = 64
        for inject in method.noise.values():
            inject.dropout.p = 0.5
    torch.manual_seed(0)
    method(batch_of(dtype=torch.float64, size=size)).loss.backward()
    largest = {n: 0.0 if p.grad is None else p.grad.abs().max().item() for n, p in learned(method).items()}
    assert {n for n, g in largest.items() if g < ROUNDING} == CANCELLED.get(name, set())


@EVERY
def test_what_has_its_own_update_rule_is_a_buffer_and_no_parameter(name, label):
    method = method_of(name, label)
    allowed = (*PREDICTORS, "arc_weight", "discriminator.", "projector.", "predictor.", "mask_token")
    assert [n for n in learned(method) if not n.startswith(allowed)] == []
    assert all(n in method.state_dict() for n in own_state(method))


@EVERY
def test_forward_moves_no_parameter_and_leaves_no_gradient(name, label):
    method = method_of(name, label)
    before = copy.deepcopy(dict(method.named_parameters()))
    method(batch_of())
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in method.named_parameters())


@EVERY
def test_a_step_with_its_logs_reads_no_tensor_on_the_host(name, label):
    """Tensors without storage stand for those of a device, for which the host would wait."""
    method, batch = method_of(name, label).to("meta"), batch_of(w=0.63).to(torch.device("meta"))
    out = method(batch)
    assert out.loss.is_meta
    assert out.logs is not None and all(v.is_meta for v in out.logs.values())
    out.loss.backward()
    method.after_step()


@EVERY
def test_it_is_built_without_storage_as_a_dry_run_builds_it(name, label):
    with torch.device("meta"):
        method = METHODS[name](make_method(name).net, make_info(), SETTINGS[name][label])
    assert all(p.is_meta for p in method.head.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_found_by_its_name_and_has_a_test_file(name):
    cls = get_method(name)
    assert cls.name == name
    assert list(Path(__file__).parent.rglob(f"test_{cls.__module__.rsplit('.', 1)[-1]}.py"))
    assert cls.preset in ("paper", "wilds")
    assert cls.plan.train_loader in cls.plan.loaders
    assert cls.Config() == cls.Config()
    assert all(isinstance(cfg, cls.Config) for cfg in SETTINGS[name].values())


def test_an_unknown_method_is_refused_with_the_known_names():
    with pytest.raises(InputError, match=r"'EMR'.* ERM, .*ABRA, .*deepCORAL, groupDRO, IRM"):
        get_method("EMR")


def test_settings_name_methods_of_the_table_only():
    assert SETTINGS.keys() == METHODS.keys()
