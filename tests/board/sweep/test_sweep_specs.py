"""The files of sweeps: ours resolve and have every published row; bad ones are refused."""

from __future__ import annotations

import json

import pytest
import yaml

from abra_wilds.board.sweep.plan import PREDICTED, plan
from abra_wilds.board.sweep.spec import as_words, read_spec
from abra_wilds.engine.evaluation.saved import changed
from abra_wilds.errors import InputError
from tests import runs
from tests.board import boards

PUBLISHED = json.loads((boards.BOARD / "published.json").read_text())["rows"]
# Rows of a table that are another row's models, adapted.
ADAPTED = {5: {"Test-time BN adaptation": "ERM (grid search)"}}


def resolved(name, **kwargs):
    """Spec and runs of seed 0."""
    spec = read_spec(boards.SPECS[name])
    return spec, plan(spec, boards.Path("RUNS"), seeds=[0], **kwargs)


def predictions(spec, run):
    """(algorithm, adaptation) of a run and of what is predicted after it."""
    (row,) = (row for row in spec.rows if row.label == run.label)
    configs = [run.config, *(changed(run.config, flags) for flags in row.tta)]
    return {(c.algorithm, c.eval.adaptation) for c in configs}


@pytest.fixture
def file(tmp_path):
    """Writes a sweep's file, good but for the changes."""

    def write(row=None, **changes):
        content = {"name": "x", "seeds": [0], "rows": [{"label": "ERM", "algorithm": "ERM", **(row or {})}]}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return write


def test_the_specs_of_the_paper_and_a_small_one_are_there():
    tables, figures = {f"table_{n}" for n in range(2, 7)}, {f"fig_{n}" for n in (5, 6, 7)}
    on = ("sim", "mitocheck", "no_batch_effect", "shuffled", "shuffled_mitocheck")
    assert set(boards.SPECS) == tables | figures | {"demo"} | {f"claims_{data}" for data in on}


@pytest.mark.parametrize("name", boards.SPECS)
def test_every_row_and_fold_of_a_spec_is_a_run_in_a_folder_of_its_own(name, like_mitocheck):
    spec, planned = resolved(name, screen=like_mitocheck[name])
    n = len(spec.rows) * len(spec.folds)
    assert len({run.folder for run in planned}) == len({run.config.digest() for run in planned}) == n
    seeds = {"demo": 3, "claims_mitocheck": 2, "claims_shuffled": 1, "claims_shuffled_mitocheck": 1}
    assert spec.seeds == tuple(range(seeds.get(name, 5)))


@pytest.mark.parametrize("table", range(2, 7))
def test_the_spec_of_a_table_has_every_published_row_with_its_adaptation_and_backbone(table):
    spec, planned = resolved(f"table_{table}")
    by_label = {run.label: run for run in planned}
    for row in (row for row in PUBLISHED if row["table"] == table):
        label = ADAPTED.get(table, {}).get(row["row"], row["row"])
        if row["tta"] and row["row"] == "AdvStyle":
            label = "AdvStyle (TTA)"
        run = by_label[label]
        data = run.config.data
        assert [data.dataset, data.split_scheme] == [row["dataset"], row["split_scheme"]]
        assert row["split"] in run.splits
        assert run.config.model.model == row["backbone"]
        method = row["method"] or "IID-lite"
        assert (method, row["tta"]) in predictions(spec, run), row["row"]


def test_tables_3_to_5_and_the_figures_share_one_folder_of_runs():
    digests = {}
    for name in ("table_3", "table_4", "table_5", "fig_5", "fig_6", "fig_7"):
        for run in resolved(name)[1]:
            assert digests.setdefault(run.folder, run.config.digest()) == run.config.digest()
    assert len(digests) == 10 + 10 + 5 + 5


def test_a_row_has_the_shared_settings_unless_it_has_its_own(file):
    path = file({"settings": {"lr": 0.5}}, settings={"lr": 0.1, "n_epochs": 7})
    (run,) = plan(read_spec(path), boards.Path("RUNS"))
    assert (run.config.optim.lr, run.config.optim.n_epochs) == (0.5, 7)


def test_labels_and_texts_of_a_sweep_are_what_stands_there(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: 007\nseeds: [0]\nreference: no\nsettings: {version: 1.10, pretrained: false}\n"
        "rows: [{label: no, algorithm: ERM},\n"
        "       {label: 1e5, algorithm: ERM, settings: {version: 001, lr: 1e-3}}]\n"
    )
    spec = read_spec(path)
    assert (spec.name, spec.reference, [row.label for row in spec.rows]) == ("007", "no", ["no", "1e5"])
    words = [" ".join(row.words) for row in spec.rows]
    assert words == [
        "--algorithm ERM --version 1.10 --pretrained false",
        "--algorithm ERM --version 001 --pretrained false --lr 1e-3",
    ]


def test_without_val_the_last_epoch_counts(file):
    path = file({"settings": {"dataset": "rxrx1_6ch", "split_scheme": "official"}})
    (run,) = plan(read_spec(path), boards.Path("RUNS"))
    assert (run.splits, run.checkpoint) == (("test",), "last")
    assert {"best", "last"} == {"best" if "val" in splits else "last" for splits in PREDICTED.values()}


def test_settings_become_the_words_of_a_command():
    settings = {"lr": 1e-3, "mix": "none", "pretrained": True, "dsu_at": ["res1", "res2"]}
    said = "--lr 0.001 --mix none --pretrained true --dsu_at res1 res2 --loader_kwargs num_workers=2"
    assert " ".join(as_words({**settings, "loader_kwargs": {"num_workers": 2}}, "")) == said


BAD = [
    ({}, {"rows": []}, ["rows of", "[]"]),
    ({}, {"seeds": 3}, ["seeds of", "3"]),
    ({}, {"seeds": [0, 1, 0]}, ["seeds", "twice: 0"]),
    ({}, {"sed": 1}, ["'sed'", "seeds"]),
    ({}, {"reference": "ERN"}, ["reference", "'ERN'", "label"]),
    ({"setting": {}}, {}, ["row 'ERM'", "'setting'"]),
    ({"algorithm": None, "label": ""}, {}, ["label", "algorithm or config"]),
    ({}, {"gpus_per_run": 0}, ["gpus_per_run", "0"]),
    ({}, {"settings": ["lr"]}, ["settings of", "['lr']"]),
    ({"settings": {"seed": 1}}, {}, ["settings of row 'ERM'", "seed"]),
    ({"settings": {"lr": None}}, {}, ["lr of row 'ERM'"]),
    ({"settings": {"lrr": 1}}, {}, ["row 'ERM'", "--lrr", "did you mean --lr?"]),
    ({"settings": {"lr": -1}}, {}, ["row 'ERM'", "--lr"]),
    ({"settings": {"save_pred": False}}, {}, ["row 'ERM'", "save_pred"]),
    ({"tta": "plate_bn"}, {}, ["tta of row 'ERM'", "'plate_bn'"]),
    ({"tta": [{"lr": 1}]}, {}, ["tta of row 'ERM'", "'lr'"]),
    ({"tta": [{"tta": "x"}]}, {}, ["tta of row 'ERM'", "--tta"]),
    ({"tta": [{"tta": "plate_bn"}] * 2}, {}, ["adaptations of row 'ERM'", "plate_bn"]),
    ({}, {"rows": [{"label": name, "algorithm": "ERM"} for name in ("ERM (a)", "ERM a")]}, ["ERM_a"]),
]


@pytest.mark.parametrize(("row", "changes", "parts"), BAD, ids=[" ".join(parts) for _, _, parts in BAD])
def test_a_bad_file_is_refused_by_one_sentence(file, row, changes, parts):
    assert_refused(file(row, **changes), *parts)


def assert_refused(path, *parts, **chosen):
    """The one sentence with which a file is refused says this."""
    with pytest.raises(InputError) as fault:
        plan(read_spec(path), boards.Path("RUNS"), **chosen)
    assert "\n" not in str(fault.value)
    runs.assert_says(str(fault.value), *parts)


@pytest.mark.parametrize(("flag", "value", "known"), [("only", "ERN", "ERM"), ("seeds", 7, "0")])
def test_rows_and_seeds_that_are_not_there_are_refused(file, flag, value, known):
    assert_refused(file(), f"--{flag}", repr(value), known, **{flag: [value]})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("same_as: spec.yaml", ["same_as of", "spec.yaml"]),
        ("a: [", ["spec.yaml", "YAML"]),
        ("- a", ["spec.yaml", "no settings"]),
        (None, ["spec.yaml cannot be read"]),
    ],
)
def test_a_file_that_is_none_or_has_the_rows_of_one_like_it_is_refused(tmp_path, text, parts):
    if text is not None:
        (tmp_path / "spec.yaml").write_text(text)
    assert_refused(tmp_path / "spec.yaml", *parts)
