"""How to reproduce the numbers of runs: the commands, and the code that they ran."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from abra_wilds.results.names import found, model_name
from abra_wilds.results.records import Record
from abra_wilds.results.runs import Entry, Run


def training(run: Run) -> str:
    """The command that trained a run, as it was typed, after torchrun where several processes did."""
    world, words = int(run.values.get("world", 1)), list(map(str, run.config["command"]))
    torchrun = [] if world == 1 else ["torchrun", "--nproc_per_node", str(world)]
    if words[:2] == ["abra-wilds", "train"]:
        return shlex.join([*torchrun, "-m", "abra_wilds.commands.train", *words[2:]] if torchrun else words)
    return shlex.join([*(torchrun or ["python"]), *words])


def predicting(entry: Entry) -> str:
    """The `abra-wilds predict` that makes an adaptation's records."""
    r = entry.record
    picked = r.checkpoint == "best" and r.picked_by in entry.run.picks
    label = f"best_{r.picked_by}" if picked else r.checkpoint
    model = found(entry.run.path / model_name(r.dataset, r.seed, label))
    changed = {n: v for n, v in entry.settings.items() if entry.run.settings.get(n) != v}
    flags = {"tta": entry.settings["tta"], **changed}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value).lower())]
    return shlex.join(["abra-wilds", "predict", str(model), *words])


def made_by(records: Iterable[Record]) -> dict[str, str]:
    """Commit of the source and version of each package; several where the records disagree."""
    records = list(records)
    names = dict.fromkeys(name for r in records for name in r.versions)
    found = {"commit": [r.commit for r in records]}
    found |= {name: [r.versions.get(name, "none") for r in records] for name in names}
    return {name: ", ".join(dict.fromkeys(values)) for name, values in found.items()}
