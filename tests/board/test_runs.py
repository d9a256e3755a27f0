"""abra_wilds/results/runs.py: what runs there are, how their records were made, and what may be averaged."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from abra_wilds.board.bundle.archives import read_archive
from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.config.evaluation import CONTROL_KINDS, CONTROLS_TTA, CUT_TTA, GROUPED_TTA, TTA, EvalConfig
from abra_wilds.engine.artifacts.folder import CONFIG, RunFolder, write_config
from abra_wilds.errors import InputError
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results import legacy, runs
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import RESULTS, read_records
from tests import disks
from tests.board import boards
from tests.board.boards import change_records, make_run, make_runs
from tests.runs import assert_says


def grouped(folder):
    """Method, adaptation and seeds of every group, with the number of splits."""
    entries = [
        entry
        for run in runs.find_runs(folder)
        for inside in (run.path, *run.adapted)
        for entry in runs.read_entries(run, inside)
    ]
    groups = [[e.record for e in group] for group in runs.by_settings(entries)]
    return [(g[0].method, g[0].tta, sorted({r.seed for r in g}), len({r.split for r in g})) for g in groups]


@pytest.mark.parametrize("algorithm", ["ERM", "ABRA", "SimCLR", "IRM"])
def test_the_digest_of_the_values_in_a_config_json_is_the_configurations(tmp_path, algorithm):
    config = run_config(algorithm, root_dir="data", log_dir=str(tmp_path), lr=0.003, n_epochs=30, seed=4)
    write_config(RunFolder(tmp_path, "rxrx1", 4), config)
    run = runs.read_run(tmp_path)
    assert runs.digest(run.values) == config.digest() and run.seed == 4
    assert not {"seed", "log_dir", "device"} & run.settings.keys() and run.settings["lr"] == 0.003


def test_records_are_grouped_by_everything_but_the_seed(screen, tmp_path):
    make_runs(screen, tmp_path / "a", (0, 1, 10))
    make_runs(screen, tmp_path / "b", (1, 0), lr=0.005)
    make_runs(screen, tmp_path / "c", (2,), algorithm="ERM", **boards.ADAPTED)
    assert grouped(tmp_path) == [
        ("ABRA", None, [0, 1, 10], 3),
        ("ABRA", None, [0, 1], 3),
        ("ERM", None, [2], 3),
        ("ERM", "plate_bn", [2], 3),
    ]


def test_where_a_run_lies_and_how_it_was_shown_separates_nothing(screen, tmp_path):
    make_run(screen, tmp_path / "a", 0)
    make_run(screen, tmp_path / "b", 1, progress_bar=True, log_every=7, loader_kwargs={"num_workers": 0})
    assert grouped(tmp_path) == [("ABRA", None, [0, 1], 3)]


def test_simulated_records_are_kept_apart_from_others(screen, tmp_path):
    change_records(make_runs(screen, tmp_path, (0, 1)) / "seed1", simulated=False)
    assert [seeds for _, _, seeds, _ in grouped(tmp_path)] == [[0], [1]]


def test_the_latest_record_of_a_split_counts(screen, tmp_path):
    run = make_run(screen, tmp_path / "r", 0)
    lines = (run / RESULTS).read_text().splitlines()
    newer = json.dumps({**json.loads(lines[0]), "acc": 0.125})
    (run / RESULTS).write_text("\n".join([*lines, newer]) + "\n")
    accs = {e.record.split: e.record.acc for e in runs.read_entries(runs.read_run(run))}
    assert accs["val"] == 0.125 and len(accs) == 3


def adaptations():
    """Every shape of an adaptation's name."""
    for tta, group, size, least in product(TTA[1:], ("plate", "experiment"), (0, 64), (16, 4)):
        values = {"tta": tta, "tta_min": least}
        values |= {"tta_group": group} if tta in GROUPED_TTA else {}
        values |= {"tta_batch_size": size} if tta in CUT_TTA else {}
        for prior in (256.0, 0.5, float("inf")) if tta == "mixed_bn" else (None,):
            yield values if prior is None else {**values, "tta_prior": prior}
        for kind in CONTROL_KINDS[1:] if tta in CONTROLS_TTA else ():
            yield {**values, "tta_controls": kind}


def test_the_name_of_an_adaptation_gives_its_flags_back():
    for values in adaptations():
        read = legacy.adaptation_values(EvalConfig(**values).adaptation)
        back = {k: float(v) if k == "tta_prior" else v for k, v in read.items()}
        assert EvalConfig(**back) == EvalConfig(**values)
    assert legacy.adaptation_values(None) == {"tta": "none"} and legacy.adaptation_values("new_bn") == {}


@pytest.mark.parametrize(
    ("name", "adapted"),
    [
        ("plate_bn_experiment_b64", {"tta": "plate_bn", "tta_group": "experiment", "tta_batch_size": 64}),
        ("mixed_bn_m128_min4", {"tta": "mixed_bn", "tta_prior": 128.0, "tta_min": 4}),
        ("batch_bn", {"tta": "batch_bn", "amp": "bf16"}),
        ("eb_bn_none_controls", {"tta": "eb_bn", "tta_controls": "none"}),
        ("eb_bn", {"tta": "eb_bn"}),
    ],
)
def test_what_an_adapted_record_was_computed_with_comes_out_by_its_digest(screen, tmp_path, name, adapted):
    run = runs.read_run(make_run(screen, tmp_path / "r", 3, tta=name, adapted=adapted))
    (folder,) = run.adapted
    for entry in runs.read_entries(run, folder):
        assert entry.settings == {**run.settings, **adapted}
        assert entry.predictions.is_file()


def broken(folder, text):
    (folder / CONFIG).write_text(text)


def edited(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["values"]["lr"] = 9.0
    broken(folder, json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda f: broken(f, "{"), [CONFIG, "no configuration"]),
        (lambda f: broken(f, "[]"), [CONFIG, "no configuration"]),
        (lambda f: broken(f, '{"values": {"seed": 0}}'), [CONFIG, "no configuration"]),
        (edited, [CONFIG, "digest"]),
        (lambda f: (f / CONFIG).unlink(), ["no run", CONFIG]),
        (lambda f: shutil.rmtree(f), ["no folder"]),
        (lambda f: (f / RESULTS).open("a").write("{\n"), ["line 4", RESULTS]),
        (lambda f: change_records(f, "test", config_sha256="0" * 64), [RESULTS, "test", CONFIG]),
        (lambda f: change_records(f, "test", seed=1), [RESULTS, "test by seed 1", CONFIG]),
    ],
)
def test_a_run_that_cannot_be_read_is_one_sentence(screen, tmp_path, damage, parts):
    folder = make_run(screen, tmp_path / "r", 0)
    damage(folder)
    said = refusal_of(folder)
    assert str(folder) in said
    assert_says(said, *parts)


def refusal_of(folder):
    """The one sentence with which a folder is refused."""
    with pytest.raises(InputError) as fault:
        grouped(folder)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_a_seed_that_is_there_twice_is_refused_with_both_folders(screen, tmp_path):
    make_run(screen, tmp_path / "a", 0), make_run(screen, tmp_path / "b", 0)
    assert_says(refusal_of(tmp_path), "seed 0 of ABRA", str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_split_of_another_size_is_other_data(screen, tmp_path):
    make_runs(screen, tmp_path, (0, 1))
    change_records(tmp_path / "seed1", "test", n=7)
    n = read_records(tmp_path / "seed0" / RESULTS)[1].n
    assert_says(refusal_of(tmp_path), "test", f"{n:,} images", "seed0", "7 in", "seed1")


def test_a_mixture_is_refused_with_what_differs_from_the_first():
    a = {"lr": 0.1, "x": 1}
    runs.refuse_mixture({"A": a, "B": dict(a)})
    with pytest.raises(InputError, match=r"A and B .*: lr \(0.1 and 0.2\), y \(None and 3\);"):
        runs.refuse_mixture({"A": a, "B": {"lr": 0.2, "x": 1, "y": 3}})


def test_config_and_records_of_a_run_are_read_once(screen, tmp_path, monkeypatch):
    make_runs(screen, tmp_path, (0, 1), **boards.ADAPTED)
    read: Counter[Path] = Counter()
    for name in ("read_text", "read_bytes"):
        original = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda p, *a, of=original, **k: read.update([p]) or of(p, *a, **k))
    found = runs.find_runs(tmp_path)
    assert {path.name for path in read} == {CONFIG}  # records wait until they are asked for
    assert len(all_entries(found)) == len(all_entries(found)) == 12
    own = [run.path / name for run in found for name in (CONFIG, RESULTS)]
    assert [read[path] for path in own] == [1, 1, 1, 1]


def test_files_without_colons_give_the_same_bundle(three, tmp_path):
    words = [str(three), "--out"]
    assert bundle_main([*words, str(tmp_path / "a.zip")]) == 0
    disks.rename_colons(three)
    assert bundle_main([*words, str(tmp_path / "b.zip")]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path / "a")
    disks.rename_colons(tmp_path / "a")
    packed, unpacked = (sorted(m.name for m in read_archive(tmp_path / name)) for name in ("a.zip", "a"))
    assert packed == unpacked
