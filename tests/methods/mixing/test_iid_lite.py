"""IID-lite: what enters where, two phases that do not mix, and ERM-CutMix where nothing enters."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from abra_wilds.methods.mixing.erm_cutmix import ERMCutMixConfig
from abra_wilds.methods.mixing.iid_lite import IIDLite, IIDLiteConfig
from abra_wilds.nets.injection import NoiseInjection, StyleInjection
from abra_wilds.nets.staged import BATCH_NORMS, STAGES
from abra_wilds.types import InputError
from tests.helpers import array, gradients, make_batch, make_info, make_method, tiny_net, worst

MIXED = pytest.mark.parametrize("w", [None, 0.63])


def method_of(info=None, epoch=5, seed=0, **kwargs):
    settings = {"width": 8, "pretrain_epochs": 2, "dropout": 0.0, **kwargs}
    return make_method("IID-lite", IIDLiteConfig(**settings), info=info, epoch=epoch, seed=seed)


def open_noise(method):
    """Give the maps weight, as training would."""
    with torch.no_grad():
        for i, inject in enumerate(method.noise.values()):
            inject.w.fill_(0.3 + 0.1 * i)


@MIXED
def test_without_maps_and_codes_it_is_erm_cutmix_bit_for_bit(w):
    method, batch = method_of(noise=False, style=False, k=0.2, epoch=0), make_batch(w=w)
    plain = make_method("ERM-CutMix", ERMCutMixConfig(width=8, k=0.2))
    a, b = method.state_dict(), plain.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    outs = method(batch), plain(batch)
    assert torch.equal(outs[0].loss, outs[1].loss) and torch.equal(outs[0].logits, outs[1].logits)
    assert worst(gradients(method, outs[0].loss), gradients(plain, outs[1].loss)) == 0


def test_at_first_the_maps_change_nothing():
    method, batch = method_of(style=False, dropout=0.5), make_batch()
    plain = make_method("ERM-CutMix", ERMCutMixConfig(width=8))
    plain.load_state_dict(
        {n: t for n, t in method.state_dict().items() if not n.startswith(("noise", "auto"))}
    )
    assert worst(method(batch).loss, plain(batch).loss) < 1e-14
    before = method.predict(batch.x)
    open_noise(method)
    assert worst(method.predict(batch.x), before) > 1e-3


def test_noise_injection_adds_the_weighted_map_averaged_to_the_features_size():
    inject = NoiseInjection(0.5).double()
    X, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(inject(X, noise), X)
    with torch.no_grad():
        inject.w.fill_(0.7)
    mean = array(noise).reshape(2, 1, 4, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(array(inject.eval()(X, noise)), array(X) + 0.7 * mean, atol=1e-12)
    share = (array(inject.train()(X, noise) - X)[:, :1] / (0.7 * mean)).round(9)
    assert set(np.unique(share)) == {0.0, 2.0}, "dropout of a half keeps doubles"
    small = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    np.testing.assert_allclose(
        array(inject.eval()(X, small) - X)[:, :1], 0.7 * array(small).repeat(2, 2).repeat(2, 3), atol=1e-12
    )


def test_style_injection_is_a_convolution_over_the_numbers_a_norm_and_a_leak():
    torch.manual_seed(0)
    inject, codes = StyleInjection(14, 0.5).double(), torch.randn(3, 14, 10, dtype=torch.float64)
    inject.dropout.p = 0.0
    weight, padded = array(inject.conv.weight)[0], np.pad(array(codes), ((0, 0), (0, 0), (1, 1)))
    s = np.stack([(padded[:, :, j : j + 3] * weight).sum((1, 2)) for j in range(10)], 1)
    s = (s - s.mean()) / np.sqrt(s.var() + 1e-5)
    np.testing.assert_allclose(array(inject(codes)), np.where(s > 0, s, 0.01 * s), atol=1e-10)


def test_features_are_those_of_stages_with_their_maps_and_the_style_vector_after_them():
    method, x = method_of(), make_batch().x
    open_noise(method)
    codes, maps = method.autoencoder.encode(x)
    X = x
    for name, m in zip(STAGES, maps, strict=True):
        X = method.net.stages[name](X)
        X = X + method.noise[name].w * F.adaptive_avg_pool2d(m, X.shape[-2:])
    got = method.features(x)
    assert got.shape == (6, 6 + 512)
    assert worst(got[:, :6], X.mean((2, 3))) < 1e-12
    assert worst(got[:, 6:], method.style(codes)) < 1e-12
    assert worst(method.predict(x), method.head(method.neck(got))) < 1e-12


@MIXED
def test_in_the_first_epochs_the_auto_encoder_alone_learns_five_times_the_squared_error(w):
    method, batch = method_of(epoch=1), make_batch(w=w)
    buffers = {n: b.clone() for n, b in method.named_buffers()}
    out = method(batch)
    image, picture = (array(t) for t in method.autoencoder(batch.x))
    assert out.logits is None
    assert out.loss.item() == pytest.approx(5 * ((image - picture) ** 2).mean(), abs=1e-10)
    assert out.logs["L_rec"].item() == pytest.approx(out.loss.item() / 5)
    learning = {n for n, g in gradients(method, out.loss).items() if g is not None}
    assert learning == {n for n, _ in method.named_parameters() if n.startswith("autoencoder.")}
    assert all(torch.equal(b, buffers[n]) for n, b in method.named_buffers())


def test_afterwards_the_auto_encoder_gets_no_gradient_and_no_decay():
    method = method_of(epoch=0)
    adam = torch.optim.Adam(method.parameters(), lr=0.1, weight_decay=0.1)
    for epoch in (0, 2, 3):
        before = {n: p.detach().clone() for n, p in method.named_parameters()}
        method.context = type(method.context)(0.1, epoch=epoch)
        adam.zero_grad(set_to_none=True)
        method(make_batch(w=0.63)).loss.backward()
        adam.step()
        moved = {n for n, p in method.named_parameters() if not torch.equal(p, before[n])}
        encoder = {n for n in before if n.startswith("autoencoder.")}
        assert moved == (encoder if epoch == 0 else before.keys() - encoder)


def test_an_auto_encoder_that_is_never_trained_is_frozen_from_the_start():
    method = method_of(pretrain_epochs=0, epoch=0)
    assert not any(p.requires_grad for p in method.autoencoder.parameters())
    assert method(make_batch()).logits is not None
    assert all(p.requires_grad for p in method_of().parameters())


@pytest.mark.parametrize("kwargs", [{"noise": False}, {"style": False}])
def test_either_latent_can_enter_alone(kwargs):
    method, x = method_of(**kwargs), make_batch().x
    assert method.features(x).shape[1] == (6 if "style" in kwargs else 6 + 512)
    assert len(method.noise) == (0 if "noise" in kwargs else 5)
    assert method(make_batch()).loss.isfinite()


@pytest.mark.parametrize("channels, side", [(6, 32), (3, 64)])
def test_any_channels_and_sides_pass_in_both_phases(channels, side):
    for epoch in (0, 9):
        method = method_of(make_info(in_channels=channels), epoch)
        assert method(make_batch(in_channels=channels, size=side)).loss.isfinite()


@pytest.mark.parametrize("latent", [{"noise": False}, {"style": False}], ids=["codes", "maps"])
def test_dropout_acts_on_either_latent_in_training_alone(latent):
    method, x = method_of(dropout=0.5, **latent), make_batch().x
    open_noise(method)
    assert worst(method.predict(x), method.predict(x)) > 1e-3
    method.eval()
    assert torch.equal(method.predict(x), method.predict(x))
    assert worst(method.predict(x)[:2], method.predict(x[:2])) < 1e-12


def test_every_batch_norm_has_the_momentum():
    norms = [m for m in method_of().modules() if isinstance(m, BATCH_NORMS)]
    assert len(norms) == 5 + 3 + 1 and {m.momentum for m in norms} == {0.05}


def test_maps_are_refused_where_features_are_tokens():
    net = tiny_net()
    net.class_token = True
    with pytest.raises(InputError, match="--model"):
        IIDLite(net, make_info(), IIDLiteConfig())
    IIDLite(net, make_info(), IIDLiteConfig(noise=False))
