"""Heads of self-supervised methods: their layers, their starts, and what happens without lightly."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from abra_wilds.nets.heads import byol_predictor, byol_projector, dino_head, lightly, simclr_projector
from abra_wilds.types import InputError

BLOCKED = """
import sys
from abra_wilds.nets.heads import dino_head, lightly
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pytorch_lightning", "lightning_utilities", "torchmetrics", "timm"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
dino_head(3, 4, 5, 6)
lightly("loss"), lightly("models.modules.center")
"""


def layers(head):
    return [type(m) for m in head.modules() if not list(m.children())]


def test_heads_have_the_layers_of_their_papers():
    two = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert layers(simclr_projector(5, 6, 7)) == [*two, nn.BatchNorm1d]
    assert layers(byol_projector(5, 6, 7)) == layers(byol_predictor(7, 6)) == two
    assert layers(dino_head(5, 6, 7, 8)) == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear, nn.Linear]
    x = torch.randn(4, 5)
    assert simclr_projector(5, 6, 7)(x).shape == byol_projector(5, 6, 7)(x).shape == (4, 7)
    assert byol_predictor(5, 6)(x).shape == (4, 5)


def test_scores_of_a_dino_head_are_cosines_and_a_second_head_can_take_over_its_state():
    torch.manual_seed(0)
    a, b = (dino_head(5, 6, 7, 8) for _ in range(2))
    x = 3 * torch.randn(40, 5)
    assert not torch.equal(a(x), b(x))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))
    unit = nn.functional.normalize(a.layers(x), dim=1)
    directions = nn.functional.normalize(a.last_layer.weight_v, dim=1)
    assert torch.allclose(a(x), unit @ directions.T, atol=1e-6)


def test_without_lightly_the_way_to_install_it_is_named(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(InputError, match=r"lightly.*\[ssl\]"):
        simclr_projector(5, 6, 7)


def test_a_part_that_lightly_lacks_is_no_missing_package():
    with pytest.raises(ModuleNotFoundError, match=r"lightly\.nothing"):
        lightly("nothing")


def test_what_is_used_of_lightly_needs_no_training_framework():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=600)
