"""The rows of `compare_methods.py`: what all have in common, and what each has of its own and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abra_wilds import METHODS

SETTINGS: dict[str, Any] = {
    "preset": "wilds",
    "model": "timm:test_resnet",
    "pretrained": False,
    "batch_size": 36,
    "n_epochs": 12,
    "lr": 3e-3,
    "warmup_epochs": 1.0,
    "warmup_from": 1e-4,
    "bn_stats": "precise",
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
        seeds: most seeds that are run.
        against: the row it is compared with, unadapted.
        against_adapted: the same, adapted.
    """

    algorithm: str
    why: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    tta: Sequence[Mapping[str, Any]] = ()
    seeds: int = 5
    against: str = "ERM"
    against_adapted: str = "AdaBN"


VIT, VIT_ROW = {"model": "timm:test_vit"}, "ERM (ViT)"
PLATE = {"tta": "plate_bn", "tta_group": "plate"}
EXPERIMENT = {"tta": "plate_bn", "tta_group": "experiment"}
MIXED = tuple({"tta": "mixed_bn", "tta_group": group} for group in ("plate", "experiment"))
# A plate of the screen has 4 control wells, too few images for statistics.
CONTROLS = {"tta": "controls_bn", "tta_group": "experiment"}
BOTH, NONE = (PLATE, EXPERIMENT), ({"tta": "none"},)
BY_EXPERIMENT = {"groupby_fields": ["experiment"]}
WHOLE = {**EXPERIMENT, "tta_batch_size": 0}
POINTS = ["stem", "res1", "res2", "res3", "res4"]
POINTS_WHY = "the backbone's stem has three convolutions, so the point after its first one is left out"
HEADS_WHY = "heads as small as the features, which are 96 numbers"
FROZEN_WHY = "16 images of each experiment a batch, where 72 would be all of them"
CROPS = {"global_size": 48, "local_size": 32, "n_local": 2}
SMALL = {"prototypes": 256, "hidden": 128, "bottleneck": 64, "teacher_temp_epochs": 4, "probe_epochs": 30}
DINO = {f"dinov2_{name}": value for name, value in (CROPS | SMALL).items()}
ADABN = {**BY_EXPERIMENT, **EXPERIMENT, "train_loader": "plate"}
ARM = {**BY_EXPERIMENT, **EXPERIMENT, "n_groups_per_batch": 2}
ABA = {"advbayes_pre_epochs": 4, "advbayes_adv_steps": 1, "advbayes_adv_lr": 0.15}
ABA_WHY = "the defaults move no weight in so short a run; this step moves one by half its deviation"
GROUPS = {**BY_EXPERIMENT, "mix": "none", "train_loader": "group", "n_groups_per_batch": 4}
OWN: dict[str, Row] = {
    "ERM": Row("ERM", tta=({"tta": "batch_bn"}, *BOTH, *MIXED, CONTROLS)),
    "AdaBN": Row("ERM", "abra_wilds/recipes/adabn.yaml, with experiments for plates", ADABN, NONE),
    "SimCLR": Row(
        "SimCLR",
        HEADS_WHY,
        {"simclr_hidden": 256, "simclr_out": 64, "simclr_probe_epochs": 30},
        seeds=3,
    ),
    "BYOL": Row("BYOL", HEADS_WHY, {"byol_hidden": 256, "byol_out": 64, "byol_probe_epochs": 30}, seeds=3),
    "ERM (ViT)": Row("ERM", "what DINOv2's backbone learns with labels", VIT, seeds=3, against=VIT_ROW),
    "DINOv2": Row(
        "DINOv2",
        "needs a ViT; crops of 9 and 4 patches, the rest as small",
        VIT | DINO,
        seeds=3,
        against=VIT_ROW,
    ),
    "DSU": Row("DSU", POINTS_WHY, {"dsu_at": POINTS}),
    "AdvStyle": Row("AdvStyle", POINTS_WHY, {"advstyle_at": POINTS}, BOTH),
    "AdvBayes": Row("AdvBayes", ABA_WHY, ABA, seeds=3),
    "ABRA": Row("ABRA", "the epochs are too few for CutMix", {**BY_EXPERIMENT, "mix": "none"}, BOTH),
    "ABRA (groups)": Row(
        "ABRA", "four experiments a batch, each with statistics and noise of its own", GROUPS, BOTH
    ),
    "IID-lite": Row("IID-lite", "the first third is the auto-encoder's", {"iid_lite_pretrain_epochs": 4}),
    "LISA": Row("LISA", "half the epochs, because every image brings a partner", {"n_epochs": 6}),
    "ARM-BN": Row("ARM-BN", "two experiments a batch, and parts as large at test time", ARM, (WHOLE, *NONE)),
    "IRMX-PAIR": Row("IRMX-PAIR", FROZEN_WHY, {"irmx_pair_head_epochs": 10, "irmx_pair_domain_rows": 16}),
    "IRMX": Row("IRMX", FROZEN_WHY, {"irmx_head_epochs": 10, "irmx_domain_rows": 16}),
    "DANN": Row("DANN", tta=BOTH),
    "CS-ARM-BN": Row("CS-ARM-BN", "an experiment's control wells", {**BY_EXPERIMENT, **EXPERIMENT}, NONE),
    "Spectral-OT": Row("Spectral-OT", tta=BOTH),
}


def control(label: str, algorithm: str, own: Mapping[str, Any]) -> Row:
    """A row between ERM and ABRA, with epochs enough for CutMix; adapted to experiments too."""
    first, adapted = "C1 ERM", "C4 + one experiment a batch"
    return Row(
        algorithm,
        "30 epochs, for CutMix",
        {"n_epochs": 30, **own},
        (EXPERIMENT,),
        against=first,
        against_adapted=adapted,
    )


# The controls of abra_wilds/recipes/controls, with experiments for plates.
UNPERTURBED = {"abra_prob": 0, "abra_terms": ["ce", "arc"], **BY_EXPERIMENT}
MIXED_BATCHES = {"train_loader": "standard", "uniform_over_groups": False, "mix": "cutmix_any"}
CONTROL_ROWS: dict[str, Row] = {
    label: control(label, algorithm, own)
    for label, algorithm, own in (
        ("C1 ERM", "ERM", {}),
        ("C2 + CutMix", "ERM", {"mix": "cutmix_any"}),
        ("C3 + ArcFace", "ABRA", UNPERTURBED | MIXED_BATCHES),
        ("C4 + one experiment a batch", "ABRA", UNPERTURBED),
        ("C5 + perturbation by fixed K, and JS", "ABRA", {**BY_EXPERIMENT, "abra_alpha": 0}),
        (
            "C6 the same without JS",
            "ABRA",
            {**BY_EXPERIMENT, "abra_alpha": 0, "abra_terms": ["ce", "arc"]},
        ),
        ("C7 ABRA: C5 and ascent", "ABRA", BY_EXPERIMENT),
    )
}
# What each control has beside the row before it in this list.
STEPS = (
    ("CutMix", "C2 + CutMix", "C1 ERM"),
    ("ArcFace", "C3 + ArcFace", "C2 + CutMix"),
    ("one experiment a batch", "C4 + one experiment a batch", "C3 + ArcFace"),
    ("perturbation by fixed K, without JS", "C6 the same without JS", "C4 + one experiment a batch"),
    ("JS", "C5 + perturbation by fixed K, and JS", "C6 the same without JS"),
    ("ascent of K", "C7 ABRA: C5 and ascent", "C5 + perturbation by fixed K, and JS"),
)


def table_rows() -> dict[str, Row]:
    """Every method in the table's order, with what OWN has besides, and then the controls."""
    names = list(METHODS)
    place = {"AdaBN": "ERM", "ERM (ViT)": "BYOL", "ABRA (groups)": "ABRA"}
    for label, before in place.items():
        names.insert(names.index(before) + 1, label)
    return {name: OWN.get(name, Row(name)) for name in names} | CONTROL_ROWS
