"""leaderboard/bundle.py: what the leaderboard would refuse is one sentence, and nothing is written."""

from __future__ import annotations

import json
import shutil

import pytest

from abra_wilds.results.records import CONFIG, RESULTS
from tests.board.boards import change_records, make_run, make_runs, rewrite


def drop_seed(three):
    shutil.rmtree(three / "seed1")


def only_seed_10(three):
    shutil.copytree(three.parent / "ten", three / "seed10")
    drop_seed(three)


def short(three):
    file = three / "seed1" / "rxrx1_split:test_seed:1_epoch:best_pred.csv"
    rewrite(three / "seed1", "test", file.read_text().splitlines()[:-1])


def with_label(label):
    def change(three):
        file = three / "seed1" / "rxrx1_split:test_seed:1_epoch:best_pred.csv"
        rewrite(three / "seed1", "test", [*file.read_text().splitlines()[:-1], label])

    return change


def second_file(three):
    file = three / "seed1" / "rxrx1_split:val_seed:1_epoch:best_pred.csv"
    shutil.copy(file, file.with_name("rxrx1_split:val_seed:1_epoch:best_pred (1).csv"))


def no_line(three):
    with (three / "seed2" / RESULTS).open("a") as file:
        file.write("not JSON\n")


def edited_predictions(three):
    (three / "seed1" / "rxrx1_split:val_seed:1_epoch:best_pred.csv").write_text("1\n")


def no_test_record(three):
    path = three / "seed0" / RESULTS
    path.write_text(
        "".join(line for line in path.read_text().splitlines(True) if '"split": "test"' not in line)
    )


def copied_predictions(three):
    file = three / "seed0" / "rxrx1_split:test_seed:0_epoch:best_pred.csv"
    rewrite(three / "seed1", "test", file.read_text().splitlines())


def no_command(three):
    path = three / "seed1" / CONFIG
    content = json.loads(path.read_text())
    del content["command"]
    path.write_text(json.dumps(content))


def empty(three):
    shutil.rmtree(three)
    three.mkdir()


def all_real(three):
    for seed in (0, 1, 2):
        change_records(three / f"seed{seed}", simulated=False)


BAD = {
    "a missing seed": (
        drop_seed,
        "has runs of seeds 0, 2, and the leaderboard asks for 0, 1 and 2; train seed 1 too",
    ),
    "seed 10 in place of 1": (only_seed_10, "has runs of seeds 0, 2, 10, and the leaderboard asks for"),
    "a row too few": (short, "epoch:best_pred.csv: found 1,535 rows, expected 1,536; predict again"),
    "a label too large": (
        with_label(1139),
        "found class 1139 in line 1,536, expected 0 to 1,138; predict again",
    ),
    "a negative label": (with_label(-1), "found class -1 in line 1,536, expected 0 to 1,138"),
    "a label with a point": (with_label(3.0), "found '3.0' in line 1,536, expected an integer"),
    "a label with zeros in front": (with_label("007"), "found '007' in line 1,536, expected an integer"),
    "predictions of another seed": (copied_predictions, "are the same predictions, so one is a copy"),
    "no command": (no_command, "is no configuration of a run; restore it"),
    "data of other labels": (
        lambda t: [change_records(t / f"seed{s}", "val", data_sha256=str(s)) for s in (0, 1)],
        "differ in labels or metadata, by the digests",
    ),
    "data of other labels beside an older record": (
        lambda t: [change_records(t / f"seed{s}", data_sha256=str(s)) for s in (1, 2)],
        "differ in labels or metadata, by the digests",
    ),
    "an empty line": (with_label(""), "found '' in line 1,536, expected an integer"),
    "two files of one split": (
        second_file,
        "as its one file of val by the best epoch; found rxrx1_split:val",
    ),
    "a line that is no record": (no_line, "results.jsonl is no record with method"),
    "changed predictions": (edited_predictions, "is not the file that its record is about, by its sha256"),
    "no record of a split": (
        no_test_record,
        "has no record of test by the best epoch; repeat the run's command",
    ),
    "no results": (
        lambda t: (t / "seed2" / RESULTS).unlink(),
        "does not exist; finish the run with --resume",
    ),
    "no predictions": (
        lambda t: (t / "seed2" / "rxrx1_split:val_seed:2_epoch:best_pred.csv").unlink(),
        "found none; keep that one",
    ),
    "an empty folder": (empty, "holds no run, which is a folder with a config.json"),
    "no folder": (shutil.rmtree, "is no folder; give one that holds run folders"),
    "a seed twice": (lambda t: shutil.copytree(t / "seed1", t / "again"), "seed 1 is there twice"),
    "splits of several epochs": (
        lambda t: change_records(t / "seed1", "test", epoch=3),
        "of epochs [3, 8] as the",
    ),
    "simulated beside real": (
        lambda t: change_records(t / "seed1", simulated=False),
        "simulated (True and False)",
    ),
    "real data of another size": (all_real, "found 1,536 rows, expected 9,854"),
    "other data": (lambda t: change_records(t / "seed1", "val", n=9), "so they are of different data"),
    "no word of what it consumed": (
        lambda t: change_records(t / "seed1", consumed={}),
        "does not say what the run consumed",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_leaderboard_would_refuse_is_one_sentence_and_writes_nothing(
    screen, three, refused_bundle, case
):
    damage, sentence = BAD[case]
    if damage is only_seed_10:
        make_run(screen, three.parent / "ten", 10)
    damage(three)
    assert sentence in refused_bundle(three)


def test_runs_of_different_settings_are_refused_with_what_differs(screen, three, refused_bundle):
    make_run(screen, three / "seed3", 3, lr=0.005)
    assert "differ in more than the seed: lr (0.01 and 0.005)" in refused_bundle(three)
    shutil.rmtree(three / "seed3")
    make_run(screen, three / "seed3", 3, algorithm="ERM")
    assert "algorithm (ABRA and ERM)" in refused_bundle(three)


def test_adaptations_of_different_settings_are_refused(screen, three, refused_bundle):
    shutil.rmtree(three / "seed1")
    make_run(screen, three / "seed1", 1, tta="plate_bn", adapted={"tta": "plate_bn", "amp": "bf16"})
    assert "differ in more than the seed: amp (none and bf16)" in refused_bundle(three, "--tta", "plate_bn")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"dataset": "rxrx1_6ch"}, "was run with --dataset rxrx1_6ch, and the leaderboard takes rxrx1 alone"),
        (
            {"split_scheme": "mixed-to-test"},
            "--split_scheme mixed-to-test, and the leaderboard takes official",
        ),
        ({"frac": 0.5}, "--frac 0.5, and the leaderboard takes 1.0 alone"),
    ],
)
def test_other_data_sets_and_splits_are_no_leaderboard_entries(
    screen, tmp_path, refused_bundle, values, sentence
):
    assert sentence in refused_bundle(make_runs(screen, tmp_path / "runs", **values))


def test_an_adaptation_that_was_not_made_says_how_to_make_it(three, refused_bundle):
    told = "holds no predictions with the adaptation batch_bn; make them with 'abra-wilds predict ... --tta"
    assert told in refused_bundle(three, "--tta", "batch_bn")


def test_a_flag_without_effect_is_refused(three, refused_bundle):
    assert "--non_standard is given, and by its records this row is standard" in refused_bundle(
        three, "--non_standard"
    )


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (
            "b.rar",
            "--out must end in .tar.gz or .zip and have a name that every system can hold; got 'b.rar'",
        ),
        ("seed:0.zip", "got 'seed:0.zip'"),
        ("none/b.zip", "lies in no existing folder; make"),
    ],
)
def test_an_archive_that_cannot_be_written_is_refused_first(three, refused_bundle, out, sentence):
    assert sentence in refused_bundle(three, out=out)
