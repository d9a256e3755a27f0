"""The rows of `compare_methods.py`: what all have in common, and what each has of its own and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abra_wilds import METHODS
from abra_wilds.eval_config import TTA_GROUPS

SETTINGS: dict[str, Any] = {
    "preset": "wilds",
    "model": "timm:test_resnet",
    "pretrained": False,
    "batch_size": 32,
    "lr": 3e-3,
    "warmup_epochs": 1.0,
    "warmup_from": 1e-4,
    "loader_kwargs": {"num_workers": 0},
    "progress_bar": False,
}


@dataclass(frozen=True)
class Row:
    """One method of the table and its adaptations.

    Attributes:
        algorithm: in METHODS.
        why: the reason for its settings.
        own: settings beside SETTINGS.
        tta: flags of further predictions by the same model.
    """

    algorithm: str
    why: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    tta: Sequence[Mapping[str, Any]] = ()


VIT = {"model": "timm:test_vit"}
PLATE = {"tta": "plate_bn", "tta_group": "plate"}
EXPERIMENT = {"tta": "plate_bn", "tta_group": "experiment"}
MIXED = tuple({"tta": "mixed_bn", "tta_group": group} for group in TTA_GROUPS)
# A plate of the screen has 4 control wells, too few images for statistics.
CONTROLS = {"tta": "controls_bn", "tta_group": "experiment"}
BOTH, NONE = (PLATE, EXPERIMENT), ({"tta": "none"},)
BY_EXPERIMENT = {"groupby_fields": ["experiment"]}
FEW = "the screen trains on 8 experiments, and the preset wants 9 in a batch", {"n_groups_per_batch": 4}
POINTS = ["stem", "res1", "res2", "res3", "res4"]
POINTS_WHY = "the backbone's stem has three convolutions, so the point behind its first one is left out"
HEADS_WHY = "heads as small as the features, which are 96 numbers"
FROZEN_WHY = "16 images of each experiment a batch, where 72 would be half of all images"
CROPS = {"global_size": 48, "local_size": 32, "n_local": 2}
SMALL = {"prototypes": 256, "hidden": 128, "bottleneck": 64, "teacher_temp_epochs": 2, "probe_epochs": 30}
DINO = {f"dinov2_{name}": value for name, value in (CROPS | SMALL).items()}
ADABN = {**BY_EXPERIMENT, **EXPERIMENT, "train_loader": "plate", "bn_stats": "precise"}
ARM = {**BY_EXPERIMENT, **EXPERIMENT, "n_groups_per_batch": 2, "tta_batch_size": 0}
ABA = {"advbayes_pre_epochs": 2, "advbayes_adv_steps": 3, "advbayes_adv_lr": 0.05}
ABA_WHY = "the defaults leave 1 of 6 epochs and move no weight; these move one by half its deviation"
OWN: dict[str, Row] = {
    "ERM": Row("ERM", tta=({"tta": "batch_bn"}, *BOTH, *MIXED, CONTROLS)),
    "AdaBN": Row("ERM", "examples/configs/adabn.yaml, with experiments for plates", ADABN, NONE),
    "SimCLR": Row("SimCLR", HEADS_WHY, {"simclr_hidden": 256, "simclr_out": 64, "simclr_probe_epochs": 30}),
    "BYOL": Row("BYOL", HEADS_WHY, {"byol_hidden": 256, "byol_out": 64, "byol_probe_epochs": 30}),
    "ERM (ViT)": Row("ERM", "what DINOv2's backbone learns with labels", VIT),
    "DINOv2": Row("DINOv2", "needs a ViT; crops of 9 and 4 patches, the rest as small", VIT | DINO),
    "DSU": Row("DSU", POINTS_WHY, {"dsu_at": POINTS}),
    "AdvStyle": Row("AdvStyle", POINTS_WHY, {"advstyle_at": POINTS}, BOTH),
    "AdvBayes": Row("AdvBayes", ABA_WHY, ABA),
    "ABRA": Row("ABRA", "the epochs are too few for CutMix", {**BY_EXPERIMENT, "mix": "none"}, BOTH),
    "IID-lite": Row("IID-lite", "the first third is the auto-encoder's", {"iid_lite_pretrain_epochs": 2}),
    "ARM-BN": Row("ARM-BN", "two experiments a batch; test batches in order would be plates", ARM, NONE),
    "IRMX-PAIR": Row("IRMX-PAIR", FROZEN_WHY, {"irmx_pair_head_epochs": 10, "irmx_pair_domain_rows": 16}),
    "IRMX": Row("IRMX", FROZEN_WHY, {"irmx_head_epochs": 10, "irmx_domain_rows": 16}),
    "deepCORAL": Row("deepCORAL", *FEW),
    "IRM": Row("IRM", *FEW),
    "DANN": Row("DANN", *FEW, BOTH),
    "CS-ARM-BN": Row("CS-ARM-BN", "an experiment's control wells", {**BY_EXPERIMENT, **EXPERIMENT}, NONE),
}


def table_rows() -> dict[str, Row]:
    """Every method in the table's order, and behind the method before it what OWN has besides."""
    names = list(METHODS)
    place = {"AdaBN": "ERM", "ERM (ViT)": "BYOL"}
    for label, before in place.items():
        names.insert(names.index(before) + 1, label)
    return {name: OWN.get(name, Row(name)) for name in names}
