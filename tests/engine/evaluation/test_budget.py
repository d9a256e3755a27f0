"""What a run says it consumed is what it consumed."""

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.evaluation.budget import budget_of, outside_data
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.results.records import read_records
from tests import runs

SIDE = 32


def run(root, folder, name="ERM", **changes):
    return fit(run_config(name, **runs.settings(root, folder, name, **changes)))[0].consumed


def tiny_flops():
    """Multiply-adds, twice, of one image through the five convolutions and the classifier, by hand."""
    side, before, total, first = SIDE, 3, 0, 0
    for C in (8, 8, 8, 8, 12):
        side //= 2
        total += 2 * side * side * C * before * 9
        first = first or total
        before = C
    return total + 2 * 12 * 9, first


def test_erm_costs_two_backward_passes_less_the_images_gradient(root, tiny, tmp_path):
    found = run(root, tmp_path)
    forward, first = tiny_flops()
    assert found["images"] == 128 and found["steps"] == 16 and found["labels"] == 64
    assert found["forward_equivalents"] == pytest.approx(
        128 * (3 * forward - first) / forward, rel=1e-6, abs=1
    )
    assert found["batch_statistics"] is found["test_images"] is False and found["outside_data"] is None


def test_the_two_forward_form_of_abra_costs_a_third_more(root, tiny, tmp_path):
    one = run(root, tmp_path / "one", "ABRA", log_every=100)
    two = run(root, tmp_path / "two", "ABRA", log_every=100, abra_two_forward=True)
    assert two["images"] == one["images"]
    assert two["forward_equivalents"] - one["forward_equivalents"] == pytest.approx(one["images"], rel=0.02)


def test_attention_counts_on_a_cpu():
    N, heads, T, D = 2, 3, 5, 8
    q, k, v = (torch.ones(N, heads, T, D, requires_grad=True) for _ in range(3))
    with FlopCount() as count:
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        forward = count.total
        torch.autograd.grad(attended.sum(), (q, k, v))
    # Two products of T x T x D in each head, two FLOPs a multiply-add; five on the way back.
    product = 2 * N * heads * T * T * D
    assert (forward, count.total) == (2 * product, 7 * product)


def test_adaptation_says_that_test_images_entered(root, tiny, tmp_path):
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM", tta="batch_bn", tta_min=2))
    setup = prepare(config)
    found = budget_of(config, setup, build_method(config, setup.info), Progress())
    assert found["batch_statistics"] is found["test_images"] is True


@pytest.mark.parametrize("tta", ["tent", "sar", "lame", "label_shift"])
def test_what_is_more_than_batch_statistics_does_not_pass_for_them(root, tiny, tmp_path, tta):
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM", tta=tta, tta_min=2))
    setup = prepare(config)
    found = budget_of(config, setup, build_method(config, setup.info), Progress())
    assert found["test_images"] is True and found["batch_statistics"] is False


def test_what_an_older_version_did_not_count_is_not_called_nothing(root, tiny, tmp_path):
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM"))
    setup = prepare(config)
    found = budget_of(config, setup, build_method(config, setup.info), Progress(epoch=3, seconds=5.0))
    assert found["images"] is found["steps"] is found["forward_equivalents"] is None
    assert found["seconds"] == 5.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pretrained": False}, None),
        ({"pretrained": True}, "ImageNet"),
        ({"pretrained": True, "model": "timm:vit_x"}, "vit_x, published by timm"),
        ({"pretrained_model_path": "a.pth", "pretrained": None}, "the weights of a.pth"),
    ],
)
def test_outside_data_is_named(tmp_path, changes, said):
    config = run_config("ERM", **runs.settings(tmp_path, tmp_path, "ERM", **changes))
    assert outside_data(config.model) == said


def test_records_keep_it_and_read_it_again(root, tiny, tmp_path):
    found = run(root, tmp_path)
    assert read_records(tmp_path / "results.jsonl")[0].consumed == found
