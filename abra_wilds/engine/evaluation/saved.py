"""`abra-wilds predict`: a saved model's predictions, with any test-time adaptation, beside its run.

They go into a folder of their own, because WILDS' official evaluator takes the first file whose name begins
with rxrx1_split:SPLIT_seed:SEED.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from abra_wilds.config.checks import refuse_idle
from abra_wilds.config.run import COMMON, RunConfig
from abra_wilds.dist import is_main, on_rank_zero, started
from abra_wilds.engine.artifacts.configs import run_config_of
from abra_wilds.engine.artifacts.folder import RunFolder, keep_others_out, note_predictions, read_config
from abra_wilds.engine.evaluation.results import evaluate_checkpoint
from abra_wilds.engine.setup import open_evaluation
from abra_wilds.errors import InputError
from abra_wilds.results.files import all_or_none, make_out
from abra_wilds.results.names import found, read_model_name
from abra_wilds.results.records import CONFIG, Record


@started()
def predict_saved(
    checkpoint: Path,
    splits: Sequence[str] | None = None,
    out: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Predict splits with a saved model, and write predictions, scores and records into a folder.

    Args:
        checkpoint: a model file of a run, with the run's config.json beside it.
        splits: which; None for all but train.
        out: the folder; None for `tta_NAME` beside the checkpoint.
        flags: those of PREDICTION_FLAGS that differ from the run's.

    Raises:
        InputError: if anything does not fit, or would be overwritten.
    """
    own, label = located(checkpoint)
    trained = saved_config(own)
    config = changed(trained, dict(flags or {}))
    name, picked_by = config.eval.name, trained.eval.name
    if label.startswith("best_"):
        label, picked_by = "best", label.removeprefix("best_")
    own_pick = own.model(f"best_{name}")
    if label == "best" and picked_by != name and own_pick.exists() and is_main():
        sys.stderr.write(
            f"note: {own_pick.name} is the epoch that {name} picked by its own accuracy on val\n"
        )
    setup = open_evaluation(config, splits)
    folder = replace(own, path=out or own.path / f"tta_{name}", mark=f"_tta:{name}")
    with ExitStack() as stack:
        names = list(setup.eval_loaders)
        folder = on_rank_zero(lambda: opened(own, folder, names, label, stack))
        if is_main():
            note_predictions(folder, config, read_config(own), checkpoint)
        with all_or_none(folder.predictions(split, label) for split in names):
            return evaluate_checkpoint(config, setup, folder, checkpoint, label, picked_by)


def located(checkpoint: Path) -> tuple[RunFolder, str]:
    """The run folder of a saved model, and "best", "last" or the epoch.

    Raises:
        InputError: if it is no model file of a run.
    """
    named = read_model_name(checkpoint.name)
    if named is None or not checkpoint.is_file():
        raise InputError(
            f"CHECKPOINT must be an existing DATASET_seed:S_epoch:E_model.pth of a run; got {checkpoint}"
        )
    return RunFolder(checkpoint.parent, named.dataset, named.seed), named.label


def saved_config(folder: RunFolder) -> RunConfig:
    """The configuration in a run's config.json; what an older version did not record is the default.

    Raises:
        InputError: if there is none.
    """
    return run_config_of(read_config(folder), folder.path / CONFIG)


def changed(config: RunConfig, flags: Mapping[str, Any]) -> RunConfig:
    """The run's configuration with other flags, set to predict every split.

    Raises:
        InputError: for a value that is not allowed or would have no effect.
    """
    wanted = {**flags, "evaluate_all_splits": True, "eval_splits": (), "also_tta": (), "save_pred": True}
    config = COMMON.replace(config, wanted)
    refuse_idle(config, flags)
    return config


def opened(
    own: RunFolder, folder: RunFolder, splits: Sequence[str], label: str, stack: ExitStack
) -> RunFolder:
    """The folder of a prediction, made and held until the stack closes.

    Raises:
        InputError: naming what would be overwritten or mistaken for the run's, or who is writing there.
    """
    if folder.path.resolve() == own.path.resolve():
        raise InputError(
            f"--out {folder.path} is the run's own folder, where WILDS' evaluator would take these "
            "predictions for the run's; give another folder"
        )
    names = [folder.predictions(split, label).name for split in splits]
    make_folder(folder.path, names)
    folder = folder.writable()
    keep_others_out(folder.path, stack, "out")
    refuse_existing(folder.path, names)  # by a command that was at it until now
    return folder


def make_folder(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for files of these names, unless one would be overwritten.

    Raises:
        InputError: naming what is in the way.
    """
    refuse_existing(folder, names)
    make_out(folder)


def refuse_existing(folder: Path, names: Sequence[str]) -> None:
    """Raise if a file of one of these names would be overwritten.

    Raises:
        InputError: naming it.
    """
    for name in names:
        if (there := found(folder / name)).exists():
            raise InputError(
                f"{there} exists and is not overwritten; remove it, or give another folder by --out"
            )
