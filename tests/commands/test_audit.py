"""`abra-wilds audit`: a saved model on new bio-batches, beside what shortcuts say of the same wells."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.analysis.audit import audit, shortcuts
from abra_wilds.analysis.audit.pictures import CHANGES
from abra_wilds.analysis.metrics.baselines import channel_statistics
from abra_wilds.analysis.saved import open_saved
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.setup import evaluation_loaders
from tests import runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    """The folder of a tiny run of ERM."""
    folder = tmp_path_factory.mktemp("audited")
    fit(run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=1, warmup_epochs=0)))
    return folder


def command(folder, *words):
    return main(["audit", str(folder / MODEL), *map(str, words)])


def test_the_file_has_the_models_accuracy_and_a_verdict_on_each_shortcut(run_folder, capsys):
    assert command(run_folder, "--split", "val") == 0
    shown = capsys.readouterr().out
    content = json.loads((run_folder / "audit_best_none" / "audit.json").read_text())
    assert content["split"] == "val" and content["method"] == "ERM" and content["wells"] == 28
    assert [v["shortcut"] for v in content["verdicts"]] == list(shortcuts.SHORTCUTS)
    assert [r["shown"] for r in content["model"]] == [shortcuts.PLAIN, *CHANGES]
    for v in content["verdicts"]:
        assert f"{v['shortcut']}: {'found' if v['found'] else 'not found'}." in shown
        assert f"{100 * v['accuracy']:.1f} %" in shown
    plain, _, _, background = content["model"]
    (verdict,) = [v for v in content["verdicts"] if v["shortcut"] == "background"]
    assert background["accuracy"] == verdict["accuracy"]
    assert verdict["ahead"] == pytest.approx(plain["accuracy"] - background["accuracy"])


def test_wells_are_treatments_with_the_means_of_their_sites(trained):
    saved = open_saved(trained / MODEL, splits=["train", "val"])
    table = audit.table_of(saved, ["val"])
    wells = audit.audit_wells(saved, "val", table)
    assert len(wells.label) == 28 and set(wells.plate) == {"1", "2"}, "7 of 8 wells on each of 4 plates"
    dataset, rows = saved.setup.dataset, saved.setup.subsets["val"].indices
    for i in range(0, 28, 9):
        own = (table["Metadata_Batch"] == wells.experiment[i]) & (table["Metadata_Well"] == wells.position[i])
        own &= table["Metadata_Plate"].str.endswith(f"_{wells.plate[i]}")
        sites = torch.stack([read_image(dataset, int(row)) for row in rows[own.to_numpy()]])
        expected = channel_statistics(sites).mean(0).numpy()
        np.testing.assert_allclose(wells.statistics[i], expected, rtol=1e-5)
        assert (table["Metadata_sirna_id"][own] == wells.label[i]).all()


def test_the_models_probabilities_are_those_of_the_mean_over_sites_of_changed_images(trained):
    saved = open_saved(trained / MODEL, splits=["train", "val"])
    table = audit.table_of(saved, ["val"])
    found = audit.shown_to(saved, "val", table)
    dataset, rows = saved.setup.dataset, np.asarray(saved.setup.subsets["val"].indices)
    numbers, kept = audit.wells_of(table, audit.TREATED_WELL)
    at = np.flatnonzero(audit.treated(kept))
    for name in (shortcuts.PLAIN, "cells masked"):
        for i in (0, 11, 27):
            x = torch.stack([read_image(dataset, int(row)) for row in rows[numbers == at[i]]])
            with torch.no_grad():
                x = x if name == shortcuts.PLAIN else CHANGES[name](x)
                logits = saved.method.predict(saved.standardised(x))
            expected = logits.log_softmax(1).mean(0).softmax(0).numpy()
            np.testing.assert_allclose(found[name][i], expected, atol=1e-4)


def test_an_altered_loader_gives_the_same_batches_with_other_images(trained):
    saved = open_saved(trained / MODEL, splits=["val"])
    (loader,) = evaluation_loaders(saved.config, saved.setup, ["val"]).values()
    for a, b in zip(loader, audit.Altered(loader, lambda x: 255 - x), strict=True):
        assert torch.equal(b.x, 255 - a.x)
        assert torch.equal(replace(a, x=b.x).rows, b.rows) and torch.equal(a.target.y, b.target.y)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "id_test"], "experiments of the training split"),
        (["--split", "tset"], "'tset'"),
        (["--density_channel", "4"], "none of the 3 channels"),
    ],
)
def test_what_cannot_be_audited_is_a_sentence(trained, capsys, words, said):
    assert said in runs.sentence(capsys, command, trained, *words)
    assert not list(trained.glob("audit_*"))


def test_an_audit_is_not_overwritten(run_folder, capsys):
    assert command(run_folder) == 0
    assert "audit.json" in runs.sentence(capsys, command, run_folder)
    assert command(run_folder, "--tta", "plate_bn", "--tta_min", "10") == 0
    assert (run_folder / "audit_best_plate_bn_min10" / "audit.json").is_file()
