"""The command that everybody types first, on what `abra-wilds simulate` writes."""

import pandas as pd
import pytest

from abra_wilds.__main__ import main as console
from abra_wilds.commands.train import main
from abra_wilds.methods import METHODS
from abra_wilds.results.records import read_records
from tests import runs

SIZES = (2, 3, 5, 17, 33, 64, 131, 200)  # of bio-batches


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("bare") / "simulated"
    assert console(["simulate", str(root)]) == 0
    return root


def bare(name, root, folder, *more):
    """The bare command, and a folder that is no one else's."""
    flags = ("--root_dir", str(root), "--pretrained", "false", "--log_dir", str(folder))
    return ["--dataset", "rxrx1", "--algorithm", name, *flags, *more]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_bare_command_starts(simulated, tmp_path, name):
    assert main([*bare(name, simulated, tmp_path / "run", "--n_epochs", "1"), "--dry_run"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_the_bare_command_ends_after_one_epoch_with_a_shorter_warm_up(simulated, tmp_path, monkeypatch, name):
    runs.use_tiny_backbone(monkeypatch)
    more = ("--n_epochs", "1", "--model", "resnet18")
    assert main(bare(name, simulated, tmp_path, *more)) == 0
    assert {r.checkpoint for r in read_records(tmp_path / "results.jsonl")} == {"best", "last"}
    assert "warm-up" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_screen_of_bio_batches_of_2_to_200_images_trains(tmp_path, monkeypatch, capsys):
    runs.use_tiny_backbone(monkeypatch)
    large = ("--replicates", "12", "--image_size", "32")
    assert console(["simulate", str(tmp_path / "large"), *large]) == 0
    data, source = tmp_path / "root" / "rxrx1_v1.0", tmp_path / "large" / "rxrx1_v1.0"
    data.mkdir(parents=True)
    (data / "images").symlink_to(source / "images")
    (data / "RELEASE_v1.0.txt").touch()
    rows = pd.read_csv(source / "metadata.csv")
    learned = (rows["dataset"] == "train") & (rows["site"] == 1)
    taken = [
        part.sample(size, random_state=0)
        for size, (_, part) in zip(SIZES, rows[learned].groupby("experiment"), strict=True)
    ]
    pd.concat([*taken, rows[~learned]]).to_csv(data / "metadata.csv", index=False)
    more = ("--n_epochs", "1", "--model", "resnet18", "--batch_size", "32", "--groupby_fields", "experiment")
    assert main(bare("ABRA", tmp_path / "root", tmp_path / "run", *more)) == 0
    n = sum(map(len, taken))
    assert n == sum(SIZES) and f"train {n:,}" in capsys.readouterr().out
    assert f"{n:,} per epoch" in (tmp_path / "run" / "log.txt").read_text()
