"""A model by its path or its name on the Hub, as it is at rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from abra_wilds.config.run import RunConfig
from abra_wilds.config.schema import jsonable
from abra_wilds.engine.artifacts.checkpoint import progress_of, read_checkpoint
from abra_wilds.engine.artifacts.configs import run_config_of
from abra_wilds.engine.artifacts.folder import read_config
from abra_wilds.engine.artifacts.origins import TENSORS, weights_in
from abra_wilds.engine.evaluation.components import COMPONENTS_OF, components_path
from abra_wilds.engine.evaluation.saved import located
from abra_wilds.engine.models.card import model_card
from abra_wilds.engine.models.hub import fetched, is_hub_id
from abra_wilds.engine.models.stored import Stored, read_stored
from abra_wilds.errors import InputError
from abra_wilds.results.files import sha256
from abra_wilds.results.provenance import commit, versions
from abra_wilds.results.records import CONFIG, RESULTS, read_records
from abra_wilds.tta.components import Components


def opened(source: str | Path, revision: str | None = None) -> Stored:
    """The model at a path or of the Hub; no data set is needed, and no code of the model is run.

    Args:
        source: a model's folder, a run's folder or one of its checkpoints with config.json beside it, or the
            name of a repository of the Hub such as "lab/model".
        revision: of the repository; None for its newest.

    Raises:
        InputError: if there is none, or it cannot be used.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return stored_of_run(path)
    if path.is_dir():
        file = weights_in(path)
        return read_stored(path) if file.name == TENSORS else stored_of_run(file)
    if not is_hub_id(str(source)):
        raise InputError(
            f"there is no model {source}; give a model's folder, a checkpoint of a run, or a repository of "
            "the Hub as OWNER/NAME"
        )
    return read_stored(fetched(str(source), revision))


def stored_of_run(checkpoint: Path) -> Stored:
    """The model in a checkpoint, with what config.json and results.jsonl beside it say, and its components.

    Raises:
        InputError: if it is no checkpoint of a run.
    """
    folder, label = located(checkpoint)
    content, state = read_config(folder), read_checkpoint(checkpoint)
    config = run_config_of(content, folder.path / CONFIG)
    weights = {str(k): v for k, v in state.get("algorithm", {}).items() if isinstance(v, Tensor)}
    progress = progress_of(state, checkpoint)
    every = read_records(folder.path / RESULTS)
    data = content.get("data")
    if not isinstance(data, Mapping):
        data = data_of(config, weights, checkpoint, any(r.simulated for r in every))
    about = described_model(config, content, data, checkpoint, progress.epoch)
    latest = {(r.split, r.tta): r for r in every if (r.checkpoint, r.epoch) == (label, progress.epoch)}
    card = model_card(about, list(latest.values()))
    return Stored(config, about, weights, kept_components(checkpoint, config), card=card)


def described_model(
    config: RunConfig, run: Mapping[str, Any], data: Mapping[str, Any], checkpoint: Path, epoch: int
) -> dict[str, Any]:
    """What config.json of a model's folder says; paths and what else is local to the run are left out.

    Args:
        config: of the run.
        run: the content of its config.json.
        data: what it was trained on, from there.
        checkpoint: the model's file.
        epoch: after which it was saved, counted from 0.
    """
    values = jsonable(config.values(local=False))
    if values.get("pretrained_model_path"):
        values["pretrained_model_path"] = Path(values["pretrained_model_path"]).name
    size = config.data.size
    return {
        "preset": config.preset,
        "values": values,
        "origin": {name: source for name, source in config.origin.items() if name in values},
        "data": dict(data),
        "transform": {
            "training": config.data.transform,
            "resized_to": None if size is None else list(size),
            "standardised": "by ImageNet's mean and standard deviation"
            if config.data.plain == "imagenet"
            else "each image and channel to mean 0 and standard deviation 1",
        },
        "bn_stats": config.eval.bn_stats,
        "checkpoint": {"name": checkpoint.name, "sha256": sha256(checkpoint), "epoch": epoch},
        "run": {"digest": run.get("digest"), "commit": run.get("commit")},
        "versions": versions(),
        "commit": commit(),
    }


def data_of(
    config: RunConfig, weights: Mapping[str, Tensor], checkpoint: Path, simulated: bool
) -> dict[str, Any]:
    """What weights tell of the data of a run whose config.json says nothing of them.

    Raises:
        InputError: if they do not.
    """
    first = next((w for k, w in weights.items() if k.startswith("net.") and w.dim() == 4), None)
    if "head.weight" not in weights or first is None:
        raise InputError(f"{checkpoint} does not show classes and channels, and config.json is silent too")
    names = [str(k) for k in range(len(weights["head.weight"]))]
    return {
        "name": config.data.dataset,
        "simulated": simulated,
        "digest": None,
        "n_classes": len(names),
        "classes": names,
        "channels": [f"channel {k + 1}" for k in range(first.shape[1])],
        "image_size": list(config.data.size or ()),
        "bit_depth": None,
        "bio_batch_fields": list(config.data.groupby_fields),
    }


def kept_components(checkpoint: Path, config: RunConfig) -> Components | None:
    """The components of batch norms that are kept beside a checkpoint and are this model's, or None."""
    for group in dict.fromkeys((config.eval.tta_group, "plate", "experiment")):
        path = components_path(checkpoint, group)
        if not path.is_file():
            continue
        state = read_checkpoint(path)
        if {key: state.pop(key, None) for key in COMPONENTS_OF}["checkpoint_sha256"] == sha256(checkpoint):
            return Components.from_state(state)
    return None
