"""The model card: what a model is and what it was measured to do, out of its config.json and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from abra_wilds.results.records import Record
from abra_wilds.results.runs import SPLIT_NAMES

TAG = "abra-wilds"
SHOWN = 12  # classes that are listed


def model_card(about: Mapping[str, Any], records: Sequence[Record]) -> str:
    """README.md of a model's folder; every number of it comes from a record or from config.json.

    Args:
        about: the content of config.json.
        records: of this model's predictions; may be empty.
    """
    values, data = about["values"], about["data"]
    name = f"{data['name']}, simulated data" if data["simulated"] else str(data["name"])
    classes, size = data["classes"], " x ".join(map(str, data["image_size"]))
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    depth = f", {data['bit_depth']} bits" if data.get("bit_depth") else ""
    trained = f"Training images had {size} pixels{depth}. " if size else ""
    lines = [
        *("---", "library_name: abra_wilds", "tags:", f"- {TAG}", "- image-classification", "- microscopy"),
        *("---", "", f"# {values['algorithm']} ({values['model']}) trained on {name}", ""),
        *(["It was trained on simulated images, and says nothing of real ones.", ""] * data["simulated"]),
        f"- Input: images of {len(data['channels'])} channels in this order: {', '.join(data['channels'])}. "
        f"{trained}Standardised: {about['transform']['standardised']}.",
        f"- Output: {len(classes)} classes: {', '.join(classes[:SHOWN])}{more}.",
        f"- Bio-batch in training: {values_of(data['bio_batch_fields'])}.",
        f"- Data digest: {data['digest']}.",
        f"- Weights: after epoch {about['checkpoint']['epoch']} ({about['checkpoint']['name']}).",
        "",
        *scores(records, data["simulated"]),
        *use(),
    ]
    return "\n".join(lines) + "\n"


def values_of(names: Sequence[str]) -> str:
    """Names in a row, or what stands for none."""
    return ", ".join(names) if names else "not known"


def scores(records: Sequence[Record], simulated: bool) -> list[str]:
    """The table of records."""
    if not records:
        return ["No record of this model's predictions is known.", ""]
    head = ["split", "test-time adaptation", "images", "accuracy", "balanced accuracy"]
    rows = [
        [
            SPLIT_NAMES.get(r.split, r.split),
            r.tta or "none",
            f"{r.n:,}",
            f"{100 * r.acc:.1f} %",
            "" if r.acc_balanced is None else f"{100 * r.acc_balanced:.1f} %",
        ]
        for r in records
    ]
    title = "Scores on simulated images" if simulated else "Scores"
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return [f"## {title}", "", *table, ""]


def use() -> list[str]:
    """How to open the model."""
    return [
        "## Use",
        "",
        "```python",
        "import abra_wilds",
        "",
        'model = abra_wilds.load_model("PATH OR HUB ID")',
        "logits = model.predict(images)  # images: (N, C, H, W) of one plate; columns: model.classes",
        'logits = model.predict(images, tta="plate_bn")  # by the statistics of that plate',
        "```",
    ]
