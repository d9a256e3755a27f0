"""Records: a JSON line each, appended once, read back strictly, printed as one table."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from abra_wilds.results.records import Record, append_records, read_records, results_table
from abra_wilds.types import InputError

FIRST = Record(
    method="ABRA",
    dataset="rxrx1",
    simulated=False,
    backbone="resnet50",
    split="test",
    seed=0,
    checkpoint="best",
    epoch=7,
    tta=None,
    bn_stats="precise",
    bio_batch="plate",
    train_loader="plate",
    preset="paper",
    acc=0.3125,
    acc_by_cell={"HUVEC": 0.5, "U2OS": 0.0625},
    n=12345,
    predictions="pred.csv",
    predictions_sha256="0" * 64,
    config_sha256="1" * 64,
    commit="unknown",
    versions={"python": "3.11"},
    wall_s=1.5,
)


def test_records_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_records(path) == []
    append_records(path, [FIRST, replace(FIRST, split="val")])
    append_records(path, [replace(FIRST, seed=1)])
    assert [json.loads(line)["split"] for line in path.read_text().splitlines()] == ["test", "val", "test"]
    assert read_records(path)[:2] == [FIRST, replace(FIRST, split="val")]


def test_a_record_is_appended_once_whatever_the_clock_says(tmp_path):
    path = tmp_path / "results.jsonl"
    append_records(path, [FIRST])
    before = path.read_bytes()
    append_records(path, [replace(FIRST, wall_s=99.0)])
    assert path.read_bytes() == before
    append_records(path, [replace(FIRST, predictions_sha256="2" * 64)])
    assert len(read_records(path)) == 2


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b"[]", b"3", b'{"method": "ABRA"}', b'{"more": 1}', b"", b"\xff"),
        *(
            json.dumps(asdict(FIRST) | wrong).encode()
            for wrong in (
                *({"acc": None}, {"acc": float("nan")}, {"acc": 31.25}, {"acc_by_cell": {"HUVEC": None}}),
                *({"predictions": "../pred.csv"}, {"predictions": "a\\b"}),
                *({"acc_balanced": 31.25}, {"acc_balanced": "0.5"}, {"class_mix": {"plate": -0.1}}),
                *({"consumed": None}, {"method": None}, {"n": "12345"}, {"tta": 1}),
            )
        ),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    append_records(path, [FIRST])
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InputError, match=r"line 2 of .*results.jsonl"):
        read_records(path)


def test_a_record_of_an_older_version_has_no_balanced_accuracy_and_no_class_mix(tmp_path):
    new = replace(FIRST, acc_balanced=0.25, class_mix={"plate": 0.5})
    lines = [asdict(new), {k: v for k, v in asdict(new).items() if k not in ("acc_balanced", "class_mix")}]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_records(path) == [new, FIRST]
    assert new.scores == {**FIRST.acc_by_cell, "acc_balanced": 0.25} and FIRST.scores == FIRST.acc_by_cell


def test_the_table_shows_balanced_accuracy_and_the_class_mix_where_records_have_them():
    mix = {"plate": 0.125, "experiment": 0.0}
    new = replace(FIRST, acc_balanced=0.25, class_mix=mix, acc_screen={"acc_well": 0.5})
    val = replace(new, split="val", class_mix={"plate": 1.0})
    assert results_table([FIRST, new, val, replace(new, checkpoint="last")]) == (
        "Accuracy in percent on rxrx1\n"
        "      checkpoint  split       n  average  balanced  HUVEC  U2OS  well\n"
        "ABRA  best        test   12,345     31.2         -   50.0   6.2     -\n"
        "ABRA  best        test   12,345     31.2      25.0   50.0   6.2  50.0\n"
        "ABRA  best        val    12,345     31.2      25.0   50.0   6.2  50.0\n"
        "ABRA  last        test   12,345     31.2      25.0   50.0   6.2  50.0\n"
        "Class mix (0: bio-batches hold the classes alike, 1: one class each): "
        "test 0.12 over plates, 0.00 over experiments; val 1.00 over plates\n"
    )


def test_the_table_is_split_by_average_and_cell_type_in_percent():
    other = replace(FIRST, method="ERM", split="id_test", acc=1.0, acc_by_cell={"HUVEC": 1.0, "RPE": 0.25})
    assert results_table([FIRST, other]) == (
        "Accuracy in percent on rxrx1\n"
        "      checkpoint  split         n  average  HUVEC   RPE  U2OS\n"
        "ABRA  best        test     12,345     31.2   50.0     -   6.2\n"
        "ERM   best        id_test  12,345    100.0  100.0  25.0     -\n"
    )


def test_the_table_shows_the_scores_of_a_screen_where_there_are_any():
    scored = replace(FIRST, acc_screen={"acc_well": 0.5, "acc_treatments": 0.25})
    assert [line.split()[-2:] for line in results_table([FIRST, scored]).splitlines()[1:]] == [
        ["treatments", "well"],
        ["-", "-"],
        ["25.0", "50.0"],
    ]


def test_the_table_names_simulated_data():
    assert results_table([replace(FIRST, simulated=True)]).startswith(
        "Accuracy in percent on simulated data\n"
    )


def test_no_record_is_said_to_be_none():
    assert results_table([]) == "no predictions were written, so there is no record to show\n"
