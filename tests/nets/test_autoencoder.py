"""IID-lite's auto-encoder: shapes, AdaIN, what depends on what, and that it learns."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from abra_wilds.nets.autoencoder import AutoEncoder, adain
from tests.helpers import multiplications, resnet50_multiplications


def make(channels=3, seed=0):
    torch.manual_seed(seed)
    return AutoEncoder(channels)


@pytest.mark.parametrize("channels, side", [(3, 256), (6, 64), (1, 96)])
def test_codes_are_14_of_512_and_maps_halve_the_side_five_times(channels, side):
    x = torch.randn(2, channels, side, side)
    codes, maps = make(channels).encode(x)
    assert codes.shape == (2, 14, 512)
    assert [m.shape for m in maps] == [(2, 1, side >> i, side >> i) for i in range(1, 6)]


@pytest.mark.parametrize("side", [64, 96])
def test_the_image_is_reconstructed_at_its_size(side):
    x = torch.randn(2, 3, side, side)
    image, picture = make()(x)
    assert image is x and picture.shape == x.shape


@pytest.mark.parametrize("side", [4, 32])
def test_small_images_are_enlarged_so_that_no_map_is_one_pixel(side):
    ae, x = make(), torch.randn(2, 3, side, side)
    image, picture = ae(x)
    assert torch.equal(image, F.interpolate(x, size=(64, 64))) and picture.shape == image.shape
    assert ae.encode(x)[1][-1].shape[-2:] == (2, 2)


def test_maps_have_mean_0_and_deviation_1_in_every_image():
    for m in make().encode(torch.randn(3, 3, 64, 64))[1]:
        np.testing.assert_allclose(m.mean((1, 2, 3)).detach(), 0, atol=1e-5)
        np.testing.assert_allclose(m.std((1, 2, 3), correction=0).detach(), 1, atol=1e-2)


def test_adain_standardises_then_scales_by_one_more_and_shifts():
    rng = np.random.default_rng(0)
    x, scale, shift = 3 * rng.normal(size=(2, 4, 5, 5)) + 1, rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    got = adain(*(torch.from_numpy(t) for t in (x, scale, shift)))
    for n in range(2):
        for c in range(4):
            want = (1 + scale[n, c]) * (x[n, c] - x[n, c].mean()) / x[n, c].std() + shift[n, c]
            np.testing.assert_allclose(got[n, c], want, atol=1e-6)


def test_the_reconstruction_depends_on_every_code_and_every_map():
    ae, x = make().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    codes, maps = ae.encode(x)
    codes, maps = codes.detach().requires_grad_(), [m.detach().requires_grad_() for m in maps]
    picture = ae.decoder(codes, maps, (64, 64))
    for gradient in torch.autograd.grad((picture**2).sum(), [codes, *maps]):
        assert gradient.isfinite().all()
        assert (gradient.flatten(2).abs().amax(2) > 0).all()


def test_latents_of_an_image_are_its_own():
    ae, x = make().double().train(), torch.randn(3, 3, 64, 64, dtype=torch.float64)
    together, alone = ae.encode(x), ae.encode(x[1:2])
    assert torch.allclose(together[0][1:2], alone[0], atol=1e-12)
    assert all(torch.allclose(a[1:2], b, atol=1e-12) for a, b in zip(together[1], alone[1], strict=True))


def test_every_parameter_learns_and_the_error_falls():
    ae, x = make(), torch.nn.functional.avg_pool2d(torch.randn(4, 3, 128, 128), 2) * 2
    adam, errors = torch.optim.Adam(ae.parameters(), 2e-3), []
    for _ in range(25):
        image, picture = ae(x)
        error = F.mse_loss(picture, image)
        errors.append(error.item())
        adam.zero_grad()
        error.backward()
        assert [n for n, p in ae.named_parameters() if p.grad is None or not p.grad.any()] == []
        adam.step()
    assert errors[-1] < 0.8 * errors[0]


def test_size_and_cost_are_those_that_iid_lite_states():
    with torch.device("meta"):
        net, x = AutoEncoder(3), torch.empty(1, 3, 256, 256)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(5.6e6, rel=0.01)
    encoder, whole = (multiplications(lambda f=f: f(x)) for f in (net.encode, net))
    assert encoder / resnet50_multiplications() == pytest.approx(0.14, abs=0.005)
    assert (whole - encoder) / resnet50_multiplications() == pytest.approx(0.27, abs=0.005)
