"""Gradient reversal: an identity whose gradient is turned round."""

import pytest
import torch

from abra_wilds.functional.grad import reverse_gradient


def test_values_pass_unchanged():
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(reverse_gradient(x, 0.7), x)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 4.0])
def test_gradient_is_minus_factor_times_the_gradient_without_reversal(factor):
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad((f.sin() ** 2).sum(), x)[0] for f in (x * 1, reverse_gradient(x, factor))]
    torch.testing.assert_close(slopes[1], -factor * slopes[0], rtol=0, atol=1e-15)


def test_half_precision_stays_half_precision():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert y.dtype == torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16
