"""`abra-wilds predict MODEL --screen NEW`: tables of sites and wells by name, right row by row."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from abra_wilds import load_model
from abra_wilds.__main__ import main
from abra_wilds.analysis.answers import screens
from abra_wilds.tta.adapters import make_adapter
from tests import runs
from tests.analysis.answers import made

pytestmark = pytest.mark.usefixtures("tiny")


def predict(model, screen, out, *words):
    return main(line(model, screen, out, *words))


def line(model, screen, out, *words):
    more = ["--device", "cpu", "--loader_kwargs", "num_workers=0"]
    return ["predict", str(model), "--screen", str(screen), "--out", str(out), *more, *map(str, words)]


def tables(out):
    """Sites and wells as parquet has them; the csv says the same."""
    found = [pd.read_parquet(out / f"{level}.parquet") for level in ("sites", "wells")]
    for level, table in zip(("sites", "wells"), found, strict=True):
        text = pd.read_csv(out / f"{level}.csv", dtype=str, keep_default_na=False)
        assert list(text) == list(table) and text["Metadata_Well"].tolist() == table["Metadata_Well"].tolist()
        np.testing.assert_allclose(text["Probability"].astype(float), table["Probability"])
    return found


def assert_names(table, p, classes):
    """Names and probabilities of a table's rows are those of p (n, O), by sorting each row here."""
    for k, row in enumerate(table.to_dict("records")):
        order = sorted(range(len(classes)), key=lambda c: -p[k, c])
        for j, c in enumerate(order):
            end = f"_{j + 1}" if j else ""
            assert row[f"Predicted{end}"] == classes[c]
            assert row[f"Probability{end}"] == pytest.approx(float(p[k, c]), abs=1e-5)
        assert row["Entropy"] == pytest.approx(-sum(float(q) * math.log(q) for q in p[k]), abs=1e-4)


def test_the_tables_of_an_unlabelled_screen_are_right_row_by_row(trained, fresh, tmp_path, capsys):
    folder, rows = fresh
    assert predict(trained / "model", folder / "load_data.csv", tmp_path / "out") == 0
    sites, wells = tables(tmp_path / "out")
    model = load_model(trained / "model", "cpu")
    with torch.no_grad():
        logits = torch.cat([model.method.predict(x[None]) for x in made.standardised(folder, rows)])
    p = logits.softmax(1).double().numpy()
    metadata = [name for name in rows if name.startswith("Metadata_")]
    assert sites[metadata].to_numpy().tolist() == rows[metadata].to_numpy().tolist()
    assert_names(sites, p, model.classes)
    assert set(sites["Adaptation"]) == {"none"} and set(sites["Statistics_Images"]) == {0}
    joint = np.exp(np.log(p[0::2]) / 2 + np.log(p[1::2]) / 2)
    assert_names(wells, joint / joint.sum(1, keepdims=True), model.classes)
    assert wells["Metadata_Well"].tolist() == rows["Metadata_Well"][::2].tolist()
    assert set(wells["Metadata_Site_Count"]) == {2} and "Metadata_Site" not in wells
    assert wells["Metadata_Dose"].tolist() == ["001"] * 8
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["scores"] == {} and about["model"]["sha256"] == model.about["checkpoint"]["sha256"]
    assert "wrote" in capsys.readouterr().out
    page = (tmp_path / "out" / "answers.html").read_text(encoding="utf-8")
    assert "16 sites in 8 wells of 2 plates were predicted by" in page


@pytest.mark.parametrize("tta", ["plate_bn", "mixed_bn", "batch_bn", "lame", "eb_bn"])
def test_each_plate_is_adapted_to_by_itself(trained, fresh, tmp_path, tta):
    folder, rows = fresh
    assert (
        predict(trained / "model", folder / "load_data.csv", tmp_path / "out", "--tta", tta, "--tta_min", 4)
        == 0
    )
    sites, _ = tables(tmp_path / "out")
    model = load_model(trained / "model", "cpu", flags={"tta": tta, "tta_min": 4})
    x, out = made.standardised(folder, rows), []
    for plate in (x[:8], x[8:]):
        out += [
            z.detach() for z in make_adapter(model.config.eval, model.components)(model.method, [plate], [])
        ]
    logits = torch.cat(out)
    if tta == "eb_bn":
        certificates = pd.read_csv(tmp_path / "out" / "certificates.csv")
        T = torch.tensor(np.repeat(certificates["temperature"].to_numpy(), 8))
        logits = logits.double() / T[:, None]
        assert certificates["images"].tolist() == [8, 8] and set(sites["Calibrated"]) == {True}
        assert sites["Bio_Batch_Accuracy"].astype(float).tolist() == pytest.approx(
            np.repeat(certificates["accuracy"].to_numpy(), 8).tolist()
        )
        assert set(sites["Bio_Batch_Trusted"].astype(str)) <= {"True", "False"}
    assert_names(sites, logits.softmax(1).double().numpy(), model.classes)
    assert set(sites["Statistics_Images"]) == {8} and set(sites["Adaptation"]) == {model.config.eval.name}


def test_channels_go_by_name_whatever_their_order_and_case(trained, fresh, tmp_path):
    folder, rows = fresh
    predict(trained / "model", folder / "load_data.csv", tmp_path / "one")
    other = tmp_path / "other"
    shutil.copytree(folder / "images", other / "images")
    order = [*(n for n in rows if "Orig" not in n), *sorted((n for n in rows if "Orig" in n), reverse=True)]
    names = {"AGP": "agp", "DNA": "Hoechst"}
    table = rows[order].rename(
        columns={
            f"{k}_Orig{n}": f"{k}_Orig{own}" for n, own in names.items() for k in ("FileName", "PathName")
        }
    )
    table["PathName_OrigBrightfield"] = "images"
    table["FileName_OrigBrightfield"] = [f"{k}.tif" for k in range(len(table))]
    table.to_csv(other / "load_data.csv", index=False)
    assert predict(trained / "model", other, tmp_path / "two", "--channels", "DNA=Hoechst") == 0
    for a, b in zip(tables(tmp_path / "one"), tables(tmp_path / "two"), strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_a_screen_with_labels_is_scored_by_site_and_well(trained, tmp_path, capsys):
    rows = made.rows_of(["newR"])
    rows.loc[rows["Metadata_Well"] == "B02", "Metadata_Label"] = ""
    table = made.write(tmp_path / "screen", rows, seed=9)
    assert predict(trained / "model", table, tmp_path / "out") == 0
    sites, wells = tables(tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "config.json").read_text())["scores"]
    for level, table, n in (("sites", sites, 6), ("wells", wells, 3)):
        known = table[table["Metadata_Label"] != ""]
        right = known["Predicted"] == known["Metadata_Label"]
        assert scores[level]["n"] == n and scores[level]["accuracy"] == pytest.approx(right.mean())
        by_class = right.groupby(known["Metadata_Label"]).mean().mean()
        assert scores[level]["balanced_accuracy"] == pytest.approx(by_class)
    assert "wells with a label: 3" in capsys.readouterr().out


def test_a_class_that_the_model_does_not_know_is_refused_with_its_row_and_column(trained, tmp_path, capsys):
    rows = made.rows_of(["newS"])
    rows.loc[3, "Metadata_Label"] = "colchicine"
    table = made.write(tmp_path / "screen", rows)
    said = runs.sentence(capsys, main, line(trained / "model", table, tmp_path / "out"))
    runs.assert_says(said, "Metadata_Label has 'colchicine' in line 5 of", "3 classes", "--unlabelled")
    assert not (tmp_path / "out").exists()
    assert predict(trained / "model", table, tmp_path / "out", "--unlabelled") == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["scores"] == {}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--channels", "DNA=AGP2"], ["has no channel AGP2"]),
        (["--channels", "Actin=AGP"], ["--channels names Actin", "this model reads DNA"]),
        (["--split", "test"], ["--split would have no effect with --screen"]),
        (["--root_dir", "."], ["--root_dir would have no effect with --screen"]),
        (["--tta_prior", "3"], ["--tta_prior would have no effect with --tta none"]),
        (["--tta", "plate_bn", "--tta_min", "9"], ["adapt no image of the screen", "8 images"]),
        (["--plate_column", "Metadata_Nothing"], ["Metadata_Nothing"]),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(
    trained, fresh, tmp_path, capsys, words, parts
):
    argv = [
        "predict",
        str(trained / "model"),
        "--screen",
        str(fresh[0]),
        "--out",
        str(tmp_path / "out"),
        *words,
    ]
    runs.assert_says(runs.sentence(capsys, main, [*argv, "--device", "cpu"]), *parts)
    assert not (tmp_path / "out").exists()


def test_a_model_for_other_channels_is_refused_by_the_name_that_is_missing(trained, fresh, tmp_path, capsys):
    rows = fresh[1].drop(columns=["FileName_OrigER", "PathName_OrigER"])
    (tmp_path / "screen").mkdir()
    (tmp_path / "screen" / "images").symlink_to(fresh[0] / "images")
    rows.to_csv(tmp_path / "screen" / "load_data.csv", index=False)
    argv = [
        "predict",
        str(trained / "model"),
        "--screen",
        str(tmp_path / "screen"),
        "--out",
        str(tmp_path / "o"),
    ]
    runs.assert_says(
        runs.sentence(capsys, main, argv),
        "this model reads AGP, DNA, ER, Mito, RNA" if False else "this model reads",
        "has no channel ER",
        "--channels ER=OWN",
    )


def test_a_line_about_by_plate_where_many_plates_are_predicted_at_once(
    trained, fresh, tmp_path, capsys, monkeypatch
):
    assert predict(trained / "model", fresh[0], tmp_path / "few") == 0
    assert "--by_plate" not in capsys.readouterr().out
    monkeypatch.setattr(screens, "MANY_PLATES", 2)
    assert predict(trained / "model", fresh[0], tmp_path / "many") == 0
    said = capsys.readouterr().out
    assert "all 2 plates stays in memory" in said and "0.0 GB" in said and "--by_plate" in said
    assert predict(trained / "model", fresh[0], tmp_path / "parts", "--by_plate") == 0
    assert "stays in memory" not in capsys.readouterr().out


def test_images_of_another_size_than_in_training_are_predicted_with_a_line(trained, tmp_path, capsys):
    """They are predicted as they are; --image_size makes them alike."""
    rows = made.rows_of(["newU"], labels=False)
    made.write(tmp_path / "a", rows, seed=3)
    for path in (tmp_path / "a" / "images").iterdir():
        tifffile.imwrite(path, np.kron(tifffile.imread(path), np.ones((2, 2), dtype=np.uint16)))
    assert predict(trained / "model", tmp_path / "a", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "images are 32 x 32 pixels, and those of training were 16 x 16" in said and "--image_size" in said
    words = ["--image_size", made.SIDE]
    assert predict(trained / "model", tmp_path / "a", tmp_path / "alike", *words) == 0
    assert "those of training" not in capsys.readouterr().out
    made.write(tmp_path / "b", rows, seed=3)
    assert predict(trained / "model", tmp_path / "b", tmp_path / "own") == 0
    pd.testing.assert_frame_equal(tables(tmp_path / "alike")[0], tables(tmp_path / "own")[0], rtol=1e-4)


def test_nothing_is_overwritten_and_flags_of_screens_need_one(trained, fresh, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(trained / "model", fresh[0], out) == 0
    argv = line(trained / "model", fresh[0], out)
    assert "sites.parquet exists and is not overwritten" in runs.sentence(capsys, main, argv)
    argv = ["predict", str(next(trained.glob("*best_model.pth"))), "--channels", "DNA"]
    assert "--channels would have no effect without --screen" in runs.sentence(capsys, main, argv)


def test_eight_bits_and_another_depth_give_what_their_own_pixels_give(trained, tmp_path):
    """Each image is standardised, so that a plate of half the brightness predicts the same."""
    rows = made.rows_of(["newT"], labels=False)
    made.write(tmp_path / "a", rows, seed=3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b" / "images").iterdir():
        tifffile.imwrite(path, tifffile.imread(path) * 8 + 7)
    for name in "ab":
        predict(trained / "model", tmp_path / name, tmp_path / f"out_{name}")
    (one, _), (other, _) = (tables(tmp_path / f"out_{name}") for name in "ab")
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


@pytest.mark.slow
def test_a_model_folder_copied_alone_to_an_empty_machine_predicts_a_new_plate(trained, fresh, tmp_path):
    """A process of another home, with the folder and the new plate; it gets the tiny network by code."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    shutil.copytree(trained / "model", home / "model")
    shutil.copytree(fresh[0], home / "plate")
    program = (
        "from tests import runs; from abra_wilds.nets import backbones; import sys\n"
        "backbones.BACKBONES['resnet18'] = runs.tiny_backbone\n"
        "from abra_wilds.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("WILDS_DATA", "HF_HOME", "XDG_CACHE_HOME")}
    env |= {"HOME": str(home), "PYTHONPATH": str(runs.REPOSITORY), "HF_HUB_OFFLINE": "1"}
    words = [
        "predict",
        "../model",
        "--screen",
        "../plate",
        "--tta",
        "eb_bn",
        "--tta_min",
        "4",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=home / "work", env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sites, wells = tables(home / "work" / "answers_eb_bn_min4")
    assert len(sites) == 16 and len(wells) == 8 and set(sites["Predicted"]) <= set(made.WELLS.values())
