"""Every field of ABRA's configuration: what it changes, what it must not change, and what it refuses."""

import dataclasses
import math

import pytest
import torch

from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.types import InputError
from tests.helpers import gradients, magnitudes, make_batch, make_method, worst
from tests.methods.settings import ALTERNATIVES, BASE, THREE

# field -> (what its alternative must change, what must stay), over one step with mixed targets.
EFFECTS = {
    "at": ({"loss", "K", "gradients"}, {"logits"}),
    "terms": ({"loss", "K", "gradients"}, {"logits"}),
    "lam": ({"loss", "K", "gradients"}, {"logits"}),
    "scale": ({"loss", "K", "gradients"}, {"logits"}),
    "margin": ({"loss", "K", "gradients"}, {"logits"}),
    "halve_arc": ({"loss", "K", "gradients"}, {"logits"}),
    "share_arc_weight": ({"loss", "K", "gradients"}, {"logits"}),
    "neck": ({"loss", "K", "gradients", "logits"}, set()),
    "k_init": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "k_init_relative": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "k_unit": ({"loss", "K", "gradients"}, {"logits", "L_clean", "L_adv"}),
    "alpha": ({"loss", "K", "gradients"}, {"logits", "L_clean", "L_adv"}),
    "alpha_scale": ({"loss", "K", "gradients"}, {"logits", "L_clean", "L_adv"}),
    "ascent_steps": ({"loss", "K", "gradients"}, {"logits", "L_clean", "L_adv"}),
    "k_bound": ({"loss", "K", "gradients"}, {"logits", "L_clean", "L_adv"}),
    "reuse_noise": ({"loss", "gradients"}, {"logits", "L_clean", "L_adv", "K"}),
    "noise_shape": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "prob": ({"loss", "gradients", "K"}, {"logits", "L_clean"}),
    "two_forward": (set(), {"loss", "K", "gradients", "logits", "L_adv"}),
    "reduce": ({"loss", "gradients"}, {"logits", "L_clean", "L_adv", "K"}),
    "js_weight": ({"loss", "gradients"}, {"logits", "L_clean", "L_adv", "K"}),
    "js_detach_clean": ({"gradients"}, {"logits", "L_clean", "L_adv", "K", "loss"}),
    "detach_stats": ({"gradients"}, {"logits", "L_clean", "L_adv", "K", "loss"}),
    "eps": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "clamp_sigma": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "before_relu": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "soft_arc": ({"loss", "K", "gradients"}, {"logits"}),
    "stats_over": ({"loss", "K", "gradients"}, {"logits", "L_clean"}),
    "pooled_path": (set(), {"loss", "K", "gradients", "logits", "L_adv"}),
}
# These act only where sigma + Delta_sigma falls below 0, or where a batch holds several bio-batches.
NEEDS = {"clamp_sigma": {"k_init": 2.0, "k_bound": math.inf}}
NEEDS_GROUPS = {"stats_over": THREE}


def one_step(cfg, batch, seed=3):
    """Everything that one step gives, from the same theta whatever the configuration."""
    method = make_method("ABRA", cfg)
    with torch.no_grad():
        method.head.weight.copy_(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))
        if method.arc_weight is not None:
            method.arc_weight.copy_(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)))
    torch.manual_seed(seed)
    out = method(batch)
    K = {f"{name} {i}": k for name, pair in magnitudes(method).items() for i, k in enumerate(pair)}
    found = {n: g for n, g in gradients(method, out.loss).items() if not n.startswith(("arc_weight", "neck"))}
    return {"loss": out.loss, "logits": out.logits, "K": K, "gradients": found, **out.logs}


def test_every_field_of_the_configuration_is_in_the_table():
    assert set(EFFECTS) == set(ALTERNATIVES) == {f.name for f in dataclasses.fields(ABRAConfig)}


@pytest.mark.parametrize("field", EFFECTS)
def test_each_field_changes_what_it_should_and_nothing_else(field):
    value, (changes, stays) = ALTERNATIVES[field], EFFECTS[field]
    cfg = ABRAConfig(**{**BASE, **NEEDS.get(field, {})})
    batch = make_batch(NEEDS_GROUPS.get(field, (0,) * 6), w=0.63)
    assert getattr(cfg, field) != value
    a, b = one_step(cfg, batch), one_step(dataclasses.replace(cfg, **{field: value}), batch)
    for key in stays:
        assert worst(a[key], b[key]) < 1e-12, f"{key} must not depend on {field}"
    for key in changes:
        same = (
            a[key].keys() == b[key].keys() and worst(a[key], b[key]) < 1e-6
            if key == "K"
            else worst(a[key], b[key]) < 1e-6
        )
        assert not same, f"{key} must depend on {field}"


@pytest.mark.parametrize("at", [("res4",), ("res3", "res4")])
def test_pooled_and_map_path_agree_in_losses_K_and_all_gradients(at):
    batch = make_batch(THREE, w=0.63)
    a, b = (one_step(ABRAConfig(**BASE, at=at, pooled_path=pooled), batch) for pooled in (True, False))
    for key in a:
        assert worst(a[key], b[key]) < 1e-11, key


WRONG = {
    "at": [("stem",), (), ("res4", "res4")],
    "terms": [("js",), (), ("ce", "mse")],
    "lam": [-0.1, 1.1],
    "scale": [0.0],
    "margin": [-0.1, 3.2],
    "neck": ["batchnorm"],
    "k_init": [-0.1],
    "alpha": [-1.0],
    "alpha_scale": [-1.0],
    "ascent_steps": [0],
    "k_bound": [0.0],
    "noise_shape": ["pixel"],
    "prob": [-0.1, 1.1],
    "reduce": ["max"],
    "js_weight": [-1.0],
    "eps": [0.0],
    "soft_arc": ["hard"],
    "stats_over": ["plate"],
}


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, values in WRONG.items() for value in values]
)
def test_values_outside_a_fields_range_are_refused_by_the_name_of_its_flag(field, value):
    with pytest.raises(InputError, match=f"--abra_{field} must be") as refusal:
        ABRAConfig(**{field: value})
    assert "\n" not in str(refusal.value)
