"""Run folders with made-up values of figures of saved models, for tests of figures.py."""

from __future__ import annotations

import json

from abra_wilds.board.figures import build as figures
from abra_wilds.engine.artifacts.folder import RunFolder, write_config
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.runs import find_runs

ABOUT = {
    **{"dataset": "rxrx1", "simulated": True, "backbone": "resnet18", "checkpoint": "best"},
    **{"checkpoint_sha256": "b", "group": "plate"},
}


def write_values(folder, number, rows, method="ERM", *, run=None, seed=0, about=None, **flags):
    """A run folder with its configuration, and rows as abra_wilds.analysis leaves them there."""
    run = folder / (run or method)
    config = run_config(method, **flags, seed=seed, root_dir=str(folder), log_dir=str(run))
    path = run / "analysis" / f"{figures.COMPUTED[number]}_seed:{seed}_epoch:best.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_config(RunFolder(run, "rxrx1", seed), config, ["examples/run_expt.py"])
    said = {**ABOUT, "method": method, "seed": seed, "config_sha256": config.digest(), **(about or {})}
    path.write_text("".join(json.dumps({**said, **row}) + "\n" for row in rows))
    return path


def sizes(accs=(0.2, 0.3), split="test"):
    """Rows of Figure 7."""
    rest = {"split": split, "fewest": 4, "largest": 4, "n": 64}
    drawn = [{"size": size, "draw": k, "acc": acc, **rest} for size in (4, 8) for k, acc in enumerate(accs)]
    return [{"size": None, "draw": 0, "acc": 0.25, **rest}, *drawn]


def shifts(far=9.0):
    """Rows of Figure 8, nearer to training bio-batches than to the model."""
    return [
        {
            **{"split": split, "bio_batch": f"{split}{k}", "images": 16, "layer": f"res{d}.bn", "depth": d},
            **{"kl": 5 * value * (k + 1), "mmd": 5 * value * (k + 1)},
            **{"kl_near": value * (k + 1), "mmd_near": value * (k + 1) / 9},
        }
        for split, value in (("train", 0.1), ("test", 0.1 * far))
        for k in range(4)
        for d in (1, 2)
    ]


def points(n=24):
    """Rows of Figure 9."""
    rest = {"projection": "PCA", "statistics": "running", "plate": "1", "well": "B02", "site": "1", "of": 99}
    return [
        {
            **{"x": k % 5, "y": k % 7, "split": ("train", "test")[k % 2], **rest},
            **{"cell_type": line, "experiment": f"{line}-0{1 + k % 2}"},
        }
        for k in range(n)
        for line in (("HEPG2", "HUVEC", "RPE")[k % 3],)
    ]


def label_shifts(losses=None, data="d", draws=2):
    """Rows of label shifts: 40 and 60 images of two plates, 30 and 42 right without adaptation (72 %).

    `losses` are images that an adaptation loses in a cell and plate, beside one that gains 5 in each plate.
    """
    none, gains = [30, 42], {"plate_bn": [35, 47]}
    rows = []
    for alpha in (None, 0.1):
        for size in (1, 8, None):
            right = {"none": none, **gains}
            for name, lost in (losses or {}).items():
                off = lost.get((alpha, size), [0, 0])
                right[name] = [a - b for a, b in zip(none, off, strict=True)]
            balanced = {name: sum(of) / 200 for name, of in right.items()}
            rows.append(
                {
                    **{"split": "test", "alpha": alpha, "size": size, "draws": draws},
                    **{"bio_batches": ["p1", "p2"], "images": [40, 60], "data_sha256": data},
                    **{"right": right, "balanced_acc": balanced},
                }
            )
    return rows


def made(folder, number):
    """The figures of a number."""
    return list(figures.made_figures(find_runs(folder), number))
