"""Other batch-norm statistics for a while: closed forms on one layer, and nothing left."""

import copy
import math

import pytest
import torch
from torch import nn

from abra_wilds.tta.bn_state import buffers_put_back, moments, statistics_of_input, tracking_norms
from abra_wilds.types import InputError
from tests import runs

CONSTRUCTORS = {
    "1d": (nn.BatchNorm1d, (6, 4)),
    "1d of a sequence": (nn.BatchNorm1d, (6, 4, 5)),
    "2d": (nn.BatchNorm2d, (6, 4, 3, 2)),
    "sync": (nn.SyncBatchNorm, (6, 4, 3, 2)),
}


def layer(kind, seed=0):
    """A batch norm with statistics and affine parameters of its own, in evaluation mode, and an input."""
    make, shape = CONSTRUCTORS[kind]
    rng = torch.Generator().manual_seed(seed)
    norm = make(4, eps=1e-3).double().eval()
    norm.running_mean.copy_(torch.randn(4, generator=rng))
    norm.running_var.copy_(0.5 + torch.rand(4, generator=rng))
    norm.num_batches_tracked.fill_(7)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(4, generator=rng))
        norm.bias.copy_(torch.randn(4, generator=rng))
    return norm, 3 * torch.randn(shape, generator=rng, dtype=torch.float64) - 2


def by_hand(norm, x, prior):
    """mu = (M mu_s + N mu_t) / (M + N), var alike with the biased var_t, in NumPy's float64."""
    X = x.numpy().reshape(*x.shape[:2], -1)
    N, share = len(X), (1.0 if math.isinf(prior) else prior / (prior + len(X)))
    mu = share * norm.running_mean.numpy() + (1 - share) * X.mean((0, 2))
    var = share * norm.running_var.numpy() + (1 - share) * X.var((0, 2))
    y = (X - mu[:, None]) / (var[:, None] + norm.eps) ** 0.5
    y = y * norm.weight.detach().numpy()[:, None] + norm.bias.detach().numpy()[:, None]
    assert N == 6
    return torch.from_numpy(y.reshape(x.shape))


@pytest.mark.parametrize("prior", [0.0, 2.5, 6.0, 1e4, math.inf])
@pytest.mark.parametrize("kind", CONSTRUCTORS)
def test_one_layer_normalises_by_the_mixture_and_is_left_as_it_was(kind, prior):
    norm, x = layer(kind)
    before, buffers = copy.deepcopy(norm.state_dict()), (norm.running_mean, norm.running_var)
    wanted = by_hand(norm, x, prior)
    with torch.no_grad(), buffers_put_back(norm), statistics_of_input(norm, prior):
        y = norm(x)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    assert runs.differences(dict(before), dict(norm.state_dict())) == []
    assert (norm.running_mean, norm.running_var) == buffers, "the very tensors, which an optimiser may know"
    assert not norm.training and not norm._forward_pre_hooks


@pytest.mark.parametrize("kind", ["1d", "1d of a sequence", "2d"])
def test_without_a_prior_it_is_training_mode(kind):
    norm, x = layer(kind)
    with torch.no_grad(), buffers_put_back(norm), statistics_of_input(norm):
        y = norm(x)
    torch.testing.assert_close(y, copy.deepcopy(norm).train()(x).detach(), rtol=0, atol=1e-12)


def test_an_infinite_prior_is_evaluation_mode_bit_for_bit():
    norm, x = layer("2d")
    norm, x = norm.float(), x.float()
    with torch.no_grad(), buffers_put_back(norm), statistics_of_input(norm, math.inf):
        assert torch.equal(norm(x), nn.functional.batch_norm(x, *running(norm), training=False, eps=norm.eps))


def running(norm):
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def test_statistics_stay_until_the_hooks_end_until_the_buffers_are_put_back():
    norm, x = layer("2d")
    other = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    with torch.no_grad(), buffers_put_back(norm):
        with statistics_of_input(norm):
            norm(x)
        mean, var = moments(x)
        assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, var)
        fixed = norm(other)
        assert torch.equal(norm(other[:1]), fixed[:1]), "whatever else is in the batch"


def test_a_failure_inside_leaves_nothing():
    norm, x = layer("2d")
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(KeyboardInterrupt), buffers_put_back(norm), statistics_of_input(norm):
        norm(x)
        raise KeyboardInterrupt
    assert runs.differences(dict(before), dict(norm.state_dict())) == [] and not norm._forward_pre_hooks


def test_one_image_on_one_pixel_is_a_sentence():
    norm, _ = layer("2d")
    with buffers_put_back(norm), statistics_of_input(norm), pytest.raises(InputError, match="--tta_min"):
        norm(torch.zeros(1, 4, 1, 1, dtype=torch.float64))
    moments(torch.zeros(1, 4, 2, 1))
    moments(torch.zeros(2, 4))


def test_moments_of_half_precision_are_taken_in_float32():
    x = (1000 + torch.randn(64, 3, 8, 8)).bfloat16()
    mean, var = moments(x)
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(var, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)


def test_a_batch_norm_without_running_statistics_is_none_of_ours():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    assert tracking_norms(net) == [net[0]]
