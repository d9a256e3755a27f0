"""`abra-wilds predict`: a saved model with any adaptation, in a folder of its own, nothing overwritten."""

import json
import shutil

import pandas as pd
import pytest

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.engine.evaluation.saved import predict_saved, saved_config
from abra_wilds.errors import InputError
from abra_wilds.results.files import sha256
from abra_wilds.results.records import read_records
from tests import disks, runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    """The folder of a run of ABRA without adaptation."""
    folder = tmp_path_factory.mktemp("trained")
    fit(run_config("ABRA", **runs.settings(root, folder, "ABRA", abra_k_bound=float("inf"))))
    return folder


def command(folder, *words):
    return main(["predict", str(folder / MODEL), *map(str, words)])


def test_predictions_scores_and_records_go_into_a_folder_of_their_own(run_folder, capsys):
    before = runs.content(run_folder)
    assert command(run_folder, "--split", "val", "test", "--tta", "plate_bn", "--tta_min", "10") == 0
    shown, out = capsys.readouterr().out, run_folder / "tta_plate_bn_min10"
    assert runs.names_in(out) == {
        *("results.jsonl", "config.json", "log.txt"),
        *(f"rxrx1_split:{s}_seed:0_epoch:best_tta:plate_bn_min10_pred.csv" for s in ("val", "test")),
        *(f"{s}_{kind}.csv" for s in ("val", "test") for kind in ("eval", "algo")),
    }
    records = read_records(out / "results.jsonl")
    assert [r.split for r in records] == ["val", "test"]
    assert {(r.tta, r.checkpoint, r.method, r.seed) for r in records} == {
        ("plate_bn_min10", "best", "ABRA", 0)
    }
    own = read_records(run_folder / "results.jsonl")
    assert {r.config_sha256 for r in records}.isdisjoint({r.config_sha256 for r in own})
    for r in records:
        row = ["ABRA", "best", r.split, "64", f"{100 * r.acc:.1f}"]
        assert any(line.split()[:5] == row for line in shown.splitlines())
    assert "--tta plate_bn on test: 64 images, 4 plates, 4 passes; statistics of 16 to 16 images" in shown
    assert runs.content(run_folder) == before


def test_without_adaptation_the_bytes_and_the_digest_are_the_runs_own(run_folder):
    assert command(run_folder, "--out", run_folder / "again") == 0
    for split in runs.SPLITS:
        own = run_folder / f"rxrx1_split:{split}_seed:0_epoch:best_pred.csv"
        again = run_folder / "again" / f"rxrx1_split:{split}_seed:0_epoch:best_tta:none_pred.csv"
        assert own.read_bytes() == again.read_bytes()
    digests = {r.config_sha256 for r in read_records(run_folder / "again" / "results.jsonl")}
    assert digests == {json.loads((run_folder / "config.json").read_text())["digest"]}


@pytest.mark.parametrize("flags", [{}, {"tta": "plate_bn", "tta_min": 10}])
def test_no_image_of_another_split_is_needed(run_folder, root, tmp_path, flags):
    shutil.copytree(root, tmp_path / "root")
    folder = tmp_path / "root" / "rxrx1_v1.0"
    table = pd.read_csv(folder / "metadata.csv")
    for row in table[table["dataset"] != "test"].itertuples():
        folder.joinpath("images", row.experiment, f"Plate{row.plate}", f"{row.well}_s{row.site}.png").unlink()
    found = []
    for name, where in (("whole", root), ("part", tmp_path / "root")):
        out = tmp_path / name
        (record,) = predict_saved(run_folder / MODEL, ["test"], out, {**flags, "root_dir": str(where)})
        found.append((out / record.predictions).read_bytes())
    assert found[0] == found[1]
    with pytest.raises(InputError, match="images are missing"):
        predict_saved(run_folder / MODEL, ["val"], tmp_path / "val", {"root_dir": str(tmp_path / "root")})


def test_predictions_say_what_they_were_made_of(run_folder):
    flags = {"tta": "plate_bn", "tta_min": 10}
    (record,) = predict_saved(run_folder / MODEL, ["val"], None, flags)
    own = json.loads((run_folder / "config.json").read_text())
    content = json.loads((run_folder / "tta_plate_bn_min10" / "config.json").read_text())
    assert content["predictions_of"] == own["digest"] and content["data_sha256"] == own["data_sha256"]
    assert content["models"] == {MODEL: sha256(run_folder / MODEL)}
    assert content["settings"][record.config_sha256]["tta"] == "plate_bn"


def test_a_run_with_adaptation_is_predicted_with_it_unless_told_otherwise(root, tiny, tmp_path):
    settings = runs.settings(root, tmp_path / "run", "ERM", tta="plate_bn", tta_min=2, n_epochs=1)
    fit(run_config("ERM", **settings))
    path = tmp_path / "run" / MODEL
    assert [r.tta for r in predict_saved(path, ["val"])] == ["plate_bn_min2"]
    own = tmp_path / "run" / "rxrx1_split:val_seed:0_epoch:best_pred.csv"
    again = "tta_plate_bn_min2/rxrx1_split:val_seed:0_epoch:best_tta:plate_bn_min2_pred.csv"
    assert own.read_bytes() == (tmp_path / "run" / again).read_bytes()
    assert [r.tta for r in predict_saved(path, ["val"], flags={"tta": "none"})] == [None]


def test_the_saved_configuration_comes_back_with_its_digest(trained):
    config = saved_config(RunFolder(trained, "rxrx1", 0))
    content = json.loads((trained / "config.json").read_text())
    assert config.digest() == content["digest"] and config.method.k_bound == float("inf")


def test_what_an_older_version_did_not_record_is_the_default(run_folder):
    content = json.loads((run_folder / "config.json").read_text())
    content["values"] = {k: v for k, v in content["values"].items() if not k.startswith("tta")}
    (run_folder / "config.json").write_text(json.dumps(content))
    assert saved_config(RunFolder(run_folder, "rxrx1", 0)).digest() == content["digest"]


def test_another_root_and_more_splits_go_into_the_same_folder(run_folder, root, tmp_path):
    (tmp_path / "elsewhere").symlink_to(root)
    flags = ("--tta", "batch_bn", "--tta_batch_size", "16", "--root_dir", tmp_path / "elsewhere")
    assert command(run_folder, "--split", "val", *flags) == 0
    assert command(run_folder, "--split", "id_test", *flags, "--loader_kwargs", "num_workers=1") == 0
    records = read_records(run_folder / "tta_batch_bn_b16" / "results.jsonl")
    assert [r.split for r in records] == ["val", "id_test"]
    assert len({r.config_sha256 for r in records}) == 1, "where the data lie changes no number"


def test_nothing_is_overwritten_or_mistaken_for_the_run(run_folder, capsys):
    assert command(run_folder, "--split", "val") == 0
    held = runs.content(run_folder / "tta_none")
    said = runs.sentence(capsys, command, run_folder, "--split", "test", "val")
    runs.assert_says(said, "tta:none_pred.csv", "--out")
    assert runs.content(run_folder / "tta_none") == held
    (run_folder / "file").touch()
    for out in (run_folder, run_folder / "file" / "x"):
        assert str(out) in runs.sentence(capsys, command, run_folder, "--out", out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "train"], "'train'"),
        (["--tta", "adabn"], "--tta must"),
        (["--tta_prior", "3"], "--tta mixed_bn"),
        (["--tta", "batch_bn"], "8 images"),
        (["--lr", "1"], "--lr 1"),
    ],
)
def test_what_cannot_be_predicted_is_a_sentence(trained, capsys, words, said):
    assert said in runs.sentence(capsys, command, trained, *words)
    assert [p.name for p in trained.iterdir() if p.is_dir()] == ["model"]


def test_only_splits_that_are_asked_for_must_have_enough_to_adapt_to(run_folder, capsys):
    """Of a plate id_test has 8 images, test and val 16."""
    said = runs.sentence(capsys, command, run_folder, "--tta", "plate_bn")
    runs.assert_says(said, "id_test", "8 plates", "8 images")
    assert not (run_folder / "tta_plate_bn").exists()
    assert command(run_folder, "--split", "test", "--tta", "plate_bn") == 0
    (record,) = read_records(run_folder / "tta_plate_bn" / "results.jsonl")
    assert (record.split, record.tta) == ("test", "plate_bn")


def test_a_file_that_is_no_model_of_a_run_is_refused(run_folder, capsys, tmp_path):
    assert "CHECKPOINT" in runs.sentence(capsys, main, ["predict", str(tmp_path / "w.pth")])
    (run_folder / "config.json").unlink()
    assert "config.json" in runs.sentence(capsys, command, run_folder)


@pytest.mark.parametrize("name", ["config.json", "log.txt", "val_eval.csv", "split:test", "results.jsonl"])
@pytest.mark.parametrize("room", [0, 100])
def test_a_prediction_that_fills_the_disk_is_made_by_the_same_command(run_folder, capsys, name, room):
    before, out = runs.content(run_folder), run_folder / "tta_plate_bn_min10"
    words = ("--split", "val", "test", "--tta", "plate_bn", "--tta_min", "10")
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, out, f"*{name}*", room)
        said = runs.sentence(capsys, command, run_folder, *words, code=1)
    runs.assert_says(said, "No space left on device", f"{out}/", name, "make room there; the same command")
    assert not list(out.glob("*_pred.csv")) and not list(out.glob(".*.tmp"))
    assert command(run_folder, *words) == 0
    assert command(run_folder, *words, "--out", run_folder / "again") == 0
    assert runs.texts(out) == runs.texts(run_folder / "again")
    for record in read_records(out / "results.jsonl"):
        assert sha256(out / record.predictions) == record.predictions_sha256
    assert {name: text for name, text in runs.content(run_folder).items() if name in before} == before
