"""Runs on a disk that takes no colons in names of files."""

import pytest

from abra_wilds.__main__ import main as tools
from abra_wilds.commands.train import main
from abra_wilds.results.records import read_records
from abra_wilds.results.runs import find_runs, read_adapted, read_entries
from tests import disks, runs

SAID = "takes no ':' in names of files, so '=' stands for it"


@pytest.fixture
def usb(tmp_path, monkeypatch):
    """A folder on such a disk."""
    (tmp_path / "usb").mkdir()
    disks.refuse_colons(monkeypatch, tmp_path / "usb")
    return tmp_path / "usb"


def test_a_run_is_whole_with_another_sign_and_like_one_elsewhere(root, tiny, usb, tmp_path):
    argv = {where: runs.command(root, where, "ERM") for where in (usb / "run", tmp_path / "run")}
    for words in argv.values():
        assert main(words) == 0
    assert runs.names_in(usb / "run") == {name.replace(":", "=") for name in runs.files()}
    assert SAID in (usb / "run" / "log.txt").read_text()
    assert SAID not in (tmp_path / "run" / "log.txt").read_text()
    assert {name.replace("=", ":"): text for name, text in runs.texts(usb / "run").items()} == runs.texts(
        tmp_path / "run"
    )


def test_what_reads_a_run_finds_its_files_by_the_other_sign(root, tiny, usb, capsys):
    folder = usb / "run"
    argv = runs.command(root, folder, "ERM")
    assert main(argv) == 0
    before = runs.content(folder)
    assert main([*argv, "--resume"]) == 0
    assert {n: b for n, b in runs.content(folder).items() if n.endswith("csv")}.items() <= before.items()
    assert main([*argv, "--eval_only"]) == 0
    best = folder / "rxrx1_seed=0_epoch=best_model.pth"
    assert tools(["predict", str(best), "--tta", "plate_bn", "--tta_min", "2"]) == 0
    assert (
        folder / "tta_plate_bn_min2" / "rxrx1_split=val_seed=0_epoch=best_tta=plate_bn_min2_pred.csv"
    ).exists()
    (run,) = find_runs(usb)
    entries = [*read_entries(run), *read_adapted(run)]
    assert len(entries) == 9 and all(entry.predictions.is_file() for entry in entries)


def test_a_run_may_move_to_a_disk_without_colons_and_go_on_there(root, tiny, tmp_path, monkeypatch):
    folder, argv = tmp_path / "run", runs.command(root, tmp_path / "run", "ERM")
    runs.stop_at(monkeypatch, 12)
    assert main(argv) == 130
    monkeypatch.undo()
    runs.use_tiny_backbone(monkeypatch)
    disks.rename_colons(folder)
    disks.refuse_colons(monkeypatch, folder)
    assert main([*argv, "--resume"]) == 0
    assert runs.names_in(folder) == {name.replace(":", "=") for name in runs.files()}
    assert len(read_records(folder / "results.jsonl")) == 6


def test_a_dry_run_says_how_names_will_be_written(root, tiny, usb, capsys):
    assert main([*runs.command(root, usb / "new" / "run", "ERM"), "--dry_run"]) == 0
    assert SAID in capsys.readouterr().out
    assert list(usb.iterdir()) == []
