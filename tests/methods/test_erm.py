"""ERM against its formula."""

import numpy as np
import pytest
import torch

from abra_wilds.methods import METHODS
from tests import reference
from tests.helpers import array, clean_map, gradients, make_batch, make_method, target_arrays


@pytest.mark.parametrize("w", [None, 0.63, torch.tensor([0.1, 0.9, 0.5, 1.0, 0.0, 0.3], dtype=torch.float64)])
def test_loss_is_the_mean_cross_entropy_and_the_head_gets_its_closed_form_gradient(w):
    method, batch = make_method("ERM"), make_batch(w=w)
    f = clean_map(method, batch).mean((2, 3))
    z = f @ array(method.head.weight).T + array(method.head.bias)
    y, y_b, share = target_arrays(batch.target)
    Y = reference.dense(y, 5, y_b, share)
    out = method(batch)
    assert out.loss.item() == pytest.approx(reference.cross_entropy(z, Y), abs=1e-12)
    np.testing.assert_allclose(array(out.logits), z, atol=1e-12)
    residual = (reference.softmax(z) - Y) / len(z)
    found = gradients(method, out.loss)
    np.testing.assert_allclose(array(found["head.weight"]), residual.T @ f, atol=1e-12)
    np.testing.assert_allclose(array(found["head.bias"]), residual.sum(0), atol=1e-12)


def test_erm_wants_the_standard_loader():
    assert METHODS["ERM"].plan.train_loader == "standard"
    assert METHODS["ERM"].plan.mix == "none"
