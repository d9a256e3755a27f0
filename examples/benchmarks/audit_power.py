"""How often the audit finds planted shortcuts, and how often it finds some where there are none.

    python examples/benchmarks/audit_power.py --screens 20 --out leaderboard/records/audit_power.json

Each screen is simulated: HUVEC alone, one picture a well, 16 treatments on four plates of 16 wells an
experiment, six experiments to train on and four new ones. Clean screens have no shortcut by construction.
Treatments change shapes of the second and third stain alone and no stain bleeds into another, so that the
foreground of the first says nothing of them; each picture is given a random mean and deviation, so that
intensity says nothing; and between cells is noise. Then one shortcut at a time is planted, and a small
network is trained on the pictures. The record has each screen's verdicts.

Letters: n pictures, a well each, C channels, S side, O classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abra_wilds.analysis.audit.pictures import CHANGES, background_only, cells_of
from abra_wilds.analysis.audit.shortcuts import LEVEL, PLAIN, SHORTCUTS, AuditWells, audited
from abra_wilds.analysis.metrics.baselines import channel_statistics, foreground
from abra_wilds.data.augment.transforms import standardise
from abra_wilds.results.files import write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.simulate.cells import paint
from abra_wilds.simulate.colony import magnification
from abra_wilds.simulate.config import SimulationConfig
from abra_wilds.simulate.design import wells_table
from abra_wilds.simulate.optics import expose
from abra_wilds.simulate.traits import Traits, batch_effect, phenotype, traits_of

SIDE, LINE, EPOCHS, BATCH = 48, "HUVEC", 12, 32
CELLS = 0.7  # of the line's, so that there is background to see
GRAIN = 2.0  # grey levels of noise between cells, which hides by how much a picture was stretched
SHAPES = ("er_decay", "er_grain", "actin_fibres", "actin_pitch", "actin_cortex")
# How strong what is planted is: deviation of log gains, the largest share of the field that is emptied, and
# grey levels of a pattern.
STRENGTH = {"intensity": 0.25, "density": 0.9, "background": 12.0}
Screen = tuple[Tensor, AuditWells]


def config_of(seed: int) -> SimulationConfig:
    """The screen of a seed."""
    none = (0, 0, 0, 0)
    return SimulationConfig(
        classes=20,
        image_size=SIDE,
        train_experiments=(0, 6, 0, 0),
        val_experiments=none,
        test_experiments=(0, 4, 0, 0),
        sites=1,
        replicates=4,
        seed=seed,
    )


def simulated(seed: int) -> tuple[Screen, np.ndarray]:
    """Pictures (n, C, S, S) uint8 and wells of a clean screen, treatments alone, and which train (n,)."""
    config = config_of(seed)
    table = wells_table(config).query("well_type == 'treatment'")
    rng = np.random.default_rng([seed, 1])
    x = torch.from_numpy(np.stack([picture(config, row) for row in table.itertuples()]))
    # Light out of focus would carry what cells look like into the background. Each channel has its own, so
    # that the first does not depend on what the others show.
    empty = F.max_pool2d(foreground(x).float(), 3, 1, 1) == 0
    noise = torch.from_numpy(rng.normal(size=(2, *x.shape))).float()
    x = torch.where(empty, 4 + 0.5 * noise[0], x.float())
    level = torch.from_numpy(levels(table, rng)).float()  # (n, C, 2)
    mean, spread = level[..., 0, None, None], level[..., 1, None, None]
    x = standardise(x) * spread + mean + GRAIN * noise[1] * empty
    x = x.round().clamp(0, 255).to(torch.uint8)
    return (x, wells_of(x, table)), (table["dataset"] == "train").to_numpy()


def picture(config: SimulationConfig, row: Any) -> np.ndarray:
    """One well's picture (C, S, S), as the simulator makes it but for what treatments change."""
    place = (row.experiment_index, row.plate, row.well_index)
    effect = batch_effect(config.seed, place, config.batch_effect)
    effect = effect._replace(bleed=np.zeros_like(effect.bleed))
    reaction = phenotype(config.seed, row.sirna_id, LINE, kind="positive_control")
    reaction *= np.isin(Traits._fields, SHAPES)
    traits = traits_of(LINE, reaction, effect.drift)
    traits = traits._replace(cells=CELLS * traits.cells)
    light = paint(traits, config.stains, SIDE, np.random.default_rng([config.seed, 2, *place]))
    noise = [np.random.default_rng([config.seed, 3, *place, stain]) for stain in config.stains]
    return expose(light, effect, config.stains, magnification(SIDE), noise)


def levels(table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Mean and deviation of each picture's channels, (n, C, 2), drawn for plates and wells."""
    plate = table.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    logs = 0.3 * rng.normal(size=(plate.max() + 1, 3, 2))[plate] + 0.1 * rng.normal(size=(len(table), 3, 2))
    found: np.ndarray = np.array([50.0, 15.0]) * np.exp(logs)
    return found


def wells_of(x: Tensor, table: pd.DataFrame) -> AuditWells:
    """What an audit knows of the wells of a table whose pictures are x (n, C, S, S)."""
    experiment, position = (table[name].to_numpy(dtype=object) for name in ("experiment", "well"))
    plate = table["plate"].astype(str).to_numpy(dtype=object)
    return AuditWells(
        table["sirna_id"].to_numpy(), experiment, plate, position, channel_statistics(x).numpy()
    )


def unrandomised(x: Tensor, wells: AuditWells, rng: np.random.Generator) -> Screen:
    """Position: the wells of every plate hold its treatments in the order of their numbers."""
    position = wells.position.copy()
    for plate in np.unique(wells.group):
        own = np.flatnonzero(wells.group == plate)
        position[own[np.argsort(wells.label[own], kind="stable")]] = np.sort(wells.position[own].astype(str))
    return x, replace(wells, position=position)


def brightened(x: Tensor, wells: AuditWells, rng: np.random.Generator) -> Screen:
    """Intensity: each treatment has gains of its own."""
    gain = np.exp(STRENGTH["intensity"] * rng.normal(size=(wells.label.max() + 1, x.shape[1])))[wells.label]
    bright = (x * torch.from_numpy(gain).float()[..., None, None]).round().clamp(0, 255).to(torch.uint8)
    return bright, replace(wells, statistics=channel_statistics(bright).numpy())


def thinned(x: Tensor, wells: AuditWells, rng: np.random.Generator) -> Screen:
    """Density: of each treatment another share of the field holds no cells."""
    share = STRENGTH["density"] * rng.permutation(wells.label.max() + 1) / wells.label.max()
    width = np.round(share[wells.label] * SIDE).astype(int)
    empty = torch.arange(SIDE)[None, :] < torch.from_numpy(width)[:, None]  # (n, S)
    thin = torch.where(empty[:, None, None, :], background_only(x), x)
    return thin, replace(wells, statistics=channel_statistics(thin).numpy())


def confounded(x: Tensor, wells: AuditWells, rng: np.random.Generator) -> Screen:
    """Plate: a set of treatments has the same plate number in every experiment."""
    first = pd.Series(wells.label).groupby(wells.group).transform("min")
    return x, replace(wells, plate=first.astype(str).to_numpy(dtype=object))


def patterned(x: Tensor, wells: AuditWells, rng: np.random.Generator) -> Screen:
    """Background: lines between the cells, whose direction in each channel depends on the treatment."""
    codes = torch.from_numpy(rng.permuted(np.arange(27))[: wells.label.max() + 1][wells.label])
    line = torch.arange(SIDE) % 2 * 2.0 - 1
    kinds = torch.stack([torch.zeros(SIDE, SIDE), line.expand(SIDE, SIDE), line[:, None].expand(SIDE, SIDE)])
    lines = kinds[torch.stack([codes // 9, codes // 3 % 3, codes % 3], 1)]  # (n, C, S, S)
    x = (x + STRENGTH["background"] * lines * ~cells_of(x)).round().clamp(0, 255).to(torch.uint8)
    return x, replace(wells, statistics=channel_statistics(x).numpy())


PLANTS: dict[str, Callable[[Tensor, AuditWells, np.random.Generator], Screen]] = {
    "position": unrandomised,
    "intensity": brightened,
    "density": thinned,
    "plate": confounded,
    "background": patterned,
}


def trained(x: Tensor, label: np.ndarray, seed: int) -> nn.Module:
    """A small network of three convolutions, trained on pictures x (n, C, S, S) of classes (n,)."""
    torch.manual_seed(seed)
    widths = (x.shape[1], 16, 32, 48)
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], int(label.max()) + 1)]
    net = nn.Sequential(*parts, *head)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    inputs, y = standardise(x), torch.from_numpy(label)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(EPOCHS):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * (1 - epoch / EPOCHS)
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            batch = inputs[rows]
            flips = [d for d in (2, 3) if torch.rand((), generator=generator) < 0.5]
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(batch.flip(flips)), y[rows]))
            optimiser.step()
    return net.eval()


@torch.no_grad()
def probabilities(net: nn.Module, x: Tensor) -> np.ndarray:
    """Those of each class, (n, O)."""
    found: np.ndarray = net(standardise(x)).softmax(1).numpy()
    return found


def shown_to(x: Tensor, wells: AuditWells, train: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """How new pictures are shown -> the probabilities of a network that is trained on the others."""
    net, new = trained(x[train], wells.label[train], seed), x[~train]
    changed = {name: probabilities(net, change(new)) for name, change in CHANGES.items()}
    return {PLAIN: probabilities(net, new), **changed}


def audits(seed: int) -> tuple[list[dict[str, Any]], float]:
    """The verdicts on a clean screen and with each shortcut planted, and seconds of a core."""
    start = time.process_time()
    (x, wells), train = simulated(seed)
    rows, clean = [], shown_to(x, wells, train, seed)
    for planted in ("none", *PLANTS):
        own, known = x, wells
        if planted != "none":
            own, known = PLANTS[planted](x, wells, np.random.default_rng([seed, 4]))
        shown = clean if own is x else shown_to(own, known, train, seed)
        verdicts = audited(known.of(train), known.of(~train), shown)
        accuracy = float((shown[PLAIN].argmax(1) == wells.label[~train]).mean())
        about = {"seed": seed, "planted": planted, "model_accuracy": accuracy}
        rows.append({**about, "verdicts": [asdict(v) for v in verdicts]})
    return rows, time.process_time() - start


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Power of each plant, and false alarms in clean screens by verdict and by screen."""

    def found(row: dict[str, Any]) -> dict[str, bool]:
        return {v["shortcut"]: v["found"] for v in row["verdicts"]}

    def share(planted: str, shortcut: str) -> float:
        return float(np.mean([found(row)[shortcut] for row in rows if row["planted"] == planted]))

    clean = [found(row) for row in rows if row["planted"] == "none"]
    return {
        "power": {name: share(name, name) for name in PLANTS},
        "false_alarms": float(np.mean([list(one.values()) for one in clean])),
        "clean_screens_with_one": float(np.mean([any(one.values()) for one in clean])),
        "found_by_planted": {p: {s: share(p, s) for s in SHORTCUTS} for p in ("none", *PLANTS)},
        "model_accuracy": {
            p: float(np.mean([row["model_accuracy"] for row in rows if row["planted"] == p]))
            for p in ("none", *PLANTS)
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--screens", type=int, default=20, metavar="N", help="clean ones, and of each plant")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the first screen")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes")
    for name, value in STRENGTH.items():
        parser.add_argument(f"--{name}", type=float, default=value, metavar="X", help="strength of the plant")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="of the record")
    args = parser.parse_args(argv)
    STRENGTH.update({name: getattr(args, name) for name in STRENGTH})
    torch.set_num_threads(1)
    made_by = {"commit": commit(), "versions": versions()}
    rows: list[dict[str, Any]] = []
    seconds, pool = 0.0, get_context("fork").Pool(args.workers)
    for own, spent in pool.imap(audits, range(args.first, args.first + args.screens)):
        rows, seconds = rows + own, seconds + spent
        record = {
            "simulated": True,
            "level": LEVEL,
            "strength": STRENGTH,
            "screens": len(rows) // (1 + len(PLANTS)),
            "core_seconds": round(seconds),
            **summary_of(rows),
            **made_by,
            "rows": rows,
        }
        write_text(args.out, json.dumps(record, indent=1) + "\n")
        figures = {k: record[k] for k in ("power", "false_alarms", "clean_screens_with_one", "core_seconds")}
        print(f"{record['screens']} screens: {figures}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
