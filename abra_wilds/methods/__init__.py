"""The table of methods, in the order in which the paper's tables print them."""

from __future__ import annotations

from abra_wilds.errors import InputError
from abra_wilds.methods.abra.abra import ABRA
from abra_wilds.methods.adaptive.arm_bn import ARMBN
from abra_wilds.methods.adaptive.cs_arm_bn import CSARMBN
from abra_wilds.methods.base import Method
from abra_wilds.methods.domains.coral import DeepCORAL
from abra_wilds.methods.domains.dann import DANN
from abra_wilds.methods.domains.group_dro import GroupDRO
from abra_wilds.methods.domains.irm import IRM
from abra_wilds.methods.domains.irmx import IRMX
from abra_wilds.methods.domains.pair import IRMXPair
from abra_wilds.methods.erm import ERM
from abra_wilds.methods.mixing.erm_cutmix import ERMCutMix
from abra_wilds.methods.mixing.iid_lite import IIDLite
from abra_wilds.methods.mixing.lisa import LISA
from abra_wilds.methods.ssl.byol import BYOL
from abra_wilds.methods.ssl.dino import DINOv2
from abra_wilds.methods.ssl.simclr import SimCLR
from abra_wilds.methods.styles.advbayes import AdvBayes
from abra_wilds.methods.styles.advstyle import AdvStyle
from abra_wilds.methods.styles.dsu import DSU
from abra_wilds.methods.styles.mixstyle import MixStyle
from abra_wilds.methods.styles.spectral_ot import SpectralOT

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        # Tables 2-4
        ERM,
        SimCLR,
        BYOL,
        DINOv2,
        DSU,
        AdvStyle,
        AdvBayes,
        ABRA,
        # Table 5
        IIDLite,
        ERMCutMix,
        LISA,
        ARMBN,
        IRMXPair,
        IRMX,
        DeepCORAL,
        GroupDRO,
        IRM,
        # Table 6 and related work
        DANN,
        CSARMBN,
        MixStyle,
        # Ours
        SpectralOT,
    )
}


def get_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        InputError: if there is none.
    """
    if name not in METHODS:
        raise InputError(f"unknown algorithm {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
