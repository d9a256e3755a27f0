"""leaderboard/verify.py: the records' scores again, and what is wrong with an archive."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest

from abra_wilds import fit, run_config
from abra_wilds.board.bundle import archives
from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.commands.board.verify import main as verify_main
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.results.records import RESULTS, read_records
from abra_wilds.simulate import MARKER
from tests import runs as tiny
from tests.board import boards
from tests.board.boards import SPLITS, guesses, make_runs, script, seconds_of_children

SEEDS = (0, 1, 2)
NAME = "rxrx1/rxrx1_split:test_seed:1_epoch:best_pred.csv"


@pytest.fixture(scope="module")
def files(screen, tmp_path_factory):
    """{name: content} of a good archive."""
    folder = tmp_path_factory.mktemp("good")
    make_runs(screen, folder / "runs")
    assert bundle_main([str(folder / "runs"), "--out", str(folder / "b.zip")]) == 0
    with zipfile.ZipFile(folder / "b.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def wrong(screen, capsys):
    """The lines about what is wrong with an archive; no score is shown."""

    def check(path):
        capsys.readouterr()
        assert verify_main([str(path), "--root_dir", str(screen.root)]) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and all(line.startswith("wrong: ") for line in shown.err.splitlines())
        return [line.removeprefix("wrong: ") for line in shown.err.splitlines()]

    return check


def packed(path, files):
    """An archive of files, written by our own writer."""
    archives.write_archive(path, files)
    return path


@pytest.mark.parametrize("kind", ["b.tar.gz", "b.zip", "folder", "by tar"])
def test_means_and_deviations_come_out_by_hand(screen, files, tmp_path, capsys, kind):
    path = tmp_path / kind
    if "." in kind:
        packed(path, files)
    else:
        for name, content in files.items():
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(content)
    if kind == "by tar":
        path = tmp_path / "by_tar.tgz"
        subprocess.run(["tar", "czf", path, "-C", tmp_path / "folder", "."], check=True)
    numbers = tmp_path / "n.json"
    assert verify_main([str(path), "--root_dir", str(screen.root), "--json", str(numbers)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(numbers.read_text())
    assert found["simulated"] and "simulated data: no submission" in shown
    for split in SPLITS:
        y, cell = (screen.rows[split][name].to_numpy() for name in ("sirna_id", "cell_type"))
        right = np.stack([guesses(screen, split, seed) == y for seed in SEEDS])
        expected = {"average": right.mean(1), **{c: right[:, cell == c].mean(1) for c in np.unique(cell)}}
        accuracy = found["splits"][split]["accuracy"]
        assert accuracy.keys() == expected.keys() and found["splits"][split]["n"] == len(y)
        (row,) = (line for line in shown.splitlines() if line.startswith(split))
        for key, values in expected.items():
            assert np.allclose([accuracy[key]["seeds"][str(s)] for s in SEEDS], values, rtol=1e-6, atol=0)
            assert np.isclose(accuracy[key]["mean"], values.mean(), rtol=1e-6)
            assert np.isclose(accuracy[key]["std"], values.std(ddof=1), rtol=1e-5)
            assert f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}" in row


def test_scores_of_real_runs_equal_their_records_exactly(root, tmp_path, monkeypatch):
    """Trained, adapted, bundled and verified; the data are called simulated, as they are no official ones."""
    tiny.use_tiny_backbone(monkeypatch)
    data = tmp_path / "data"
    shutil.copytree(root / "rxrx1_v1.0", data / "rxrx1_v1.0", symlinks=True)
    (data / "rxrx1_v1.0" / MARKER).write_text("{}")
    for seed in SEEDS:
        log_dir = tmp_path / "runs" / f"seed{seed}"
        settings = tiny.settings(data, log_dir, "ABRA", seed=seed)
        fit(run_config(settings.pop("algorithm", "ABRA"), **settings))
        flags = {"tta": "plate_bn", "tta_min": 2}
        predict_saved(log_dir / f"rxrx1_seed:{seed}_epoch:best_model.pth", flags=flags)
    for tta, flags in {"": [], "tta_plate_bn_min2": ["--tta", "plate_bn_min2", "--non_standard"]}.items():
        out, numbers = tmp_path / f"b{tta}.tar.gz", tmp_path / f"{tta}.json"
        assert bundle_main([str(tmp_path / "runs"), "--out", str(out), *flags]) == 0
        assert verify_main([str(out), "--root_dir", str(data), "--json", str(numbers)]) == 0
        splits = json.loads(numbers.read_text())["splits"]
        for seed in SEEDS:
            for r in read_records(tmp_path / "runs" / f"seed{seed}" / tta / RESULTS):
                if r.checkpoint == "best":
                    seen = {k: v["seeds"][str(seed)] for k, v in splits[r.split]["accuracy"].items()}
                    assert seen == {"average": r.acc, **r.acc_by_cell}


def changed(files, name=NAME, content=None):
    """The files with one replaced, or taken out."""
    left = {k: v for k, v in files.items() if k != name}
    return left if content is None else {**left, name: content}


def lines_of(files):
    return files[NAME].splitlines(keepends=True)


def relabelled(change):
    """Files whose NAME has other lines."""
    return lambda files: {**files, NAME: b"".join(change(lines_of(files)))}


def added(name):
    return lambda files: {**files, name: b"0\n"}


FAULTS = [
    (relabelled(lambda lines: lines[:-1]), NAME, ["1,535 rows", "1,536"]),
    (relabelled(lambda lines: [*lines, b"0\n"]), NAME, ["1,537 rows", "1,536"]),
    (relabelled(lambda lines: []), NAME, ["0 rows", "1,536"]),
    (relabelled(lambda lines: [b"y_pred\n", *lines[1:]]), NAME, ["'y_pred'", "line 1,", "integer"]),
    (relabelled(lambda lines: [*lines[:-1], b"1.5\n"]), NAME, ["'1.5'", "line 1,536", "integer"]),
    (relabelled(lambda lines: [b"\xff\xfe\n", *lines[1:]]), NAME, ["line 1,", "integer"]),
    (relabelled(lambda lines: [b"1,2\n", *lines[1:]]), NAME, ["'1,2'", "line 1,", "integer"]),
    (relabelled(lambda lines: [b"20\n", *lines[1:]]), NAME, ["class 20", "line 1,", "0 to 19"]),
    (relabelled(lambda lines: [b"-1\n", *lines[1:]]), NAME, ["class -1", "line 1,", "0 to 19"]),
    (relabelled(lambda lines: [b"0\n"] * (archives.LARGEST // 2 + 1)), NAME, ["16,777,216 bytes"]),
    *(
        (added(name), name, ["beside", NAME])
        for name in (NAME.replace("best", "last"), NAME.replace("d:1", "d:10"))
    ),
    *(
        (added(name), name, ["out of the archive"])
        for name in ("../out.csv", "/etc/out.csv", "rxrx1/../../out.csv", "..\\out.csv", "C:\\out.csv")
    ),
]


@pytest.mark.parametrize("kind", ["b.tar.gz", "b.zip"])
@pytest.mark.parametrize(("damage", "name", "parts"), FAULTS)
def test_a_fault_is_named_with_its_file_and_nothing_is_written(
    files, tmp_path, wrong, damage, name, parts, kind
):
    (said,) = wrong(packed(tmp_path / kind, damage(files)))
    assert said.startswith(f"{name}: found ")
    tiny.assert_says(said, *parts)
    assert [p.name for p in tmp_path.iterdir()] == [kind]


def test_every_fault_is_listed_at_once(files, tmp_path, wrong):
    damaged = changed(changed(files, content=b"0\n"), NAME.replace("seed:1", "seed:0"))
    said = wrong(packed(tmp_path / "b.tar.gz", {**damaged, "notes.txt": b""}))
    assert len(said) == 3
    assert any("notes.txt: found a leftover, expected README.md and the nine" in line for line in said)
    assert any("seed:0_epoch:best_pred.csv: found no such file, expected one" in line for line in said)
    assert any("found 1 rows, expected 1,536" in line for line in said)


def test_files_at_the_root_are_both_leftovers_and_missing(files, tmp_path, wrong):
    said = wrong(packed(tmp_path / "b.zip", {k.removeprefix("rxrx1/"): v for k, v in files.items()}))
    assert len(said) == 18 and sum("found a leftover" in line for line in said) == 9


@pytest.mark.parametrize(
    ("kind", "called"),
    [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "no plain file")],
)
def test_a_link_in_a_tar_is_no_file(files, tmp_path, wrong, kind, called):
    packed(tmp_path / "b.tar.gz", changed(files))
    info = tarfile.TarInfo(NAME)
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "l.tar", "w") as tar, tarfile.open(tmp_path / "b.tar.gz") as old:
        for member in old:
            tar.addfile(member, old.extractfile(member))
        tar.addfile(info)
    (said,) = wrong(tmp_path / "l.tar")
    assert said == f"{NAME}: found {called}, expected a file"


def test_a_link_in_a_zip_or_a_folder_is_no_file(files, tmp_path, wrong):
    path = packed(tmp_path / "b.zip", changed(files))
    info = zipfile.ZipInfo(NAME)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert wrong(path) == [f"{NAME}: found a link, expected a file"]
    with zipfile.ZipFile(packed(tmp_path / "c.zip", changed(files))) as archive:
        archive.extractall(tmp_path / "f")
    (tmp_path / "f" / NAME).symlink_to("/etc/passwd")
    assert wrong(tmp_path / "f") == [f"{NAME}: found a link, expected a file"]


def test_a_name_that_is_there_twice_is_named(files, tmp_path, wrong):
    path = packed(tmp_path / "b.zip", files)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(NAME, files[NAME])
    assert wrong(path) == [f"{NAME}: found 2 times, expected once"]


@pytest.mark.parametrize("how", ["by plate", "reversed"])
def test_predictions_in_another_order_than_the_data_sets_are_found_out(screen, files, tmp_path, wrong, how):
    rows = screen.rows["test"]
    order = rows[::-1].index if how == "reversed" else rows.sort_values("plate", kind="stable").index
    content = b"".join(np.array(lines_of(files))[order.to_numpy()])
    (said,) = wrong(packed(tmp_path / "b.zip", changed(files, content=content)))
    tiny.assert_says(said, NAME, how, "order of the data set")


def test_random_predictions_are_in_no_other_order(screen, files, tmp_path):
    rng = np.random.default_rng(0)
    noise = {
        k: b"".join(b"%d\n" % i for i in rng.integers(0, 20, 1536)) for k in files if k.startswith("rxrx1/")
    }
    assert verify_main([str(packed(tmp_path / "b.zip", noise)), "--root_dir", str(screen.root)]) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x1f\x8b no gzip", "truncated", None])
def test_what_is_no_whole_archive_is_one_line(files, tmp_path, wrong, content):
    path = packed(tmp_path / "b.tar.gz", files)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-200] if content == "truncated" else content)
    (said,) = wrong(path)
    assert "b.tar.gz cannot be read" in said


def test_a_missing_data_set_is_a_bad_call(files, tmp_path, refused):
    path = packed(tmp_path / "b.zip", files)
    assert str(tmp_path) in refused(verify_main, path, "--root_dir", tmp_path)


@pytest.mark.slow
def test_the_official_size_takes_less_than_a_minute_and_two_gigabytes(tmp_path):
    """125,510 rows of metadata and three seeds of 84,898 predictions, in processes of their own."""
    screen = boards.make_screen(tmp_path / "screen", "full")
    assert [len(screen.rows[s]) for s in SPLITS] == [9_854, 34_432, 40_612]
    make_runs(screen, tmp_path / "runs")
    began = seconds_of_children()
    for argv in (
        ["bundle.py", tmp_path / "runs", "--out", "b.tar.gz"],
        ["verify.py", "b.tar.gz", "--root_dir", screen.root, "--json", "n.json"],
    ):
        _, _, peak = script(*argv, cwd=tmp_path)
        assert peak < 2 * 1024**2, f"{argv[0]} took {peak} KiB"
    assert seconds_of_children() - began < 60
    found = json.loads((tmp_path / "n.json").read_text())["splits"]
    for seed in SEEDS:
        for r in read_records(tmp_path / "runs" / f"seed{seed}" / RESULTS):
            assert np.isclose(found[r.split]["accuracy"]["average"]["seeds"][str(seed)], r.acc, rtol=1e-6)


def test_the_script_runs_from_anywhere(screen, files, tmp_path):
    packed(tmp_path / "b.zip", files)
    assert "id_test" in script("verify.py", "b.zip", "--root_dir", screen.root, cwd=tmp_path)[0]
