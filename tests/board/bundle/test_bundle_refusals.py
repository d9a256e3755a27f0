"""leaderboard/bundle.py: what the leaderboard would refuse is one sentence, and nothing is written."""

from __future__ import annotations

import json
import shutil

import pytest

from abra_wilds.results.records import CONFIG, RESULTS
from tests.board.boards import change_records, make_run, make_runs, rewrite
from tests.runs import assert_says

NAME = "rxrx1_split:{}_seed:{}_epoch:best_pred.csv"
TEST = NAME.format("test", 1)


def file_of(three, split, seed):
    return three / f"seed{seed}" / NAME.format(split, seed)


def relabelled(change, of=1):
    """Make the test predictions of seed 1 again from the lines of a seed's."""
    return lambda t: rewrite(t / "seed1", "test", change(file_of(t, "test", of).read_text().splitlines()))


def last(label):
    return relabelled(lambda lines: [*lines[:-1], label])


def recorded(split=None, seeds=(1,), **changes):
    """Change the records of seeds; a function gives each seed its value."""
    return lambda t: [
        change_records(t / f"seed{s}", split, **{k: v(s) if callable(v) else v for k, v in changes.items()})
        for s in seeds
    ]


def no_test_record(three):
    path = three / "seed0" / RESULTS
    path.write_text("".join(li for li in path.read_text().splitlines(True) if '"split": "test"' not in li))


def no_command(three):
    content = json.loads((three / "seed1" / CONFIG).read_text())
    del content["command"]
    (three / "seed1" / CONFIG).write_text(json.dumps(content))


def empty(three):
    shutil.rmtree(three)
    three.mkdir()


BAD = {
    "a missing seed": (lambda t: shutil.rmtree(t / "seed1"), ["seeds 0, 2", "train seed 1"]),
    "seed 10 in place of 1": (
        lambda t: (t / "seed1").rename(t.parent / "1"),
        ["seeds 0, 2, 10", "0, 1 and 2"],
    ),
    "a row too few": (relabelled(lambda lines: lines[:-1]), [TEST, "1,535 rows", "1,536"]),
    "a label too large": (last(1139), [TEST, "class 1139", "line 1,536", "0 to 1,138"]),
    "a negative label": (last(-1), [TEST, "class -1", "line 1,536", "0 to 1,138"]),
    "a label with a point": (last(3.0), [TEST, "'3.0'", "line 1,536", "integer"]),
    "a label with zeros in front": (last("007"), [TEST, "'007'", "line 1,536", "integer"]),
    "an empty line": (last(""), [TEST, "''", "line 1,536", "integer"]),
    "predictions of another seed": (relabelled(list, of=0), ["copy"]),
    "no command": (no_command, [f"seed1/{CONFIG}"]),
    "other labels": (recorded("val", (0, 1), data_sha256=str), ["seed0", "seed1", "digests"]),
    "other labels beside an older record": (
        recorded(None, (1, 2), data_sha256=str),
        ["seed1", "seed2", "digests"],
    ),
    "two files of one split": (
        lambda t: shutil.copy(
            file_of(t, "val", 1), t / "seed1" / "rxrx1_split:val_seed:1_epoch:best_pred (1).csv"
        ),
        ["seed1", "rxrx1_split:val"],
    ),
    "a line that is no record": (
        lambda t: (t / "seed2" / RESULTS).open("a").write("no\n"),
        [f"seed2/{RESULTS}"],
    ),
    "changed predictions": (
        lambda t: file_of(t, "val", 1).write_text("1\n"),
        [NAME.format("val", 1), "sha256"],
    ),
    "no record of a split": (no_test_record, [f"seed0/{RESULTS}", "test", "--eval_only"]),
    "no results": (lambda t: (t / "seed2" / RESULTS).unlink(), [f"seed2/{RESULTS}", "--resume"]),
    "no predictions": (lambda t: file_of(t, "val", 2).unlink(), ["seed2", "val", "none"]),
    "an empty folder": (empty, ["runs", CONFIG]),
    "no folder": (shutil.rmtree, ["runs is no folder"]),
    "a seed twice": (lambda t: shutil.copytree(t / "seed1", t / "again"), ["seed 1", "again", "seed1"]),
    "splits of several epochs": (recorded("test", epoch=3), ["seed1", "[3, 8]"]),
    "simulated beside real": (recorded(simulated=False), ["simulated (True and False)"]),
    "real data of another size": (recorded(None, (0, 1, 2), simulated=False), ["1,536", "9,854"]),
    "other data": (recorded("val", n=9), ["val", "different data"]),
    "no word of what it consumed": (recorded(consumed={}), ["consumed"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_leaderboard_would_refuse_is_one_sentence(screen, three, refused_bundle, case):
    damage, parts = BAD[case]
    damage(three)
    if "10" in case:
        make_run(screen, three / "seed10", 10)
    assert_says(refused_bundle(three), *parts)


@pytest.mark.parametrize(
    ("seed", "values", "differs"),
    [
        (3, {"lr": 0.005}, "lr (0.01 and 0.005)"),
        (3, {"algorithm": "ERM"}, "algorithm (ABRA and ERM)"),
        (1, {"tta": "plate_bn", "adapted": {"tta": "plate_bn", "amp": "bf16"}}, "amp (none and bf16)"),
    ],
)
def test_runs_and_adaptations_of_different_settings_are_refused(
    screen, three, refused_bundle, seed, values, differs
):
    shutil.rmtree(three / f"seed{seed}", ignore_errors=True)
    make_run(screen, three / f"seed{seed}", seed, **values)
    assert differs in refused_bundle(three, *(["--tta", "plate_bn"] if "tta" in values else []))


@pytest.mark.parametrize(
    ("flag", "value", "needed"),
    [
        ("dataset", "rxrx1_6ch", "rxrx1"),
        ("split_scheme", "mixed-to-test", "official"),
        ("frac", 0.5, "1.0"),
        ("shuffle_labels", 0, "labels as they are"),
    ],
)
def test_other_data_are_no_leaderboard_entries(screen, tmp_path, refused_bundle, flag, value, needed):
    runs = make_runs(screen, tmp_path / "runs", **{flag: value})
    assert_says(refused_bundle(runs), f"--{flag} {value}", needed)


@pytest.mark.parametrize(
    ("flags", "out", "parts"),
    [
        (["--tta", "batch_bn"], "b.zip", ["batch_bn", "abra-wilds predict"]),
        (["--non_standard"], "b.zip", ["--non_standard", "standard"]),
        ([], "b.rar", ["--out", ".tar.gz", ".zip", "'b.rar'"]),
        ([], "seed:0.zip", ["--out", "'seed:0.zip'"]),
        ([], "none/b.zip", ["none/b.zip", "folder"]),
    ],
)
def test_flags_that_cannot_be_are_refused(three, refused_bundle, flags, out, parts):
    assert_says(refused_bundle(three, *flags, out=out), *parts)
