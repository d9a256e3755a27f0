"""Nine prediction files and a page about them, as the WILDS leaderboard asks for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from abra_wilds.board.bundle.archives import (
    BUNDLED_SPLITS,
    README,
    SEEDS,
    check_out,
    member_name,
    same_predictions,
    write_archive,
    wrong_ids,
)
from abra_wilds.board.bundle.readme import Nine, readme
from abra_wilds.errors import InputError
from abra_wilds.results.files import sha256
from abra_wilds.results.finished import refuse_older, refuse_unfinished
from abra_wilds.results.legacy import adaptation_flags
from abra_wilds.results.names import all_found, predictions_name
from abra_wilds.results.records import RESULTS
from abra_wilds.results.runs import (
    Entry,
    Run,
    find_runs,
    read_adapted,
    read_entries,
    refuse_mixture,
    refuse_other_data,
)

N_CLASSES = 1_139
N_IMAGES = {"val": 9_854, "test": 34_432, "id_test": 40_612}


def chosen(folder: Path, tta: str | None) -> Nine:
    """The nine sets of predictions in a folder of runs, {(split, seed): entry}.

    Args:
        folder: of run folders.
        tta: name of the adaptation whose folder in each run is meant, None for the runs' own predictions.

    Raises:
        InputError: for a mixture, a seed that is missing or there twice, other data, or a missing split.
    """
    runs = find_runs(folder)
    refuse_mixture({run.path: run.settings for run in runs})
    refuse_other_split(runs[0])
    by_seed: dict[int, Run] = {}
    for run in runs:
        if run.seed in by_seed:
            raise InputError(
                f"seed {run.seed} occurs twice, in {by_seed[run.seed].path} and {run.path}; keep one"
            )
        by_seed[run.seed] = run
    missing = [str(seed) for seed in SEEDS if seed not in by_seed]
    if missing:
        found = ", ".join(map(str, sorted(by_seed)))
        raise InputError(
            f"{folder} has runs of seeds {found}, and the leaderboard asks for 0, 1 and 2; train seed "
            f"{' and '.join(missing)} too"
        )
    nine = {(split, seed): e for seed in SEEDS for split, e in best(by_seed[seed], tta).items()}
    refuse_mixture({e.predictions: {**e.settings, "simulated": e.record.simulated} for e in nine.values()})
    refuse_other_data(list(nine.values()))
    return nine


def refuse_other_split(run: Run) -> None:
    """Raise unless a run is of RxRx1-WILDS with its official splits and labels.

    Raises:
        InputError: with what it is of.
    """
    official = {"dataset": "rxrx1", "split_scheme": "official", "frac": 1.0, "shuffle_labels": None}
    for name, needed in official.items():
        if run.values.get(name, needed) != needed:
            allowed = "labels as they are" if needed is None else needed
            raise InputError(
                f"{run.path} was run with --{name} {run.values[name]}, and the leaderboard takes {allowed} "
                "alone; give runs of that"
            )


def best(run: Run, tta: str | None) -> dict[str, Entry]:
    """The predictions of every split by the best epoch of a run.

    Raises:
        InputError: if the run is not finished, a split has none, or they are of another epoch than the best.
    """
    own = read_entries(run)
    if not own:
        raise InputError(f"{run.path / RESULTS} does not exist; finish the run with --resume")
    refuse_unfinished(run, own)
    entries = own
    if tta is not None:
        entries = [e for e in read_adapted(run) if (e.record.tta or "none") == tta]
        if not entries:
            flags = adaptation_flags(tta)
            how = (
                f"make them with 'abra-wilds predict MODEL {flags}'"
                if flags
                else "give a name in its tta_NAME"
            )
            raise InputError(f"{run.path} holds no predictions with the adaptation {tta}; {how}")
        refuse_older(run, own, entries)
    folder = entries[0].folder
    found = {e.record.split: e for e in entries if e.record.checkpoint == "best"}
    for split in BUNDLED_SPLITS:
        if split not in found:
            raise InputError(
                f"{folder / RESULTS} has no record of {split} by the best epoch; repeat the run's command "
                "with --eval_only, or predict with its best model"
            )
    epochs = {found[split].record.epoch for split in BUNDLED_SPLITS}
    if len(epochs) > 1:
        raise InputError(
            f"{folder} has predictions of epochs {sorted(epochs)} as the best one's, and all must be of the "
            "one that val chose; predict again with the best model"
        )
    return {split: found[split] for split in BUNDLED_SPLITS}


def checked_content(entry: Entry) -> bytes:
    """The predictions of an entry, found to be those that were scored.

    Raises:
        InputError: if they are missing, not alone, changed since, or cannot be predictions of the split.
    """
    r, path = entry.record, entry.predictions
    alike = predictions_name("rxrx1", r.split, r.seed, "best").removesuffix("_pred.csv")
    names = sorted(p.name for p in all_found(entry.folder, f"{alike}*"))
    if names != [path.name]:
        raise InputError(
            f"{entry.folder} must hold {path.name} as its one file of {r.split} by the best epoch; found "
            f"{', '.join(names) or 'none'}; keep that one"
        )
    if sha256(path) != r.predictions_sha256:
        raise InputError(f"{path} is not the file that its record is about, by its sha256; predict again")
    content = path.read_bytes()
    wrong = wrong_ids(content, r.n if r.simulated else N_IMAGES[r.split], N_CLASSES)
    if wrong:
        raise InputError(f"{path}: {wrong}; predict again")
    return content


def non_standard(entries: Sequence[Entry]) -> list[str]:
    """What makes a submission of these non-standard by the leaderboard's rules, one phrase each.

    Weights from ImageNet are WILDS' default and customary; of other weights the records do not tell what they
    have seen.

    Raises:
        InputError: for a record that does not say what its run consumed, or that no submission may have.
    """
    reasons: dict[str, int] = {}
    for entry in entries:
        c = entry.record.consumed
        if not {"batch_statistics", "test_images", "outside_data"} <= c.keys():
            raise InputError(
                f"{entry.folder / RESULTS} does not say what the run consumed; predict again with this "
                "version"
            )
        if c["test_images"] and not c["batch_statistics"]:
            raise InputError(
                f"images of {entry.record.split} changed the model of {entry.folder} by more than batch "
                "statistics, which no submission may do; bundle another row"
            )
        if c["batch_statistics"]:
            reasons["batch statistics of the predicted images at evaluation (rule 6)"] = 0
        if c["outside_data"] not in (None, "ImageNet"):
            reasons[f"additional data in the first weights: {c['outside_data']} (rule 5)"] = 0
    return list(reasons)


def check_flag(reasons: Sequence[str], given: bool) -> None:
    """Raise if --non_standard is missing, or given without a reason.

    Raises:
        InputError: with the reason.
    """
    if reasons and not given:
        raise InputError(
            f"this row is non-standard, because of {'; and '.join(reasons)}; add --non_standard to bundle it "
            "as such"
        )
    if given and not reasons:
        raise InputError("--non_standard is given, and by its records this row is standard; leave it out")


def bundle(folder: Path, out: Path, args: argparse.Namespace) -> str:
    """Write the archive of a folder of runs; returns its README.

    Raises:
        InputError: for whatever the leaderboard would refuse; nothing is written then.
    """
    check_out(out)
    nine = chosen(folder, args.tta)
    files = {member_name(*key): checked_content(entry) for key, entry in nine.items()}
    for name, known in same_predictions(files):
        raise InputError(f"{name} and {known} are the same predictions, so one is a copy; predict again")
    reasons = non_standard(list(nine.values()))
    check_flag(reasons, args.non_standard)
    page = readme(nine, reasons, {name: getattr(args, name) for name in ("contact", "paper_url", "code_url")})
    write_archive(out, {README: page.encode(), **files})
    return page
