"""Values of methods' own options that cannot be, and options without effect, by the flags that set them."""

import math
from dataclasses import fields

import pytest

from abra_wilds.config.fields import flag_name
from abra_wilds.methods import METHODS
from abra_wilds.types import InputError

# method -> options, each of which is refused by itself; ABRA's have tests of their own
BAD = {
    "SimCLR": {
        **{"temperature": 0.0, "out": 0, "min_area": 0.0, "jitter": -1.0, "probe_epochs": 0},
        **{"probe_batch_size": 0, "probe_rates": ()},
    },
    "BYOL": {"momentum": 1.1, "hidden": 0, "min_area": 2.0, "probe_epochs": 0},
    "DINOv2": {
        **{"prototypes": 0, "student_temp": 0.0, "n_local": -1, "momentum": 2.0, "mask_prob": 0.0},
        **{"mask_ratio": (0.5, 0.1), "probe_epochs": 0},
    },
    "DSU": {"at": (), "p": 1.1, "factor": -1.0, "eps": 0.0},
    "AdvStyle": {"at": ("res1", "res1"), "p_adv": 1.5, "w": -1.0, "k_lr": -1.0, "eps": 0.0},
    "AdvBayes": {"pre_epochs": -1, "adv_steps": -1, "depth": -1, "adv_lr": 0.0, "c": 1.5, "beta": math.inf},
    "IID-lite": {"dropout": 1.0, "pretrain_epochs": -1, "k": -0.1},
    "ERM-CutMix": {"k": 1.0, "margin": 4.0, "scale": 0.0, "width": 0, "bn_momentum": 0.0},
    "deepCORAL": {"penalty_weight": -1},
    "groupDRO": {"step_size": -1},
    "IRM": {"lam": -1, "penalty_anneal_iters": -1},
    "IRMX-PAIR": {"preference": (1.0, 1.0), "eps": -1, "domains": 1},
    "IRMX": {
        **{"p1": -1, "p2": -1, "head_epochs": 0, "domains": 1, "domain_rows": 1, "head_lr": 0},
        "head_weight_decay": -1,
    },
    "MixStyle": {"at": (), "p": -0.1, "alpha": 0.0, "mix": "none", "eps": 0.0},
    "Spectral-OT": {"p": 1.1, "strength": -1, "rings": 0, "channels": "both", "draws": "random"},
    "DANN": {
        "penalty_weight": -1,
        "gamma": -1,
        "classifier_lr_factor": 0,
        "discriminator_lr_factor": math.inf,
    },
}
# Others, of which the last is refused.
MORE = [
    ("DSU", {"at": ("res1", "res1")}),
    ("DSU", {"at": ("layer1",)}),
    ("AdvStyle", {"p_adv": 0.75, "p_dsu": 0.5}),
    ("IRMX-PAIR", {"preference": (0.0, 0.5, 0.5)}),
]
# (method, options, those that have no effect then)
IDLE = [
    ("DSU", {"p": 0.0}, "at factor eps"),
    ("AdvStyle", {"w": 0.0}, "k_lr"),
    ("AdvStyle", {"p_adv": 0.0}, "w k_lr"),
    ("AdvStyle", {"p_adv": 0.0, "p_dsu": 0.0}, "w k_lr at eps"),
    ("AdvBayes", {"adv_steps": 0}, "adv_lr beta"),
    ("AdvBayes", {"c": 0.0}, "pre_epochs adv_steps adv_lr depth beta"),
    ("IID-lite", {"noise": False, "style": False, "k": 0.0}, "dropout pretrain_epochs margin scale"),
    ("ERM-CutMix", {"k": 0.0}, "margin scale"),
    ("MixStyle", {"p": 0.0}, "at alpha mix eps"),
    ("Spectral-OT", {"p": 0.0}, "strength rings channels draws"),
]


def flags(name):
    """{option: flag} of a method."""
    Config = METHODS[name].Config
    return {f.name: flag_name(Config, f) for f in fields(Config)}


ALONE = [(name, {option: value}) for name, options in BAD.items() for option, value in options.items()]


@pytest.mark.parametrize(("name", "values"), [*ALONE, *MORE])
def test_a_value_that_cannot_be_is_refused_by_its_flag(name, values):
    *_, (option, value) = values.items()
    with pytest.raises(InputError, match=rf"--{flags(name)[option]}\b") as caught:
        METHODS[name].Config(**values)
    first = value[0] if isinstance(value, tuple) and value else value
    assert str(first) in str(caught.value)


@pytest.mark.parametrize(("name", "values", "idle"), IDLE)
def test_options_without_effect_are_told_with_the_flag_that_makes_them_so(name, values, idle):
    flag = flags(name)
    found = METHODS[name].Config(**values).idle("none")
    assert METHODS[name].Config().idle("none") == {}
    assert set(found) == {flag[option] for option in idle.split()}
    assert all(any(f"--{flag[option]}" in needs for option in values) for needs in found.values())
