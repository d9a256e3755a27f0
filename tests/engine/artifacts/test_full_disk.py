"""A disk that fills while a run writes: one sentence, and the command that it names ends the run alike."""

import json

import pytest
import torch

from abra_wilds.commands.train import main
from abra_wilds.results.records import read_records
from tests import disks, runs

FILES = (
    "log.txt",
    "config.json",
    "train_algo.csv",
    "val_eval.csv",
    "val_algo.csv",
    "*best_pred.csv",
    "*last_pred.csv",
    "results.jsonl",
    "*best_model.pth",
    "*last_model.pth",
)


@pytest.fixture(scope="module")
def whole(root, tiny, tmp_path_factory):
    """The folder of a run on a disk with room, and how many bytes each of FILES took in all."""
    folder, taken = tmp_path_factory.mktemp("whole") / "run", {}
    with pytest.MonkeyPatch.context() as patch:
        on_disks = [disks.fill(patch, folder, f"*{name}*") for name in FILES]
        assert main(runs.command(root, folder, "ERM", n_epochs=3)) == 0
        taken = {disk.pattern.strip("*"): disk.taken for disk in on_disks}
    return folder, taken


def assert_whole_or_not_there(folder):
    """A log may end in a line that is cut short; everything else has its end."""
    assert not list(folder.glob(".*.tmp"))
    for path in folder.glob("*.pth"):
        torch.load(path, weights_only=True)
    for path in folder.glob("*_pred.csv"):
        assert path.read_text().count("\n") == 64
    for path in folder.glob("config.json"):
        json.loads(path.read_text())
    read_records(folder / "results.jsonl")


@pytest.mark.parametrize("share", [0, 0.4, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_run_that_fills_the_disk_goes_on_as_its_sentence_says(
    root, tiny, whole, tmp_path, capsys, name, share
):
    reference, taken = whole
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "ERM", n_epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, folder, f"*{name}*", int(share * taken[name.strip("*")]))
        said = runs.sentence(capsys, main, argv, code=1)
    runs.assert_says(
        said, "No space left on device", f"{folder}/", name.strip("*"), "make room there", "--resume"
    )
    assert_whole_or_not_there(folder)
    assert main([*argv, "--resume"]) == 0
    for epoch in ("last", "best"):
        a, b = (runs.comparable(runs.state(f, epoch)) for f in (folder, reference))
        assert runs.differences(a, b) == []
    assert runs.texts(folder) == runs.texts(reference)
    a, b = (read_records(f / "results.jsonl") for f in (folder, reference))
    assert [r.predictions_sha256 for r in a] == [r.predictions_sha256 for r in b] and len(a) == 6
