"""`abra-wilds qc`: tables and page of a small screen, resumed by plate; training without what is flagged."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.analysis.profiles import metadata_of
from abra_wilds.analysis.qc import run
from abra_wilds.analysis.qc.measures import MEASURES, measure
from abra_wilds.data.datasets.catalogue import data_digest, load_dataset, split_subset, training_digest
from abra_wilds.data.datasets.quality import FLAG, SITE, flags_of, site_names
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.evaluation.components import Split
from abra_wilds.engine.fit import opening
from abra_wilds.engine.setup import open_evaluation, prepare
from abra_wilds.errors import InputError
from abra_wilds.results.runs import by_settings, read_entries, read_run
from tests import runs


def command(root, out, *words):
    return main(["qc", "--dataset", "rxrx1_6ch", "--root_dir", str(root), "--out", str(out), *words])


@pytest.fixture(scope="module")
def out(six_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qc")
    assert command(six_root, folder, "--workers", "2") == 0
    return folder


def test_every_site_has_a_row_with_its_names_and_measures(out, six_root):
    table = pd.read_csv(out / "qc.csv", dtype={FLAG: str}, keep_default_na=False)
    dataset = load_dataset("rxrx1_6ch", six_root)
    names = site_names(dataset)
    assert (table[list(names)].astype(str) == names).all(axis=None) and len(table) == len(dataset) == 192
    for row in (0, 100, 191):
        found = measure(read_image(dataset, row).numpy())
        columns = [f"{m.capitalize()}_{c}" for c in ("Hoechst", "WGA") for m in MEASURES]
        np.testing.assert_allclose(
            table.loc[row, columns].astype(float), found[[0, 5]].ravel(), rtol=1e-6, err_msg=str(row)
        )
    plates = pd.read_csv(out / "qc_plates.csv")
    assert len(plates) == 32 and plates["Sites"].sum() == 192
    assert plates["Flagged_Sites"].sum() == sum(
        bool(re.search("(^|; )(?!plate:)", f)) for f in table[FLAG] if f
    )


def test_names_are_those_of_profiles(six_root):
    dataset = load_dataset("rxrx1_6ch", six_root)
    subset = split_subset(dataset, "test")
    profiles = metadata_of(subset, "test", None)
    ours = site_names(dataset).iloc[subset.indices]
    for name in ("Metadata_Batch", *SITE):
        assert profiles[name].astype(str).tolist() == ours[name].tolist()


def test_a_finished_plate_is_never_read_again(out, six_root, monkeypatch, capsys):
    before, read = (out / "qc.csv").read_bytes(), []
    whole = run.read_image
    monkeypatch.setattr(run, "read_image", lambda data, row: read.append(row) or whole(data, row))
    victim = sorted((out / "plates").glob("*.npy"))[3]
    victim.write_bytes(victim.read_bytes()[:-8])  # cut short
    assert command(six_root, out, "--workers", "1") == 0
    assert len(read) == 1 + 6 and (out / "qc.csv").read_bytes() == before
    assert "should not be trusted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"), [(["--nuclear", "DAPI"], "--nuclear 'DAPI'"), (["--workers", "0"], "workers is 0")]
)
def test_bad_flags_are_refused(out, six_root, words, named, capsys):
    assert command(six_root, out, *words) == 2
    assert named in capsys.readouterr().err


def test_a_folder_of_another_data_set_is_refused(out, sim_root, capsys):
    assert main(["qc", "--root_dir", str(sim_root), "--out", str(out)]) == 2
    assert "keeps measures of another data set" in capsys.readouterr().err


def test_the_page_leads_with_plates_and_wells_and_stands_alone(out):
    page = (out / "qc.html").read_text(encoding="utf-8")
    assert page.index('id="summary"') < page.index('id="plates"') < page.index('id="wells"')
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "<script" not in page


def flag_file(root, path, flagged, change=lambda table: table):
    """A table in which some rows are flagged."""
    table = site_names(load_dataset("rxrx1", root))
    table[FLAG] = ""
    table.loc[table.index[flagged], FLAG] = "blurred; dim ER"
    change(table).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_flagged_images_are_not_trained_on_and_predictions_are_of_all(root, tmp_path):
    dataset = load_dataset("rxrx1", root)
    train, test = (split_subset(dataset, s).indices for s in ("train", "test"))
    flagged = [*train[:5], *test[:7]]
    path = flag_file(root, tmp_path / "qc.csv", flagged)
    config = run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", qc=str(path)))
    data = prepare(config)
    assert data.subsets["train"].indices.tolist() == train[5:].tolist()
    assert data.subsets["test"].indices.tolist() == test.tolist()
    assert data.train_loader.images_per_epoch <= len(train) - 5
    line = f"5 of {len(train)} training images are left out, as {path} flags them: blurred 5, dim ER 5"
    assert line in opening(config, data, Progress()).splitlines()
    flags = flags_of(site_names(dataset), path)
    assert np.flatnonzero(flags).tolist() == sorted(flagged)


def test_another_table_at_the_same_path_is_another_run(root, tmp_path):
    """The path counts in the settings, and the content in what the run trained on."""
    train = split_subset(load_dataset("rxrx1", root), "train").indices
    path = flag_file(root, tmp_path / "qc.csv", train[:5])
    settings = runs.settings(root, tmp_path / "run", "ERM", qc=str(path), n_epochs=1)
    plain = runs.settings(root, tmp_path / "plain", "ERM", n_epochs=1)
    for each in (settings, plain):
        fit(run_config("ERM", **each))
    digests = [read_run(tmp_path / name).config["data_sha256"] for name in ("run", "plain")]
    dataset = load_dataset("rxrx1", root)
    of_flags = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digests[1] == data_digest(dataset)
    assert digests[0] == hashlib.sha256(f"{digests[1]} {of_flags}".encode()).hexdigest()
    (one, *_), (other, *_) = (read_entries(read_run(tmp_path / name)) for name in ("run", "plain"))
    assert one.record.data_sha256 == other.record.data_sha256  # scores are of the same images
    flag_file(root, path, train[:6])
    again = run_config("ERM", **{**settings, "resume": True, "n_epochs": 1})
    with pytest.raises(InputError, match=r"other labels or metadata than --root_dir .* and --qc .* have now"):
        fit(again)
    settings = {**settings, "log_dir": str(tmp_path / "second"), "seed": 1}
    fit(run_config("ERM", **settings))
    entries = [e for name in ("run", "second") for e in read_entries(read_run(tmp_path / name))]
    assert one.settings == entries[-1].settings
    with pytest.raises(InputError, match="the same settings and trained on data that differ"):
        by_settings(entries)
    path.unlink()
    with pytest.raises(InputError, match="qc"):
        fit(again)


def test_components_are_of_the_images_that_are_trained_on(root, tmp_path):
    train = split_subset(load_dataset("rxrx1", root), "train").indices
    path = flag_file(root, tmp_path / "qc.csv", train[:5])
    config = run_config(
        "ERM", **runs.settings(root, tmp_path / "run", "ERM", qc=str(path), tta="eb_bn", tta_min=4)
    )
    data = open_evaluation(config)
    assert len(data.subsets["train"]) == len(train)
    assert Split(config, data, "train").subset.indices.tolist() == train[5:].tolist()
    assert len(Split(config, data, "val").subset) == len(data.subsets["val"])
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read .* restore it"):
        training_digest(data.dataset, config.data.qc)


def test_flags_are_joined_to_any_table_by_plate_well_and_site(root, tmp_path):
    names = site_names(load_dataset("rxrx1", root))
    path = flag_file(root, tmp_path / "qc.csv", [3])
    table = names.sample(frac=0.5, random_state=1)
    table = table.assign(Metadata_Site=table["Metadata_Site"].astype(int))
    assert (flags_of(table, path) != "").tolist() == (table.index == 3).tolist()


@pytest.mark.parametrize(
    ("flagged", "change", "named"),
    [
        (slice(None), lambda t: t, "flags all"),
        ([], lambda t: t.iloc[40:], "has no line for"),
        ([], lambda t: pd.concat([t, t.iloc[:1]]), "again; keep one line a site"),
        ([], lambda t: t.drop(columns=FLAG), "lacks the columns Metadata_QC"),
    ],
)
def test_tables_that_cannot_be_honoured_are_refused(root, tmp_path, flagged, change, named):
    path = flag_file(root, tmp_path / "qc.csv", flagged, change)
    config = run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", qc=str(path)))
    with pytest.raises(InputError, match=named):
        prepare(config)


def test_a_screen_of_16_bits_needs_no_labels_and_keeps_its_ceiling(tmp_path, capsys):
    """12 bits in 16: a tenth of the pixels of one channel of one well is at 4,095."""
    rng = np.random.default_rng(0)
    for well, column in (("A01", 1), ("A02", 2)):
        for channel in (1, 2):
            grey = np.kron(rng.integers(200, 4000, (4, 4)), np.ones((8, 8))).astype(np.uint16)
            if (well, channel) == ("A02", 2):
                grey[:, :4] = 4095
            path = tmp_path / "plate 1" / f"r01c{column:02}f01p01-ch{channel}sk1fk1fl1.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(grey).save(path)
    words = ["--screen", str(tmp_path), "--channels", "DNA=1", "ER=2"]
    assert main(["qc", *words, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    table = pd.read_csv(tmp_path / "out" / "qc.csv", dtype=str, keep_default_na=False)
    assert dict(zip(table["Metadata_Well"], table[FLAG], strict=True)) == {"A01": "", "A02": "saturated ER"}
    assert table["Metadata_Plate"].tolist() == ["plate 1"] * 2
    assert table["Saturated_ER"].astype(float).tolist() == [0, 0.125]
    assert "1 of 2 wells should not be trusted" in capsys.readouterr().out
