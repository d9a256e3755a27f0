"""`--by_plate`: a file a plate, one table to its readers, resumable, and the same numbers as of the whole."""

import importlib.util
import json

import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest

from abra_wilds.__main__ import main
from abra_wilds.analysis.answers import plates
from abra_wilds.analysis.answers import predict as predict_module
from abra_wilds.data.screens.dataset import ScreenDataset
from tests import runs
from tests.analysis.answers import made

pytestmark = pytest.mark.usefixtures("tiny")
# Two batches; plate of a name that is no name of a file, and one whose wells have a column of their own.
PLATES = ("n/P", "n/Q", "mR", "mS")


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Four plates, the last with one site a well, so that a column differs inside wells of others alone."""
    folder = tmp_path_factory.mktemp("many") / "screen"
    rows = made.rows_of([name.replace("/", "_") for name in PLATES])
    rows["Metadata_Time"] = [str(k) for k in range(len(rows))]
    rows = rows[~((rows["Metadata_Plate"] == "mS") & (rows["Metadata_Site"] == "2"))]
    made.write(folder, rows)
    return folder


def line(job, model, screen, out, *words):
    more = ["--device", "cpu", "--loader_kwargs", "num_workers=0"]
    return [job, str(model), "--screen", str(screen), "--out", str(out), *more, *map(str, words)]


def same(a, b, **how):
    pd.testing.assert_frame_equal(pd.read_parquet(a), pd.read_parquet(b), **how)


@pytest.mark.parametrize("tta", ["none", "plate_bn", "eb_bn"])
def test_the_files_of_all_plates_are_the_tables_of_the_whole_screen(trained, screen, tmp_path, tta, capsys):
    words = ["--tta", tta, *([] if tta == "none" else ["--tta_min", 8])]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(line("predict", trained / "model", screen, whole, *words)) == 0
    said = capsys.readouterr().out
    assert main(line("predict", trained / "model", screen, parts, *words, "--by_plate")) == 0
    for level in ("sites", "wells"):
        # Without adaptation other images share a batch, and sums differ in the last bits.
        close = {"rtol": 1e-5} if tta == "none" else {"check_exact": True}
        same(whole / f"{level}.parquet", parts / level, **close)
        found = pyarrow.dataset.dataset(parts / level)
        assert found.count_rows() == len(pd.read_parquet(parts / level)) and len(found.files) == 4
        assert {pyarrow.parquet.read_schema(file).remove_metadata() for file in found.files} == {
            found.schema.remove_metadata()
        }
        text = [pd.read_csv(out / f"{level}.csv") for out in (whole, parts)]
        pd.testing.assert_frame_equal(*text, check_dtype=False, **close)
    pages = [(out / "answers.html").read_text(encoding="utf-8") for out in (whole, parts)]
    assert all("28 sites in 16 wells of 4 plates" in page for page in pages)
    one, other = (json.loads((out / "config.json").read_text())["scores"] for out in (whole, parts))
    assert one == other and one["sites"]["n"] == 28 and "accuracy" in said
    if tta == "eb_bn":  # the plate of four images has no certificate, and its columns the same types
        for level in ("sites", "wells"):
            assert (whole / f"{level}.csv").read_text() == (parts / f"{level}.csv").read_text()
            rows = pd.read_csv(whole / f"{level}.csv", dtype=str, keep_default_na=False)
            missing = rows.loc[rows["Metadata_Plate"] == "mS", "Bio_Batch_Accuracy"]
            assert set(missing) == {""} and not (rows == "nan").any(axis=None)
            assert pd.read_csv(whole / f"{level}.csv")["Bio_Batch_Accuracy"].isna().sum() == len(missing)
        assert (whole / "certificates.csv").read_text() == (parts / "certificates.csv").read_text()
        assert sorted(path.name for path in (parts / "certificates").iterdir()) == [
            "00000_n_P.parquet",
            "00001_n_Q.parquet",
            "00002_mR.parquet",
        ]


def test_features_of_all_plates_are_those_of_the_whole_screen(trained, screen, tmp_path):
    whole, parts, words = tmp_path / "whole", tmp_path / "parts", ["--tta", "plate_bn", "--tta_min", 4]
    assert main(line("embed", trained / "model", screen, whole, *words)) == 0
    assert main(line("embed", trained / "model", screen, parts, *words, "--by_plate")) == 0
    for one, other in {"site": "sites", "well": "wells", "nearest": "nearest"}.items():
        same(whole / f"{one}.parquet", parts / other, check_exact=True)
    assert (whole / "nearest.csv").read_text() == (parts / "nearest.csv").read_text()


def test_duckdb_and_pycytominer_open_the_plates_as_one_table(trained, screen, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    if importlib.util.find_spec("pycytominer") is None:
        pytest.skip("the extra hcs is not installed")
    out = tmp_path / "out"
    assert main(line("embed", trained / "model", screen, out, "--by_plate")) == 0
    query = f"SELECT Metadata_Plate, count(*) FROM '{out}/sites/*.parquet' GROUP BY 1 ORDER BY 1"
    assert duckdb.sql(query).fetchall() == [("mR", 8), ("mS", 4), ("n_P", 8), ("n_Q", 8)]
    # A process of its own, since importing pycytominer changes how pandas copies.
    program = (
        "import sys, pandas, pycytominer; x = pandas.read_parquet(sys.argv[1]); "
        "n = pycytominer.normalize(x, features='infer', samples=\"Metadata_control_type == 'negcon'\"); "
        "print(n.shape == x.shape, n['Metadata_Plate'].nunique())"
    )
    done = runs.process("-c", program, str(out / "sites"))
    assert done.stdout.split() == ["True", "4"], done.stderr


def test_a_broken_off_command_goes_on_and_reads_no_finished_plate_again(
    trained, screen, tmp_path, monkeypatch
):
    out, argv = tmp_path / "out", line("predict", trained / "model", screen, tmp_path / "out", "--by_plate")
    assert main(line("predict", trained / "model", screen, tmp_path / "calm", "--by_plate")) == 0
    with monkeypatch.context() as patch:
        runs.stop_at(patch, 5, plates, "write_typed")  # wells of the third plate are there, its sites are not
        original, calls = plates.write_typed, []
        patch.setattr(plates, "write_typed", lambda *a, **k: calls.append(original(*a, **k)))
        assert main(argv) == 130
    names = sorted(path.name for path in (out / "sites").iterdir())
    assert names == ["00000_n_P.parquet", "00001_n_Q.parquet"] and not (out / "sites.csv").exists()
    times = {path.name: path.stat().st_mtime_ns for path in (out / "sites").iterdir()}
    stale = out / "wells" / ".00002_mR.parquet.99.tmp"
    stale.write_bytes(b"half")
    read, original_get = [], ScreenDataset.get_input

    def get(self, idx):
        read.append(self.sites.rows["Metadata_Plate"].iloc[idx])
        return original_get(self, idx)

    monkeypatch.setattr(ScreenDataset, "get_input", get)
    assert main(argv) == 0
    assert set(read) == {"mR", "mS"} and not stale.exists()
    assert times == {n: (out / "sites" / n).stat().st_mtime_ns for n in times}
    for level in ("sites", "wells"):
        same(out / level, tmp_path / "calm" / level, check_exact=True)
    read.clear()
    assert main(argv) == 0 and read == []


def test_a_plate_that_another_process_is_at_is_left_to_it(trained, screen, tmp_path, capsys):
    from abra_wilds.results.lock import hold

    out, argv = tmp_path / "out", line("predict", trained / "model", screen, tmp_path / "out", "--by_plate")
    (out / ".locks").mkdir(parents=True)
    with hold(out / ".locks" / "00001_n_Q"):
        assert main(argv) == 0
        assert "1 of 4 parts are left to other processes" in capsys.readouterr().out
        assert len(list((out / "sites").iterdir())) == 3 and not (out / "sites.csv").exists()
    assert main(argv) == 0
    assert len(pd.read_csv(out / "sites.csv")) == 28


def test_bio_batches_that_are_adapted_to_whole_are_the_parts(trained, screen, tmp_path, capsys):
    words = ["--tta", "plate_bn", "--tta_group", "experiment", "--tta_min", 4]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(line("predict", trained / "model", screen, whole, *words)) == 0
    assert main(line("predict", trained / "model", screen, parts, *words, "--by_plate")) == 0
    assert "each of 2 has a file" in capsys.readouterr().out
    assert sorted(path.name for path in (parts / "sites").iterdir()) == [
        "00000_n_.parquet",
        "00001_m.parquet",
    ]
    same(whole / "sites.parquet", parts / "sites", check_exact=True)


def test_another_model_table_or_setting_in_the_same_folder_is_refused(trained, screen, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(line("predict", trained / "model", screen, out, "--by_plate")) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    def refused(*argv):
        said = runs.sentence(capsys, main, line(*argv))
        assert "holds answers of another kind" in said and "another --out" in said
        return said

    last = next(trained.glob("*epoch:last_model.pth"))
    assert "model.sha256" in refused("predict", last, screen, out, "--by_plate")
    other = ["--by_plate", "--tta", "plate_bn", "--tta_min", 4]
    assert "tta (was None, is plate_bn_min4)" in refused("predict", trained / "model", screen, out, *other)
    fewer = tmp_path / "fewer"
    made.write(fewer, made.rows_of(["n_P"]))
    assert "screen.sites (was 28, is 8)" in refused("predict", trained / "model", fewer, out, "--by_plate")
    assert "command (was predict, is embed)" in refused("embed", trained / "model", screen, out, "--by_plate")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_missing_image_is_refused_before_anything_is_written(trained, tmp_path, capsys):
    made.write(tmp_path / "screen", made.rows_of(["n_P", "n_Q"]))
    (tmp_path / "screen" / "images" / "n_Q_B02_2_DNA.tif").unlink()
    argv = line("predict", trained / "model", tmp_path / "screen", tmp_path / "out", "--by_plate")
    assert "1 of 80 images are missing" in runs.sentence(capsys, main, argv)
    assert not (tmp_path / "out").exists()


def test_flags_that_need_plates_say_so(trained, screen, tmp_path, capsys, monkeypatch):
    def refused(job, *words):
        return runs.sentence(capsys, main, line(job, trained / "model", screen, tmp_path / "out", *words))

    assert "--csv would have no effect without --by_plate" in refused("predict", "--csv")
    assert "--jobs would have no effect without --slurm" in refused("embed", "--by_plate", "--jobs", 2)
    assert "--postprocess needs the whole screen" in refused(
        "embed", "--by_plate", "--postprocess", "centerscale"
    )
    assert "--h5ad needs the whole screen" in refused("embed", "--by_plate", "--h5ad")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes would each predict the whole screen" in refused("predict")
    assert not (tmp_path / "out").exists() and predict_module.LEVELS == ("sites", "wells")
