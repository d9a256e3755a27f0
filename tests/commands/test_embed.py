"""`abra-wilds embed`: what the classifier reads, as profiles that pycytominer and copairs open."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.analysis.embed import embed_saved, embeddings
from abra_wilds.analysis.held_out import HeldOut
from abra_wilds.analysis.metrics import table
from abra_wilds.analysis.profiles import feature_names
from abra_wilds.analysis.saved import open_saved
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.errors import InputError
from abra_wilds.methods import METHODS
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.tta import own_mix
from abra_wilds.tta.features import classified
from tests import disks, runs
from tests.helpers import make_batch, make_method

MODEL = "rxrx1_seed:0_epoch:best_model.pth"
PLATES = {"tta": "plate_bn", "tta_min": 10}


def three_controls_a_plate(rows):
    """Two treatments more are control wells."""
    rows.loc[rows["sirna_id"].isin([6, 7]), "well_type"] = "positive_control"
    return rows


@pytest.fixture(scope="module")
def trained(sim_root, tiny, tmp_path_factory):
    """The folder of a run of ABRA on data with controls enough to align on."""
    root, folder = tmp_path_factory.mktemp("controls"), tmp_path_factory.mktemp("embedded")
    runs.small_root(sim_root, root, three_controls_a_plate)
    changes = {"abra_neck": "layernorm", "n_epochs": 1, "warmup_epochs": 0}
    fit(run_config("ABRA", **runs.settings(root, folder, "ABRA", **changes)))
    return folder


def command(folder, *words):
    return main(["embed", str(folder / MODEL), *map(str, words)])


def values(frame):
    return frame[[name for name in frame if name.startswith("Cells_")]].to_numpy()


@pytest.mark.parametrize(
    "flags",
    [
        {},
        PLATES,
        {"tta": "controls_bn", "tta_min": 4},
        {"tta": "unmix_tns", "tta_min": 4},
        {"tta": "eb_bn", "tta_min": 9},
        {"tta": "eb_bn", "tta_min": 2, "tta_batch_size": 6, "tta_controls": "none"},
    ],
)
def test_the_classifier_makes_predicts_predictions_of_the_embeddings(run_folder, flags, monkeypatch):
    # What eb_bn makes of the other images' mix comes after the classifier; embeddings do not show it.
    monkeypatch.setattr(own_mix, "BY_MIX", 0.0)
    monkeypatch.setattr(own_mix, "BY_NEIGHBOURS", 0.0)
    predict_saved(run_folder / MODEL, ["val", "test"], run_folder / "predicted", flags)
    found = embeddings(run_folder / MODEL, ["test", "val"], flags)
    saved = open_saved(run_folder / MODEL)
    with torch.no_grad():
        named = saved.method.classify(torch.from_numpy(found.features)).argmax(1).numpy()
    split = found.table["Metadata_split"].to_numpy()
    assert list(dict.fromkeys(split)) == ["test", "val"]
    for name in ("val", "test"):
        (path,) = (run_folder / "predicted").glob(f"*split:{name}_*_pred.csv")
        np.testing.assert_array_equal(named[split == name], np.loadtxt(path, dtype=int))


@pytest.mark.parametrize("tta", ["tent", "sar", "lame", "label_shift"])
def test_what_the_classifier_reads_does_not_show_is_refused(run_folder, tta):
    with pytest.raises(InputError, match=f"--tta {tta} .* give --tta none or batch_bn"):
        embeddings(run_folder / MODEL, ["test"], {"tta": tta, "tta_min": 4})


@pytest.mark.parametrize(
    ("name", "cfg"), [*((name, None) for name in METHODS), ("ABRA", ABRAConfig(terms=("arc",)))]
)
def test_every_method_predicts_by_one_classification(name, cfg):
    method, x = make_method(name, cfg).eval(), make_batch().x
    with torch.no_grad(), classified(method) as read:
        logits = method.predict(x)
    with torch.no_grad():
        assert len(read) == 1 and read[0].shape == (len(x), method.head.in_features)
        assert torch.equal(method.classify(read[0]), logits)


def test_each_row_is_the_image_that_its_metadata_name(trained):
    """Every fifth image, read by itself; train too, which no run predicts."""
    found = embeddings(trained / MODEL, ["train", "id_test"])
    saved = open_saved(trained / MODEL)
    dataset, method = saved.setup.dataset, saved.method
    rows = np.concatenate([saved.setup.subsets[s].indices for s in ("train", "id_test")])
    csv = pd.read_csv(f"{dataset.data_dir}/metadata.csv").iloc[rows]
    t = found.table
    called = {"Batch": "experiment", "Well": "well", "Site": "site", "Cell_Line": "cell_type"}
    for ours, theirs in called.items():
        assert t[f"Metadata_{ours}"].tolist() == csv[theirs].tolist()
    assert t["Metadata_sirna_id"].tolist() == csv["sirna_id"].tolist()
    assert t["Metadata_Plate"].tolist() == (csv["experiment"] + "_" + csv["plate"].astype(str)).tolist()
    kinds = {"treatment": "trt", "positive_control": "poscon", "negative_control": "negcon"}
    assert t["Metadata_control_type"].tolist() == csv["well_type"].map(kinds).tolist()
    assert set(t["Metadata_Source"]) == {"rxrx1"} and not t["Metadata_simulated"].any()
    with torch.no_grad():
        for i in range(0, len(rows), 5):
            x = augment(read_image(dataset, int(rows[i]))[None], "none")
            one = method.neck(method.features(x))[0].numpy()
            np.testing.assert_allclose(found.features[i], one, atol=1e-5)


def test_adaptation_changes_embeddings_and_leaves_the_model_alone(trained):
    plain = embeddings(trained / MODEL, ["val"]).features
    adapted = embeddings(trained / MODEL, ["val"], PLATES).features
    assert not np.allclose(plain, adapted, atol=1e-3)
    np.testing.assert_array_equal(plain, embeddings(trained / MODEL, ["val"]).features)


def test_files_hold_sites_and_the_means_of_wells_in_dataset_order(run_folder, capsys):
    assert command(run_folder, "--split", "val", "id_test") == 0
    folder = run_folder / "embed_best_none"
    assert {p.name for p in folder.iterdir()} == {"site.parquet", "well.parquet"}
    site, well = (pd.read_parquet(folder / f"{level}.parquet") for level in ("site", "well"))
    expected = embeddings(run_folder / MODEL, ["val", "id_test"])
    np.testing.assert_array_equal(values(site), expected.features)
    pd.testing.assert_frame_equal(site[list(expected.table)], expected.table)
    assert list(site)[len(expected.table.columns) :] == feature_names(12) and values(site).dtype == np.float32
    names = ["Metadata_split", "Metadata_Plate", "Metadata_Well"]
    keys = list(site[names].drop_duplicates().itertuples(index=False, name=None))
    assert list(well[names].itertuples(index=False, name=None)) == keys
    for k, key in enumerate(keys):
        own = (site[names] == key).all(axis=1)
        np.testing.assert_allclose(values(well)[k], values(site)[own].mean(0), atol=1e-6)
        assert well["Metadata_Site_Count"][k] == own.sum() == (2 if key[0] == "val" else 1)
    assert "Metadata_Site" not in well
    assert "site.parquet, 128 x 12" in capsys.readouterr().out


def test_a_file_says_where_it_comes_from(run_folder):
    import pyarrow.parquet

    folder = embed_saved(run_folder / MODEL, ["val"], levels=["site"], out=run_folder / "x" / "y")
    about = json.loads(pyarrow.parquet.read_schema(folder / "site.parquet").metadata[b"abra_wilds"])
    said = {"method": "ABRA", "seed": 0, "checkpoint": "best", "tta": None, "splits": ["val"]}
    assert said.items() <= about.items()
    assert (about["postprocess"], about["level"]) == ("none", "site")


@pytest.fixture
def pycytominer():
    """The package; importing it turns copy-on-write of pandas on, with which WILDS 2.0 loads nothing."""
    with pd.option_context("mode.copy_on_write", False):
        yield pytest.importorskip("pycytominer", reason="the extra hcs is not installed")


def test_pycytominer_reads_aggregates_and_normalises_the_files(pycytominer, run_folder):
    from pycytominer.cyto_utils import infer_cp_features, load_profiles

    with pd.option_context("mode.copy_on_write", False):
        folder = embed_saved(run_folder / MODEL, ["val", "test"])
    site = load_profiles(str(folder / "site.parquet"))
    well = load_profiles(str(folder / "well.parquet"))
    assert infer_cp_features(site) == feature_names(12)
    assert infer_cp_features(site, metadata=True) == [c for c in site if c.startswith("Metadata_")]
    means = pycytominer.aggregate(site, strata=["Metadata_Plate", "Metadata_Well"], operation="mean")
    both = means.merge(well, on=["Metadata_Plate", "Metadata_Well"], suffixes=("", "_ours"))
    assert len(both) == len(well) == len(means)
    ours = both[[f"{name}_ours" for name in feature_names(12)]].to_numpy()
    np.testing.assert_allclose(both[feature_names(12)].to_numpy(), ours, atol=1e-6)
    kept = pycytominer.normalize(well, samples="Metadata_control_type == 'negcon'", method="standardize")
    assert kept["Metadata_Well"].tolist() == well["Metadata_Well"].tolist()
    assert values(kept).shape == values(well).shape


def test_copairs_retrieves_replicates_from_the_file(run_folder):
    pytest.importorskip("copairs", reason="the extra hcs is not installed")
    from copairs.map import average_precision

    folder = embed_saved(run_folder / MODEL, ["val", "test"], levels=["well"])
    well = pd.read_parquet(folder / "well.parquet").query("Metadata_Cell_Line == 'HUVEC'")
    siRNA, rules = ["Metadata_sirna_id"], {"progress_bar": False}
    found = average_precision(
        well.filter(like="Metadata_"), values(well), siRNA, ["Metadata_Batch"], [], siRNA, **rules
    )
    assert len(found) == len(well) == 32
    assert found["average_precision"].between(0, 1).all() and (found["n_pos_pairs"] >= 1).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "tset"], "'tset'"),
        (["--split", "val", "--metrics", "field"], "two experiments"),
        (["--postprocess", "pca"], "'pca'"),
        (["--tta_prior", "3"], "--tta_prior"),
        (["--annotation", "gene"], "--metrics"),
        (["--metrics", "--annotation", "gene"], "gene"),
        (["--metrics", "--pairs", "absent.csv"], "absent.csv"),
    ],
)
def test_what_cannot_be_embedded_is_a_sentence(trained, capsys, monkeypatch, words, said):
    monkeypatch.setattr(table, "NEEDS", {})
    assert said in runs.sentence(capsys, command, trained, *words)
    assert [p.name for p in trained.iterdir() if p.is_dir()] == ["model"]


def test_too_few_controls_are_met_before_anything_is_computed(run_folder, root, capsys):
    words = ("--split", "val", "--postprocess", "tvn", "--root_dir", root)
    runs.assert_says(runs.sentence(capsys, command, run_folder, *words), "8 or more", "has 4")
    assert [p.name for p in run_folder.iterdir() if p.is_dir()] == ["model"]


def test_an_alignment_that_adds_an_effect_writes_nothing(run_folder, capsys, monkeypatch):
    monkeypatch.setattr("abra_wilds.analysis.held_out.held_out", lambda *_: HeldOut(0.25, 0.9, 0.25, 64))
    words = ("--split", "val", "test", "--postprocess", "centerscale")
    runs.assert_says(runs.sentence(capsys, command, run_folder, *words), "25 %", "90 %", "embed more splits")
    assert list((run_folder / "embed_best_none_centerscale").iterdir()) == []


def test_embeddings_are_not_overwritten(run_folder, capsys):
    assert command(run_folder, "--split", "val", "--level", "site") == 0
    held = (run_folder / "embed_best_none" / "site.parquet").read_bytes()
    said = runs.sentence(capsys, command, run_folder, "--split", "test")
    runs.assert_says(said, "site.parquet", "--out")
    assert (run_folder / "embed_best_none" / "site.parquet").read_bytes() == held
    file = run_folder / MODEL / "x"
    assert str(file) in runs.sentence(capsys, command, run_folder, "--out", file)


@pytest.mark.parametrize("room", [0, 5_000, 12_000])
def test_embeddings_that_the_disk_cannot_hold_are_written_by_the_same_command(
    trained, tmp_path, capsys, room
):
    out = tmp_path / "out"
    with disks.files_of_at_most(room):
        said = runs.sentence(capsys, command, trained, "--out", out, code=1)
    runs.assert_says(said, f"File too large ({out}/", ".parquet); make room there; the same command")
    assert not list(out.iterdir())
    assert command(trained, "--out", out) == 0
    assert runs.names_in(out) == {"site.parquet", "well.parquet"}
