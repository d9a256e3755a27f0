"""Small networks, batches and methods for tests of the mathematics."""

import copy
import functools
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from abra_wilds.methods import METHODS
from abra_wilds.nets.backbones import build_net, timm_package
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.nets.vit import staged_vit
from abra_wilds.types import Batch, DataInfo, StepContext, Target
from tests.methods.abra.reference_abra import Model

O = 5
N_GROUPS = 6
CHANNELS = {"stem": 3, "res1": 4, "res2": 4, "res3": 5, "res4": 6}


def tiny_net(seed=0, in_channels=3):
    """A StagedNet of conv-BN-ReLU stages; as in a bottleneck, an unpadded convolution opens each stage."""
    torch.manual_seed(seed)
    stages, before = {}, in_channels
    for name, C in CHANNELS.items():
        size, stride, padding = (3, 1, 1) if name == "stem" else (1, 1 + (name == "res2"), 0)
        conv = nn.Conv2d(before, C, size, stride, padding, bias=False)
        stages[name] = nn.Sequential(conv, nn.BatchNorm2d(C), nn.ReLU())
        nn.init.uniform_(stages[name][1].weight, 0.5, 1.5)
        nn.init.uniform_(stages[name][1].bias, 0.2, 1.0)
        before = C
    return StagedNet(stages, CHANNELS)


def tiny_vit(seed=0, in_channels=3):
    """A ViT of four blocks and 32 channels on patches of 2 pixels, in stages; positions for 4 x 4 patches."""
    timm_package()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    images = {"img_size": 8, "patch_size": 2, "in_chans": in_channels, "dynamic_img_size": True}
    vit = VisionTransformer(**images, num_classes=0, embed_dim=32, depth=4, num_heads=2)
    torch.nn.init.normal_(vit.cls_token, std=0.5)
    return staged_vit(vit)


def make_info(n_classes=O, in_channels=3, n_groups=N_GROUPS, train_groups=(0, 1, 2, 4)):
    """What methods know of the data; two of the six bio-batches do not occur in training."""
    return DataInfo(n_classes, in_channels, n_groups, train_groups)


def groups_of(g):
    """Row indices of each bio-batch, in order of first appearance."""
    found = []
    for group in g:
        if group not in found:
            found.append(group)
    return tuple(torch.tensor([n for n in range(len(g)) if g[n] == group]) for group in found)


def make_batch(g=(0,) * 6, seed=1, w=None, size=4, dtype=torch.float64, in_channels=3, n_classes=O):
    """A batch with bio-batch ids g, whose images differ in level by it; w mixes targets as CutMix does."""
    rng = np.random.default_rng(seed)
    N = len(g)
    x = rng.normal(size=(N, in_channels, size, size)) + 0.3 * np.array(g).reshape(-1, 1, 1, 1)
    y, y_b = (torch.from_numpy(rng.integers(n_classes, size=N)) for _ in range(2))
    target = Target(y) if w is None else Target(y, y_b, w)
    ids = torch.tensor(g)
    metadata = torch.stack([ids, ids], 1)
    return Batch(torch.from_numpy(x).to(dtype), target, ids, metadata, torch.arange(N), groups_of(list(g)))


def make_method(name, cfg=None, seed=0, dtype=torch.float64, info=None, lr=0.1, log=True, **context):
    """A method on a tiny net, in training mode; context: epoch, progress."""
    net = (tiny_vit if name == "DINOv2" else tiny_net)(seed, (info or make_info()).in_channels)
    torch.manual_seed(seed + 100)
    cls = METHODS[name]
    method = cls(net, info or make_info(), cls.Config() if cfg is None else cfg).to(dtype)
    method.context = StepContext(lr, log, **context)
    if method.view_plan() is not None:
        method.register_forward_pre_hook(add_views)
    return method.train()


def add_views(method, args):
    """The batch with the views that a method asks for: its images resized, plus the same noise each time."""
    (batch,) = args
    g = torch.Generator().manual_seed(0)
    sides = [(side or batch.x.shape[2],) * 2 for side in method.view_plan().sizes]
    plain = [F.interpolate(batch.x, side, mode="bilinear") for side in sides]
    noise = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in plain]
    views = tuple(x + 0.5 * e for x, e in zip(plain, noise, strict=True))
    return (replace(batch, views=views),)


def gradients(method, loss):
    """{name: gradient} of a loss by every parameter; None where it does not depend on it."""
    names, parameters = zip(*method.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def assert_same_step(method, other, batch, *own):
    """The same loss and gradients; `own`: how names of parameters begin that the first has alone."""
    a, b = method(batch), other(batch)
    assert worst(a.loss, b.loss) < 1e-12
    found = {name: g for name, g in gradients(method, a.loss).items() if not name.startswith(own)}
    assert worst(found, gradients(other, b.loss)) < 1e-12
    return a, b


def erm_like(method):
    """An ERM method with the same featurizer and classifier."""
    erm = make_method("ERM")
    erm.load_state_dict({k: v for k, v in method.state_dict().items() if k.startswith(("net.", "head."))})
    return erm


def assert_is_erm(method, batch, *own):
    """The same step as that of ERM with its featurizer and classifier; `own` as above."""
    return assert_same_step(method, erm_like(method), batch, *own)


def worst(a, b):
    """Largest absolute difference of two tensors, or of two dictionaries of tensors with the same keys."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max(worst(a[k], b[k]) for k in a)
    if a is None or b is None:
        assert a is b
        return 0.0
    a, b = (torch.as_tensor(t, dtype=torch.float64).detach() for t in (a, b))
    return (a - b).abs().max().item()


def magnitudes(method):
    """{insertion point: (K_mu, K_sigma)} of an ABRA method, as copies."""
    return {name: (p.K_mu.clone(), p.K_sigma.clone()) for name, p in method.perturb.items()}


def set_magnitudes(method, K):
    """Overwrite the K of every insertion point; numbers are broadcast."""
    for name, p in method.perturb.items():
        pair = K[name] if isinstance(K, dict) else (K, K)
        for buffer, value in zip((p.K_mu, p.K_sigma), pair, strict=True):
            buffer.copy_(torch.as_tensor(value, dtype=buffer.dtype).expand_as(buffer))
        p.sigma_ema.fill_(1.0)
        p.seen.fill_(1)


def record_draws(method, replay=None):
    """Let ABRA keep what it draws, in the returned list; with replay, return those instead of drawing."""
    original, drawn, left = method.perturb.draw, [], list(replay or ())

    def draw(points, batch):
        noise = left.pop(0) if left else original(points, batch)
        drawn.append(noise)
        return noise

    method.perturb.draw = draw
    return drawn


def array(t):
    """A tensor as float64 NumPy."""
    return t.detach().double().numpy().copy()


def target_arrays(target):
    """(y, y_b, w) for the reference."""
    w = target.w.numpy() if isinstance(target.w, torch.Tensor) else target.w
    return target.y.numpy(), None if target.y_b is None else target.y_b.numpy(), w


def as_model(method):
    """A frozen copy of an ABRA method's theta for the reference; batch norms normalise by the batch.

    Where shifts come before the ReLU, the stages of insertion lack it; the reference applies it itself.
    """
    twin = copy.deepcopy(method.net).train()
    bare = method.perturb.at if getattr(method.cfg, "before_relu", False) else ()

    def black_box(name):
        module = twin.stages[name][:-1] if name in bare else twin.stages[name]

        def stage(x):
            with torch.no_grad():
                return module(torch.from_numpy(x)).numpy()

        return stage

    V = array(method.arc_weight) if getattr(method, "arc_weight", None) is not None else None
    neck = getattr(method, "neck", None)
    neck = (array(neck.weight), array(neck.bias)) if isinstance(neck, nn.LayerNorm) else None
    head = array(method.head.weight), array(method.head.bias)
    return Model({name: black_box(name) for name in STAGES}, *head, V, neck)


def noise_arrays(method, noise, N):
    """Drawn noise by insertion point, spread over the rows: {name: (e_mu, e_sigma)} in (N, C)."""
    return {
        name: tuple(np.broadcast_to(array(e), (N, e.shape[-1])) for e in pair)
        for name, pair in zip(method.perturb.at, noise, strict=True)
    }


def clean_map(method, batch, upto="res4"):
    """The clean representation after a stage, as an array, leaving the method as it is."""
    x = array(batch.x)
    stages = as_model(method).stages
    for name in STAGES[: STAGES.index(upto) + 1]:
        x = stages[name](x)
    return x


def multiplications(call):
    """Multiplications of convolutions and matrix products that a call takes."""
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        call()
    return count.get_total_flops() / 2


@functools.cache
def resnet50_multiplications():
    """Those of ResNet-50's forward pass on one image of 3 x 256 x 256."""
    with torch.device("meta"):
        net, x = build_net("resnet50", 3, pretrained=False), torch.empty(1, 3, 256, 256)
    return multiplications(lambda: net(x))
