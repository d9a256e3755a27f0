"""Canonical tiny settings; a method that is missing here fails collection."""

import math

from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.base import MethodConfig
from abra_wilds.methods.domains.coral import DeepCORALConfig
from abra_wilds.methods.domains.dann import DANNConfig
from abra_wilds.methods.domains.group_dro import GroupDROConfig
from abra_wilds.methods.domains.irm import IRMConfig
from abra_wilds.methods.domains.irmx import IRMXConfig
from abra_wilds.methods.domains.pair import IRMXPairConfig
from abra_wilds.methods.mixing.erm_cutmix import ERMCutMixConfig
from abra_wilds.methods.mixing.iid_lite import IIDLiteConfig
from abra_wilds.methods.ssl.byol import BYOLConfig
from abra_wilds.methods.ssl.dino import DINOv2Config
from abra_wilds.methods.ssl.simclr import SimCLRConfig
from abra_wilds.methods.styles.advbayes import AdvBayesConfig
from abra_wilds.methods.styles.advstyle import AdvStyleConfig
from abra_wilds.methods.styles.dsu import DSUConfig
from abra_wilds.methods.styles.mixstyle import MixStyleConfig
from abra_wilds.methods.styles.spectral_ot import SpectralOTConfig

# Views as small as the tiny networks, and prototypes that move from the start.
TINY_DINO = {"prototypes": 11, "hidden": 12, "bottleneck": 7, "freeze_epochs": 0}
TINY_DINO |= {"n_local": 3, "global_size": 8, "local_size": 4}

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
    "SimCLR": {"default": SimCLRConfig(hidden=9, out=7)},
    "BYOL": {"default": BYOLConfig(hidden=9, out=7)},
    "DINOv2": {"default": DINOv2Config(**TINY_DINO)},
    "DSU": {"default": DSUConfig(), "everywhere": DSUConfig(p=1.0)},
    "AdvStyle": {
        "default": AdvStyleConfig(),
        "by K alone": AdvStyleConfig(p_adv=1.0, p_dsu=0.0, k_lr=0.05),
    },
    "AdvBayes": {"default": AdvBayesConfig(pre_epochs=0, adv_steps=2, adv_lr=0.1, depth=2)},
    "IID-lite": {"frozen": IIDLiteConfig(width=8, dropout=0.0, pretrain_epochs=0)},
    "ERM-CutMix": {"default": ERMCutMixConfig(width=8)},
    "deepCORAL": {"default": DeepCORALConfig(penalty_weight=2.0)},
    "groupDRO": {"default": GroupDROConfig(step_size=0.5)},
    "IRM": {"default": IRMConfig(lam=3.0, penalty_anneal_iters=1)},
    "LISA": {"default": MethodConfig()},
    "ARM-BN": {"default": MethodConfig()},
    "CS-ARM-BN": {"default": MethodConfig()},
    "IRMX-PAIR": {"default": IRMXPairConfig(domains=3, domain_rows=2)},
    "IRMX": {"default": IRMXConfig(domains=3, domain_rows=2)},
    "MixStyle": {
        "default": MixStyleConfig(),
        "crossdomain": MixStyleConfig(p=1.0, alpha=1.0, mix="crossdomain"),
    },
    "DANN": {"default": DANNConfig(gamma=0.5, ramp=False)},
    "Spectral-OT": {
        "default": SpectralOTConfig(),
        "apart, independent": SpectralOTConfig(p=0.7, rings=3, channels="apart", draws="independent"),
    },
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
    "k_unit": "sigma",
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
