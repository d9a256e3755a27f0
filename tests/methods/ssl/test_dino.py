"""DINOv2: its three losses against slow loops, its teacher, its masks and its rates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from abra_wilds.functional.ssl import block_masks
from abra_wilds.methods.ssl.dino import DINOv2, DINOv2Config
from abra_wilds.types import InputError, StepContext
from tests.helpers import array, worst
from tests.methods.settings import TINY_DINO
from tests.methods.ssl.ssl_tools import GLOBAL, LOCAL, build, equal, sgd_step, states, view_batch

TINY = DINOv2Config(**TINY_DINO)
SIZES = (GLOBAL, GLOBAL, LOCAL, LOCAL, LOCAL)


def dino(cfg=TINY, **kwargs):
    return build(DINOv2, cfg, vit=True, **kwargs)


def batch(n=4, seed=1, dtype=torch.float64):
    return view_batch(SIZES, n, seed, dtype)


def softmax(z, temperature):
    p = np.exp((z - z.max()) / temperature)
    return p / p.sum()


def outputs(method, net, head, views, masks=None):
    """(class tokens, scores of class tokens, scores of all patches) of each view, as arrays."""
    found = []
    for i, v in enumerate(views):
        mask = None if masks is None else masks[i * len(v) : (i + 1) * len(v)]
        cls, patches = method.tokens(net, v, mask)
        found.append((array(cls), array(head(cls)), array(head(patches)).reshape(len(v), -1, 11)))
    return found


def slow_losses(method, b, masks, temperature):
    """(DINO, iBOT, KoLeo) by loops over views, images and patches."""
    N, center = len(b), array(method.dino.center).reshape(-1)
    patch_center = array(method.patch_center.value).reshape(-1)
    teacher = outputs(method, method.teacher_net, method.teacher_projector, b.views[:2])
    student = outputs(method, method.net, method.projector, b.views[:2], masks)
    crops = [*student, *outputs(method, method.net, method.projector, b.views[2:])]
    terms = [
        -softmax(t[1][n] - center, temperature) @ np.log(softmax(s[1][n], 0.1))
        for i, t in enumerate(teacher)
        for j, s in enumerate(crops)
        if i != j
        for n in range(N)
    ]
    hidden = masks.flatten(1).numpy()
    ibot = 0.0
    for v in range(2):
        for n in range(N):
            of_image = np.flatnonzero(hidden[v * N + n])
            for m in of_image:
                p = softmax(teacher[v][2][n, m] - patch_center, temperature)
                ibot -= p @ np.log(softmax(student[v][2][n, m], 0.1)) / len(of_image) / (2 * N)
    koleo = 0.0
    for cls, _, _ in student:
        unit = cls / np.linalg.norm(cls, axis=1, keepdims=True)
        gaps = [min(np.linalg.norm(u - w) for j, w in enumerate(unit) if j != i) for i, u in enumerate(unit)]
        koleo -= np.mean(np.log(gaps))
    return np.mean(terms), ibot, koleo


@pytest.mark.parametrize("epoch, temperature", [(0, 0.04), (15, 0.055), (40, 0.07)])
def test_losses_equal_the_slow_loops_also_once_the_teacher_is_another_network(epoch, temperature):
    method, b = dino(epoch=epoch), batch()
    for step in range(2):
        torch.manual_seed(step)
        masks, _, _ = block_masks(2 * len(b), (4, 4), 0.5, (0.1, 0.5), torch.device("cpu"))
        want = slow_losses(method, b, masks, temperature)
        torch.manual_seed(step)
        out = method(b)
        got = [out.logs[name].item() for name in ("dino", "ibot", "koleo")]
        assert got == pytest.approx(want, abs=1e-5)  # lightly's KoLeo adds 1e-8 to each difference
        assert out.loss.item() == pytest.approx(got[0] + got[1] + 0.1 * got[2], abs=1e-12)
        sgd_step(method, b, lr=1.0)
        assert not equal(states(method, 0), states(method, 1))
    assert out.logits is None


def test_weights_of_the_losses_are_those_asked_for():
    method = dino(replace(TINY, ibot_weight=0.3, koleo_weight=2.0))
    out = method(batch())
    want = out.logs["dino"] + 0.3 * out.logs["ibot"] + 2.0 * out.logs["koleo"]
    assert worst(out.loss, want) < 1e-12


def test_without_local_crops_the_two_global_ones_remain():
    method = dino(replace(TINY, n_local=0))
    assert method.view_plan().sizes == (GLOBAL, GLOBAL)
    b = batch()
    assert method(replace(b, views=b.views[:2])).loss.isfinite()


def test_rates_fall_from_block_to_block_and_further_for_the_patch_embedding():
    method = dino(replace(TINY, layer_decay=0.5, patch_lr=0.1))
    factor = {id(p): f for group, f in method.parameter_groups() for p in group}
    of = {n: factor[id(p)] for n, p in method.named_parameters() if id(p) in factor}
    blocks = [of[f"net.stages.res{k}.blocks.{k - 1}.attn.qkv.weight"] for k in (1, 2, 3, 4)]
    assert blocks == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert of["net.stages.stem.vit.cls_token"] == of["net.stages.stem.vit.pos_embed"] == 0.5**5
    assert of["mask_token"] == 0.5**5
    assert of["net.stages.stem.vit.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.5**5)
    assert of["net.stages.res4.norm.weight"] == of["projector.last_layer.weight_v"] == 1.0


@pytest.mark.parametrize("progress, momentum", [(0.0, 0.9), (0.5, 0.95)])
def test_the_teacher_is_a_moving_average_whose_momentum_rises(progress, momentum):
    method = dino(replace(TINY, momentum=0.9), progress=progress)
    before = states(method, 1)
    sgd_step(method, batch())
    student, teacher = states(method, 0), states(method, 1)
    for name, t in teacher.items():
        want = momentum * before[name] + (1 - momentum) * student[name]
        assert torch.allclose(t, want, atol=1e-12), name


def test_both_centres_follow_the_teachers_scores():
    method, b = dino(replace(TINY, center_momentum=0.8)), batch()
    assert not method.dino.center.any()
    torch.manual_seed(0)
    _, hidden, _ = block_masks(2 * len(b), (4, 4), 0.5, (0.1, 0.5), torch.device("cpu"))
    scores = method.targets(torch.cat(b.views[:2]), hidden)
    means = [s.mean(0) for s in scores]
    for shrunk in (0.2, 0.36):
        torch.manual_seed(0)
        method(b)
        assert worst(method.dino.center.flatten(), shrunk * means[0]) < 1e-12
        assert worst(method.patch_center.value.flatten(), shrunk * means[1]) < 1e-12


def test_hidden_patches_reach_the_student_only_by_their_position():
    method, x = dino(), batch().views[0]
    mask = torch.zeros(len(x), 4, 4, dtype=torch.bool)
    mask[:, :2] = True
    moved = x.clone()
    moved[:, :, :4] += 1.0
    (a, b), (c, d) = ([method.tokens(method.net, v, m)[1] for v in (x, moved)] for m in (mask, None))
    assert worst(a, b) < 1e-12
    assert worst(c, d) > 1e-3


def test_prototypes_stay_as_they_are_in_the_first_epoch():
    method = dino(replace(TINY, freeze_epochs=1))
    before = method.projector.last_layer.weight_v.clone()
    sgd_step(method, batch())
    assert torch.equal(method.projector.last_layer.weight_v, before)
    method.context = StepContext(0.1, epoch=1)
    method(batch())
    assert method.projector.last_layer.weight_v.requires_grad


def test_features_are_class_tokens_and_with_patch_mean_the_mean_patch_after_them():
    x = batch().views[0]
    plain, both = dino(), dino(replace(TINY, patch_mean=True))
    tokens = plain.net(x)[:, :, :, 0]
    assert worst(plain.features(x), tokens[:, :, 0]) < 1e-12
    assert worst(both.features(x), torch.cat([tokens[:, :, 0], tokens[:, :, 1:].mean(2)], 1)) < 1e-12
    assert both.predict(x).shape == plain.predict(x).shape == (4, 5)


def test_training_nears_a_teacher_that_stays_and_spread_is_logged_where_logs_are_read():
    method, b = dino(replace(TINY, momentum=1.0, center_momentum=1.0)), batch(8)
    totals = []
    for _ in range(20):
        torch.manual_seed(0)
        out = method(b)
        totals.append((out.logs["dino"] + out.logs["ibot"]).item())
        torch.manual_seed(0)
        sgd_step(method, b)
    assert totals[-1] < totals[0] - 0.5
    assert 0 < out.logs["spread"].item() < 1.5
    method.context = StepContext(0.1, False)
    assert set(method(b).logs) == {"dino", "ibot", "koleo"}


def test_it_asks_for_two_large_crops_and_many_small_ones():
    plan = DINOv2.view_plan(dino(replace(TINY, n_local=2)))
    assert plan.sizes == (GLOBAL, GLOBAL, LOCAL, LOCAL)
    assert plan.scales == ((0.32, 1.0),) * 2 + ((0.05, 0.32),) * 2
    assert plan.blur == (1.0, 0.1, 0.5, 0.5)
    assert dino().head_phase().epochs == 90


def test_a_network_without_class_token_and_crops_that_its_patch_does_not_divide_are_refused():
    with pytest.raises(InputError, match="--model vit_small"):
        build(DINOv2, TINY)
    with pytest.raises(InputError, match=r"--dinov2_local_size .*got 5"):
        dino(replace(TINY, local_size=5))
