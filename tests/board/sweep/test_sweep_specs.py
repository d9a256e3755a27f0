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

SPECS = {path.stem: path for path in sorted((boards.BOARD / "specs").glob("*.yaml"))}
PUBLISHED = json.loads((boards.BOARD / "published.json").read_text())["rows"]
# Rows of a table that are another row's models, adapted.
ADAPTED = {5: {"Test-time BN adaptation": "ERM (grid search)"}}


def resolved(name, **kwargs):
    """Spec and runs of seed 0."""
    spec = read_spec(SPECS[name])
    return spec, plan(spec, boards.Path("RUNS"), seeds=[0], **kwargs)


def predictions(spec, run):
    """(algorithm, adaptation) of a run and of what is predicted behind it."""
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
    assert set(SPECS) == tables | figures | {"demo"}


@pytest.mark.parametrize("name", SPECS)
def test_every_row_of_a_spec_is_a_run_in_a_folder_of_its_own(name):
    spec, planned = resolved(name)
    assert len({run.folder for run in planned}) == len(spec.rows)
    assert len({run.config.digest() for run in planned}) == len(spec.rows)
    assert spec.seeds == ((0, 1, 2) if name == "demo" else (0, 1, 2, 3, 4))


@pytest.mark.parametrize("table", range(2, 7))
def test_the_spec_of_a_table_has_every_published_row_with_its_adaptation_and_backbone(table):
    spec, planned = resolved(f"table_{table}")
    by_label = {run.label: run for run in planned}
    for row in (row for row in PUBLISHED if row["table"] == table):
        label = ADAPTED.get(table, {}).get(row["row"], row["row"])
        if row["tta"] and row["row"] == "AdvStyle":
            label = "AdvStyle (TTA)"
        run = by_label[label]
        assert (run.config.data.dataset, run.config.data.split_scheme) == (
            row["dataset"],
            row["split_scheme"],
        )
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


def test_without_val_the_last_epoch_counts(file):
    path = file({"settings": {"dataset": "rxrx1_6ch", "split_scheme": "official"}})
    (run,) = plan(read_spec(path), boards.Path("RUNS"))
    assert (run.splits, run.checkpoint) == (("test",), "last")
    assert {"best", "last"} == {"best" if "val" in splits else "last" for splits in PREDICTED.values()}


def test_settings_become_the_words_of_a_command():
    settings = {"lr": 1e-3, "mix": "none", "pretrained": True, "dsu_at": ["res1", "res2"]}
    told = "--lr 0.001 --mix none --pretrained true --dsu_at res1 res2 --loader_kwargs num_workers=2"
    assert " ".join(as_words({**settings, "loader_kwargs": {"num_workers": 2}}, "")) == told


BAD = {
    "no row": ({}, {"rows": []}, ["rows of", "must be a list of rows", "got []"]),
    "no seed": ({}, {"seeds": 3}, ["seeds of", "[0, 1, 2]", "got 3"]),
    "a seed twice": ({}, {"seeds": [0, 1, 0]}, ["seeds", "twice: 0"]),
    "a name that nothing reads": ({}, {"sed": 1}, ["has 'sed'", "it may have", "seeds"]),
    "a row's name that nothing reads": ({"setting": {}}, {}, ["row 'ERM'", "has 'setting'", "it may have"]),
    "no algorithm": ({"algorithm": None, "label": ""}, {}, ["needs a label", "algorithm or config"]),
    "too few devices": ({}, {"gpus_per_run": 0}, ["gpus_per_run", "1 or more", "got 0"]),
    "settings that are a list": ({}, {"settings": ["lr"]}, ["settings of", "name: value", "got ['lr']"]),
    "a seed in settings": ({"settings": {"seed": 1}}, {}, ["settings of row 'ERM'", "seed", "leave it out"]),
    "a value that is missing": ({"settings": {"lr": None}}, {}, ["lr of row 'ERM'", "no value"]),
    "an unknown flag": ({"settings": {"lrr": 1}}, {}, ["row 'ERM'", "--lrr", "did you mean --lr?"]),
    "a value that is not allowed": ({"settings": {"lr": -1}}, {}, ["row 'ERM'", "--lr must be positive"]),
    "predictions that are not kept": (
        {"settings": {"save_pred": False}},
        {},
        ["save_pred false", "take it out"],
    ),
    "adaptations that are no list": ({"tta": "plate_bn"}, {}, ["tta of row 'ERM'", "list", "got 'plate_bn'"]),
    "an adaptation's flag of training": (
        {"tta": [{"lr": 1}]},
        {},
        ["tta of row 'ERM'", "has 'lr'", "may have"],
    ),
    "an adaptation that is none": ({"tta": [{"tta": "x"}]}, {}, ["tta of row 'ERM'", "--tta must be one of"]),
    "an adaptation twice": ({"tta": [{"tta": "plate_bn"}] * 2}, {}, ["adaptations of row 'ERM'", "plate_bn"]),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_by_one_sentence(file, what):
    row, changes, parts = BAD[what]
    with pytest.raises(InputError) as fault:
        plan(read_spec(file(row, **changes)), boards.Path("RUNS"))
    assert "\n" not in str(fault.value)
    runs.assert_says(str(fault.value), *parts)


def test_rows_whose_labels_make_one_folder_are_refused(file):
    rows = [{"label": label, "algorithm": "ERM"} for label in ("ERM (a)", "ERM a")]
    with pytest.raises(InputError, match=r"share a folder.*ERM_a"):
        read_spec(file(rows=rows))


@pytest.mark.parametrize(("flag", "value", "known"), [("only", "ERN", "ERM"), ("seeds", 7, "0")])
def test_rows_and_seeds_that_are_not_there_are_refused(file, flag, value, known):
    with pytest.raises(InputError) as fault:
        plan(read_spec(file()), boards.Path("RUNS"), **{flag: [value]})
    runs.assert_says(str(fault.value), f"--{flag} got {value!r}", known)


def test_the_rows_of_a_file_that_has_them_of_another_are_refused(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("same_as: spec.yaml")
    with pytest.raises(InputError, match=r"same_as of .*spec.yaml names spec.yaml, which has same_as itself"):
        read_spec(path)


@pytest.mark.parametrize(("text", "says"), [("a: [", "is no YAML"), ("- a", "must be names and values")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, says):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_spec(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")
