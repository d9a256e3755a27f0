"""`predict` and `embed --screen --qc`: flagged sites are listed and marked, and move no other prediction."""

import json

import numpy as np
import pandas as pd
import pytest

from abra_wilds.__main__ import main
from abra_wilds.analysis.postprocess import postprocessed
from abra_wilds.results.files import sha256
from tests import runs
from tests.analysis.answers import made

pytestmark = pytest.mark.usefixtures("tiny")
SITE = ["Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Site"]
# Of the first plate: one site of A01, both of A02; what is wrong with a whole plate sets no site apart.
REASONS = ["blurred", "", "empty; dim ER", "empty", *[""] * 4, *["plate: stain ER x2.00 of the screen's"] * 8]
APART = np.array([bool(text) and not text.startswith("plate: ") for text in REASONS])


def command(job, trained, screen, out, *words):
    more = ["--device", "cpu", "--loader_kwargs", "num_workers=0", *map(str, words)]
    return [job, str(trained / "model"), "--screen", str(screen), "--out", str(out), *more]


def table(folder, level="sites"):
    whole = folder / f"{level}.parquet"
    return pd.read_parquet(whole if whole.exists() else folder / level)


def features_in(profiles):
    return profiles[[name for name in profiles if name.startswith("Cells_embedding_")]].to_numpy()


@pytest.fixture
def qc(fresh, tmp_path):
    """Writes flags of the two plates; returns the table's path."""

    def write(reasons=REASONS):
        fresh[1][SITE].assign(Metadata_QC=reasons).to_csv(tmp_path / "qc.csv", index=False)
        return tmp_path / "qc.csv"

    return write


@pytest.fixture
def without(fresh, tmp_path):
    """The two plates as if the flagged sites had never been."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "images").symlink_to(fresh[0] / "images")
    fresh[1][~APART].to_csv(tmp_path / "without" / "load_data.csv", index=False)
    return tmp_path / "without"


def test_flagged_sites_are_marked_and_do_not_count_in_wells_that_have_others(trained, fresh, qc, tmp_path):
    assert main(command("predict", trained, fresh[0], tmp_path / "plain")) == 0
    assert main(command("predict", trained, fresh[0], tmp_path / "out", "--qc", qc())) == 0
    before, plain, marked, wells = (
        table(tmp_path / name, level) for name in ("plain", "out") for level in ("sites", "wells")
    )
    assert marked["Metadata_QC"].tolist() == REASONS
    assert wells["Flagged_Sites"].tolist() == [1, 2, 0, 0, 2, 2, 2, 2]
    assert wells["Predicted"][0] == before["Predicted"][1]
    assert wells["Probability"][0] == pytest.approx(before["Probability"][1])
    assert wells["Probability"][1:].tolist() == plain["Probability"][1:].tolist()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["qc"] == sha256(tmp_path / "qc.csv")


@pytest.mark.parametrize("by_plate", [[], ["--by_plate"]])
@pytest.mark.parametrize("tta", ["plate_bn", "eb_bn", "lame", "batch_bn"])
def test_predictions_are_those_of_a_screen_without_the_flagged_sites(
    trained, fresh, qc, without, tmp_path, tta, by_plate
):
    words = ["--tta", tta, "--tta_min", 4, *by_plate]
    assert main(command("predict", trained, without, tmp_path / "fewer", *words)) == 0
    assert main(command("predict", trained, fresh[0], tmp_path / "plain", *by_plate)) == 0
    assert main(command("predict", trained, fresh[0], tmp_path / "out", *words, "--qc", qc())) == 0
    sites = table(tmp_path / "out")
    fewer = table(tmp_path / "fewer")
    pd.testing.assert_frame_equal(
        sites[~APART].drop(columns="Metadata_QC").reset_index(drop=True), fewer, rtol=1e-5, check_dtype=False
    )
    apart, plain = sites[APART], table(tmp_path / "plain")[APART]
    np.testing.assert_allclose(apart["Probability"], plain["Probability"], rtol=1e-5)
    assert set(apart["Adaptation"]) == {"none"} and set(apart["Statistics_Images"]) == {0}
    wells = table(tmp_path / "out", "wells")
    assert wells["Adaptation"][0] == sites["Adaptation"][1] != "none" == wells["Adaptation"][1]
    assert len(wells) == 8 and wells["Statistics_Images"][0] == fewer["Statistics_Images"][0]


@pytest.mark.parametrize("by_plate", [[], ["--by_plate"]])
def test_features_and_nearest_treatments_are_of_the_sites_that_are_not_flagged(
    trained, fresh, qc, without, tmp_path, by_plate
):
    words, level = ["--tta", "plate_bn", "--tta_min", 4, *by_plate], "sites" if by_plate else "site"
    assert main(command("embed", trained, without, tmp_path / "fewer", *words)) == 0
    assert main(command("embed", trained, fresh[0], tmp_path / "out", *words, "--qc", qc())) == 0
    sites, fewer = (table(tmp_path / name, level) for name in ("out", "fewer"))
    np.testing.assert_allclose(features_in(sites)[~APART], features_in(fewer), rtol=1e-5)
    assert sites["Metadata_QC"].tolist() == REASONS
    wells = table(tmp_path / "out", "wells" if by_plate else "well")
    assert wells["Metadata_Flagged_Sites"].tolist() == [1, 2, 0, 0, 2, 2, 2, 2]
    np.testing.assert_allclose(features_in(wells)[0], features_in(sites)[1], rtol=1e-5)
    np.testing.assert_allclose(features_in(wells)[1], features_in(sites)[2:4].mean(0), rtol=1e-5)
    both, nearest = (table(tmp_path / name, "nearest") for name in ("fewer", "out"))
    assert nearest["Nearest"].drop(1).tolist() == both["Nearest"].tolist()  # A02 has flagged sites alone


def test_flagged_controls_do_not_align_bio_batches(trained, tmp_path):
    wells = {f"A{k:02}": "DMSO" for k in range(1, 9)} | {f"B{k:02}": "taxol" for k in range(1, 5)}
    rows = made.rows_of(["nx1", "ny1"], wells=wells)
    made.write(tmp_path / "screen", rows, seed=4)
    made.stain(tmp_path / "screen", "ny1")
    flags = np.where((rows["Metadata_Well"] == "A03") & (rows["Metadata_Plate"] == "nx1"), "blurred", "")
    rows[SITE].assign(Metadata_QC=flags).to_csv(tmp_path / "qc.csv", index=False)
    screen, words = tmp_path / "screen", ["--postprocess", "centerscale", "--qc", tmp_path / "qc.csv"]
    assert main(command("embed", trained, screen, tmp_path / "plain")) == 0
    assert main(command("embed", trained, screen, tmp_path / "aligned", *words)) == 0
    before, after = (features_in(table(tmp_path / name, "site")) for name in ("plain", "aligned"))
    controls = (rows["Metadata_control_type"] == "negcon").to_numpy() & (flags == "")
    wanted = postprocessed("centerscale", before, rows["Metadata_Batch"].to_numpy(dtype=object), controls)
    np.testing.assert_allclose(after, wanted, rtol=1e-4, atol=1e-5)


def test_flags_that_leave_nothing_to_adapt_to_are_refused(trained, fresh, qc, tmp_path, capsys):
    argv = command(
        "predict", trained, fresh[0], tmp_path / "out", "--tta", "plate_bn", "--qc", qc(["a"] * 16)
    )
    said = runs.sentence(capsys, main, argv)
    runs.assert_says(said, "flags all 16 images of the screen", "--tta plate_bn", "leave it or --tta out")
    assert not (tmp_path / "out").exists()
