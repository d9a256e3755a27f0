"""Canonical tiny settings; a method that is missing here fails collection."""

import math

from abra_wilds.methods.abra_config import ABRAConfig
from abra_wilds.methods.base import MethodConfig
from abra_wilds.methods.coral import DeepCORALConfig
from abra_wilds.methods.group_dro import GroupDROConfig
from abra_wilds.methods.irm import IRMConfig

# method -> {label: configuration}
SETTINGS = {
    "ERM": {"default": MethodConfig()},
    "ABRA": {
        "default": ABRAConfig(),
        "res2+res4": ABRAConfig(at=("res2", "res4"), alpha=0.1),
        "literal, on maps": ABRAConfig(two_forward=True, pooled_path=False, alpha=0.1, ascent_steps=2),
        "neck": ABRAConfig(
            neck="layernorm", prob=0.9, reuse_noise=True, soft_arc="two_term", noise_shape="image"
        ),
    },
    "deepCORAL": {"default": DeepCORALConfig(penalty_weight=2.0)},
    "groupDRO": {"default": GroupDROConfig(step_size=0.5)},
    "IRM": {"default": IRMConfig(lam=3.0, penalty_anneal_iters=1)},
}

THREE = (0, 1, 1, 0, 2, 2)  # bio-batch ids of a batch
# Large steps and magnitudes, so that a wrong K shows in the loss; and a bound that some channels reach.
BASE = {"alpha": 0.05, "k_init": 0.3, "k_bound": 0.31, "js_weight": 2.0}
# A value of each field that is not the default.
ALTERNATIVES = {
    "at": ("res3",),
    "terms": ("ce", "js"),
    "lam": 0.4,
    "scale": 10.0,
    "margin": 0.2,
    "halve_arc": True,
    "share_arc_weight": True,
    "neck": "layernorm",
    "k_init": 0.1,
    "k_init_relative": False,
    "alpha": 0.01,
    "alpha_scale": 0.2,
    "ascent_steps": 3,
    "k_bound": math.inf,
    "reuse_noise": True,
    "noise_shape": "image",
    "prob": 0.0,
    "two_forward": True,
    "reduce": "sum",
    "js_weight": 0.0,
    "js_detach_clean": True,
    "detach_stats": True,
    "eps": 0.5,
    "clamp_sigma": True,
    "before_relu": True,
    "soft_arc": "two_term",
    "stats_over": "batch",
    "pooled_path": False,
}
