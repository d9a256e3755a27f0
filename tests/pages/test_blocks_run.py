"""Every block of commands and of Python on the pages runs, on tiny stand-ins for what the page names."""

from __future__ import annotations

import glob
import os
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from abra_wilds.__main__ import main
from abra_wilds.analysis import embeddings
from abra_wilds.recipes import resolve
from abra_wilds.recipes.resolve import run_config
from tests.harness.inside import STAND_IN
from tests.pages.blocks import ROOT, blocks
from tests.pages.conftest import train, use_tiny_networks

pytestmark = pytest.mark.slow
# Blocks of the page of parts are tests of tests/test_docs.py.
PAGES_THAT_RUN = sorted({b.page for b in blocks() if b.runs and b.language != "yaml"} - {"docs/parts.md"})
BEST = "rxrx1_seed:0_epoch:best_model.pth"
SMALL = "--n_epochs 1 --warmup_epochs 0 --batch_size 8 --loader_kwargs num_workers=0"
# Job -> flags that make it short, and fit the tiny data.
SHORT = {
    "train": f"{SMALL} --device cpu",
    "predict": "--tta_min 2",
    "screen": "--yes",
    "sweep": "--dry_run --out sweeps",
    "figures": "--tta_group experiment --draws 1 --alphas inf --sizes 8 --adapters plate_bn",
    "simulate": "--classes 6 --replicates 2 --image_size 32 --workers 1 --train_experiments 2 0 0 0 "
    "--val_experiments 1 0 0 0 --test_experiments 1 0 0 0",
    **dict.fromkeys(("pack", "validate", "qc"), "--workers 1"),
}
# What a reader puts in the place of a word.
WORDS = {
    "MODEL": f"runs/ERM/seed0/{BEST}",
    "TABLE_OR_FOLDER": "new_screen",
    "CHECKOUT": str(STAND_IN),
    "ARGS": f"--algorithm ABRA --dataset rxrx1 --root_dir data --log_dir inside {SMALL}",
    "PREDICTIONS": "predictions",
    "OUTPUT": "output",
    "ROOT": "data",
}


def job_of(words):
    """The job of a command."""
    name = words[1] if words[0] == "abra-wilds" else Path(words[1]).stem
    return {"run_expt": "train", "run_in_wilds": "wilds"}.get(name, name)


def filled(words):
    """A command with its placeholders filled, patterns expanded, and flags that make it short."""
    put = [other for word in words for other in WORDS.get(word, word).split()]
    found = [name for word in put for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    return found + SHORT.get(job_of(words), "").split()


def run(words, patch):
    """Run a command here; it must end well."""
    words = filled(words)
    if words[0] == "abra-wilds":
        code = main(words[1:])
    else:
        patch.setattr(sys, "argv", words[1:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        code = ended.value.code
    assert not code, words


def execute(block, space):
    """Run a block of Python here, on arrays where it reads arrays."""
    images = space["images"].numpy() if "numpy" in block.text else space["images"]
    arguments = ", ".join(map(repr, WORDS["ARGS"].split()))
    text = block.text.replace('"--dataset", "rxrx1", "--algorithm", "ABRA"', arguments)
    exec(compile(text, block.name, "exec"), {**space, "images": images})


class Own(nn.Module):
    """A network of somebody else."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        return self.norm(x.float()).mean((2, 3))


def names(page):
    """What the Python of a page has from lines that it leaves out."""
    channels = 5 if page in ("README.md", "docs/predict.md") else 3
    images = torch.randint(0, 256, (24, channels, 32, 32), dtype=torch.uint8)
    adapted, unadapted, labels = torch.randn(24, 4), torch.randn(24, 4), torch.arange(24) % 4
    wells, controls = torch.arange(24) // 2, labels == 0
    return {
        **{
            "images": images,
            "my_own_network": Own(),
            "val": [(adapted, unadapted, labels, wells, controls)] * 2,
        },
        **{"adapted": adapted, "unadapted": unadapted, "wells": wells},
        "known": torch.where(controls, labels, -1),
    }


# Page -> where it has what the shelf has elsewhere.
PLACES = {
    "docs/many_plates.md": {"model": "logs/model", "plates/images": "images"},
    "docs/predict.md": {"model": "logs/model"},
    "docs/screens.md": {"plates": "new_screen", "phenix/plates": "plates", "phenix/platemaps": "platemaps"},
    "leaderboard/README.md": {"runs": "logs"},
}


@pytest.fixture
def page(request, shelf, tmp_path, monkeypatch):
    """A page, in a folder with what it names."""
    page = request.param
    here = shutil.copytree(shelf, tmp_path / "here")
    monkeypatch.chdir(here)
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(embeddings, "umap_class", lambda: None)  # which compiles for long; PCA stands for it
    short = {"n_epochs": 1, "warmup_epochs": 0, "batch_size": 8, "loader_kwargs": {"num_workers": 0}}
    monkeypatch.setattr(resolve, "run_config", lambda *args, **flags: run_config(*args, **{**flags, **short}))
    for before, after in PLACES.get(page, {}).items():
        Path(after).parent.mkdir(exist_ok=True)
        shutil.copytree(before, after) if before == "runs" else os.rename(before, after)
    if page == "docs/many_plates.md":
        pd.read_csv("plates/load_data.csv", dtype=str).to_parquet("load_data.parquet")
    if page == "leaderboard/README.md":  # what Figures 5 and 6 compare
        train("runs", "res3", abra_at=["res3"])
        train("runs", "ce", abra_terms=["ce"])
    if page == "abra_wilds/harness/README.md":
        for folder in ("output", "path/to"):
            Path(folder).mkdir(parents=True)
        Path("path/to/wilds").symlink_to(STAND_IN)
    # pycytominer turns it on, with which WILDS 2.0 loads nothing.
    with pd.option_context("mode.copy_on_write", False):
        yield page


@pytest.mark.parametrize("page", PAGES_THAT_RUN, indirect=True)
def test_the_blocks_of_a_page_run_one_after_the_other(page, monkeypatch):
    space, ran = names(page), 0
    for block in [b for b in blocks() if b.page == page and b.runs and b.language != "yaml"]:
        for words in block.runnable() if block.language == "bash" else [None]:
            shutil.rmtree("inside", ignore_errors=True)  # of the same run by another command
            run(words, monkeypatch) if words else execute(block, space)
            ran += 1
    assert ran
