"""`abra-wilds components`: measured once, kept beside the checkpoint, and what predict adapts with."""

import shutil

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.engine.evaluation import components
from abra_wilds.engine.evaluation.saved import predict_saved
from tests import runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"
KEPT = "rxrx1_seed:0_epoch:best_components_{}.pth"


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    """The folder of a run of ERM without adaptation."""
    folder = tmp_path_factory.mktemp("trained")
    fit(run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=1)))
    return folder


def command(folder, *words):
    return main(["components", str(folder / MODEL), *map(str, words)])


def predicted(folder, group):
    """Predictions of val by --tta eb_bn."""
    flags = {"tta": "eb_bn", "tta_group": group}
    (record,) = predict_saved(folder / MODEL, ["val"], folder / "out", flags)
    return (folder / "out" / record.predictions).read_bytes()


@pytest.mark.parametrize("group", ["plate", "experiment"])
def test_predict_takes_the_file_and_predicts_as_if_it_had_measured_itself(
    trained, run_folder, tmp_path, capsys, monkeypatch, group
):
    wanted = predicted(shutil.copytree(trained, tmp_path / "other"), group)
    before = runs.names_in(run_folder)
    assert command(run_folder, "--tta_group", group) == 0
    line, where = capsys.readouterr().out.splitlines()[-2:]
    assert where == str(run_folder / KEPT.format(group)) and f"class mixes of training {group}s" in line
    assert runs.names_in(run_folder) - before == {KEPT.format(group)}
    monkeypatch.delattr(components, "fit_components")
    assert predicted(run_folder, group) == wanted
    assert line in (run_folder / "out" / "log.txt").read_text()


def test_what_is_kept_is_measured_anew_with_overwrite_alone(run_folder, capsys):
    shown = []
    for words in ((), (), ("--overwrite",)):
        assert command(run_folder, *words) == 0
        shown.append(capsys.readouterr().out)
        if len(shown) == 1:
            kept = run_folder / KEPT.format("plate")
            state = torch.load(kept, weights_only=True)
            torch.save({**state, "usual": 0.875}, kept)
    assert "spread by 0.875" in shown[1] and shown[2] == shown[0] != shown[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tta_group", "well"], "--tta_group"),
        (["--tta_min", "3"], "--tta_min"),
        (["--root_dir", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(trained, capsys, words, said):
    before = runs.names_in(trained)
    assert said in runs.sentence(capsys, command, trained, *words)
    assert runs.names_in(trained) == before


def test_a_missing_checkpoint_is_a_sentence(run_folder, capsys):
    (run_folder / MODEL).unlink()
    runs.assert_says(runs.sentence(capsys, command, run_folder), "CHECKPOINT", "existing", MODEL)
