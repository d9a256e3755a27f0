"""Who shares statistics with whom: bio-batches, parts, controls, and the count of them in one line."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest

from abra_wilds import run_config
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.tta.plan import check_plans, controls_plan, random_parts, split_plan, tally
from abra_wilds.types import InputError
from tests import runs


def described(dataset, subset, group):
    """(experiment, plate) pairs of a bio-batch."""
    experiment, plate = (dataset.metadata_fields.index(name) for name in ("experiment", "plate"))
    m = subset.metadata_array[np.concatenate(group.passes)]
    return set(zip(m[:, experiment].tolist(), m[:, plate].tolist(), strict=True))


@pytest.mark.parametrize("split", runs.SPLITS)
@pytest.mark.parametrize(
    "e",
    [
        EvalConfig(tta="batch_bn", tta_min=2),
        EvalConfig(tta="plate_bn", tta_min=2, tta_batch_size=5),
        EvalConfig(tta="mixed_bn", tta_group="experiment"),
        EvalConfig(tta="controls_bn", tta_min=1),
    ],
    ids=lambda e: e.adaptation,
)
def test_every_row_comes_once(dataset, split, e):
    subset = split_subset(dataset, split)
    plan = split_plan(subset, e, 8)
    sampler = PassSampler(plan, 3)
    rows = list(chain(*runs.drawn(sampler)))
    assert sorted(rows) == list(range(len(subset))) and sampler.images_per_epoch == len(subset)
    assert list(chain(*(p for group in plan for p in group.passes))) == rows, "and in the order of the plan"
    assert len(sampler) == sum(map(sum, sampler.reads)) == len(list(sampler))
    assert max(map(len, sampler)) <= 3 and runs.drawn(sampler) == runs.drawn(sampler)


def test_a_bio_batch_is_a_plate_or_an_experiment_whatever_training_grouped_by(dataset):
    val = split_subset(dataset, "val")
    plates = split_plan(val, EvalConfig(tta="plate_bn"), 8)
    assert [(len(g), len(g.passes), g.adapted) for g in plates] == [(16, 1, True)] * 4
    assert all(len(described(dataset, val, group)) == 1 for group in plates)
    experiments = split_plan(val, EvalConfig(tta="plate_bn", tta_group="experiment"), 8)
    assert [len(group.passes[0]) for group in experiments] == [32, 32]
    assert all(len({e for e, _ in described(dataset, val, group)}) == 1 for group in experiments)


def test_a_larger_bio_batch_is_cut_into_near_equal_parts(dataset):
    e = EvalConfig(tta="plate_bn", tta_min=2, tta_batch_size=6)
    plan = split_plan(split_subset(dataset, "val"), e, 8)
    assert [[len(rows) for rows in group.passes] for group in plan] == [[6, 5, 5]] * 4
    found = tally(plan, e)
    assert (found.cut, found.passes, found.sources, found.unadapted) == (4, 12, (5, 6), 0)
    assert found.line("val", e) == (
        "--tta plate_bn on val: 64 images, 4 plates, 12 passes; statistics of 5 to 6 images; 4 cut; "
        "0 images with running statistics (fewer than 2)"
    )


def test_a_small_bio_batch_is_predicted_with_the_running_statistics_and_counted(dataset):
    e = EvalConfig(tta="plate_bn")
    plan = split_plan(split_subset(dataset, "id_test"), e, 8)
    assert [(len(group), group.adapted) for group in plan] == [(8, False)] * 8
    assert tally(plan, e).line("id_test", e) == (
        "--tta plate_bn on id_test: 64 images, 8 plates, 8 passes; statistics of 0 to 0 images; 0 cut; "
        "64 images with running statistics (fewer than 16)"
    )


def test_no_part_of_a_large_bio_batch_is_too_small():
    for least, size, n in ((16, 32, 33), (16, 40, 41), (2, 5, 6), (1, 2, 3)):
        assert EvalConfig(tta="plate_bn", tta_min=least, tta_batch_size=size)
        assert n // -(-n // size) >= least


def test_batches_in_dataset_order_end_in_a_rest_that_is_counted(dataset):
    e = EvalConfig(tta="batch_bn", tta_min=5, tta_batch_size=10)
    plan = split_plan(split_subset(dataset, "val"), e, 8)
    assert np.concatenate([group.passes[0] for group in plan]).tolist() == list(range(64))
    assert [(len(g), g.adapted) for g in plan] == [*[(10, True)] * 6, (4, False)]
    assert tally(plan, e).line("val", e) == (
        "--tta batch_bn on val: 64 images, 7 batches, 7 passes; statistics of 10 to 10 images; 0 cut; "
        "4 images with running statistics (fewer than 5)"
    )


def test_batches_that_never_reach_the_least_number_are_refused(dataset):
    with pytest.raises(InputError, match=r"8 images .* --tta_min is 16"):
        split_plan(split_subset(dataset, "val"), EvalConfig(tta="batch_bn"), 8)


def test_controls_are_the_first_pass_of_their_bio_batch(dataset):
    e = EvalConfig(tta="controls_bn", tta_min=2)
    val = split_subset(dataset, "val")
    is_control = control_rows(dataset)[val.indices]
    plan = split_plan(val, e, 8)
    for group in plan:
        assert is_control[group.passes[0]].all() and not is_control[np.concatenate(group.passes[1:])].any()
        assert [len(rows) for rows in group.passes] == [2, 7, 7] and group.adapted
        assert len(described(dataset, val, group)) == 1
    assert tally(plan, e).line("val", e) == (
        "--tta controls_bn on val: 64 images, 4 plates, 12 passes; statistics of 2 to 2 control images; "
        "0 cut; 0 images with running statistics (fewer than 2)"
    )


def test_a_plate_with_too_few_controls_is_predicted_with_the_running_statistics(dataset):
    e = EvalConfig(tta="controls_bn", tta_min=3)
    plan = split_plan(split_subset(dataset, "val"), e, 8)
    assert not any(group.adapted for group in plan) and tally(plan, e).unadapted == 64
    assert max(len(rows) for group in plan for rows in group.passes) == 8


def test_controls_alone_are_one_pass():
    rows, yes = np.arange(4), np.ones(4, dtype=bool)
    assert [p.tolist() for p in controls_plan(rows, yes, 2, 8).passes] == [[0, 1, 2, 3]]


def test_adapted_has_the_length_of_its_rows():
    assert len(BioBatch((np.arange(3), np.arange(2)), True)) == 5


# how a bio-batch is cut: at random, alike every time, with all its plates in every part


@pytest.mark.parametrize("most", [77, 154])
def test_parts_of_an_experiment_contain_its_plates_in_proportion(most):
    """Four plates of 308 wells, as in RxRx1; each part within five deviations of a quarter a plate."""
    plates = np.repeat(np.arange(4), 308)
    rows = 1000 + np.arange(len(plates))
    parts = random_parts(rows, most, seed=17)
    assert np.array_equal(np.sort(np.concatenate(parts)), rows)
    for part in parts:
        counts = np.bincount(plates[part - 1000], minlength=4)
        deviation = np.sqrt(len(part) * 3 / 16 * (1 - len(part) / len(rows)))
        assert np.abs(counts - len(part) / 4).max() <= 5 * deviation
        assert np.array_equal(part, np.sort(part))


def test_parts_are_drawn_alike_every_time_and_otherwise_for_each_bio_batch(dataset):
    e = EvalConfig(tta="plate_bn", tta_group="experiment", tta_min=2, tta_batch_size=6)
    plan, again = (split_plan(split_subset(dataset, "val"), e, 8) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(plan[0].passes, again[0].passes, strict=True))
    one, other = (np.argsort(np.argsort(np.concatenate(group.passes))) for group in plan[:2])
    assert len(one) == len(other) and not np.array_equal(one, other)


def test_a_bio_batch_that_is_not_cut_stays_in_dataset_order():
    (whole,) = random_parts(np.arange(5, 12), 7, seed=3)
    assert whole.tolist() == list(range(5, 12))


# controls


def edited(sim_root, tmp_path, change):
    return load_dataset("rxrx1", runs.small_root(sim_root, tmp_path / "edited", change))


def test_control_wells_are_those_that_metadata_calls_so(dataset, root):
    rows = pd.read_csv(root / "rxrx1_v1.0" / "metadata.csv")
    found = control_rows(dataset)
    assert found.dtype == bool and found.tolist() == (rows["well_type"] == "negative_control").tolist()
    assert found.mean() == 1 / 8


def test_positive_controls_are_controls(sim_root, tmp_path):
    def change(rows):
        return rows.assign(well_type=rows["well_type"].mask(rows["sirna_id"] == 3, "positive_control"))

    data = edited(sim_root, tmp_path, change)
    assert control_rows(data).tolist() == np.isin(data.y_array.numpy(), [3, 8]).tolist()


def test_without_the_column_the_class_ids_of_rxrx1_say_it(sim_root, tmp_path):
    data = edited(sim_root, tmp_path, lambda rows: rows.drop(columns="well_type"))
    with pytest.raises(InputError, match=r"well_type.* 9 classes"):
        control_rows(data)
    data._n_classes, data._y_array = 1139, data._y_array + 1103  # 1103..1111
    assert control_rows(data).tolist() == (data.y_array >= 1108).tolist()


def test_controls_of_six_channels_are_those_of_their_table(six_root):
    rows = pd.read_csv(six_root / "rxrx1" / "metadata.csv")
    found = control_rows(load_dataset("rxrx1_6ch", six_root))
    assert found.tolist() == (rows["well_type"] != "treatment").tolist() and 0 < found.mean() < 1


@pytest.mark.parametrize(("value", "shown"), [("control", "'control'"), (None, "nothing")])
def test_another_kind_of_well_is_named(sim_root, tmp_path, value, shown):
    def change(rows):
        rows = rows.reset_index(drop=True)
        rows.loc[4, "well_type"] = value
        return rows

    with pytest.raises(InputError, match=f"well_type .*line 6 has {shown}, and 1 of"):
        control_rows(edited(sim_root, tmp_path, change))


# flags


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tta": "adabn"}, "--tta .*got 'adabn'"),
        ({"tta": "plate_bn", "tta_group": "well"}, "--tta_group .*got 'well'"),
        ({"tta": "mixed_bn", "tta_prior": -1.0}, "--tta_prior .*got -1.0"),
        ({"tta": "plate_bn", "tta_min": 0}, "--tta_min .*got 0"),
        ({"tta": "plate_bn", "tta_batch_size": 31}, "32 or more .*got 31"),
        ({"tta": "batch_bn", "tta_batch_size": 15}, "16 or more .*got 15"),
    ],
)
def test_values_that_make_no_sense_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        run_config("ERM", **given)


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({"tta_group": "plate"}, "--tta plate_bn or mixed_bn or controls_bn"),
        ({"tta": "batch_bn", "tta_group": "plate"}, "--tta plate_bn or mixed_bn or controls_bn"),
        ({"tta": "controls_bn", "tta_batch_size": 64}, "--tta batch_bn or plate_bn or mixed_bn"),
        (
            {"tta": "lame", "tta_batch_size": 64},
            "--tta batch_bn or plate_bn or mixed_bn or eb_bn or unmix_tns or tent or sar;",
        ),
        ({"tta": "plate_bn", "tta_prior": 4.0}, "--tta mixed_bn"),
        ({"tta_min": 4}, "--tta batch_bn or plate_bn or mixed_bn or controls_bn"),
        ({"tta": "plate_bn", "eval_loader": "group"}, "--tta none"),
    ],
)
def test_idle_flags_are_refused(given, needs):
    with pytest.raises(InputError, match=f"works with {needs}"):
        run_config("ERM", **given)


@pytest.mark.parametrize(
    ("e", "word"),
    [
        (EvalConfig(), None),
        (EvalConfig(tta="plate_bn"), "plate_bn"),
        (EvalConfig(tta="batch_bn", tta_group="experiment", tta_prior=3.0), "batch_bn"),
        (EvalConfig(tta="plate_bn", tta_group="experiment", tta_batch_size=128), "plate_bn_experiment_b128"),
        (EvalConfig(tta="mixed_bn", tta_prior=0.5, tta_min=4), "mixed_bn_m0.5_min4"),
        (EvalConfig(tta="controls_bn", tta_batch_size=64), "controls_bn"),
        (EvalConfig(tta="tent", tta_group="experiment", tta_batch_size=64), "tent_experiment_b64"),
        (EvalConfig(tta="label_shift", tta_batch_size=64, tta_min=4), "label_shift_min4"),
    ],
)
def test_records_name_the_adaptation_with_what_is_not_the_default(e, word):
    assert e.adaptation == word


def test_every_setting_is_in_the_digest():
    base = run_config("ERM", tta="plate_bn").digest()
    others = [
        run_config("ERM", tta="plate_bn", **more).digest()
        for more in ({"tta_group": "experiment"}, {"tta_batch_size": 64}, {"tta_min": 4})
    ]
    assert len({base, *others, run_config("ERM").digest()}) == 5


@pytest.mark.parametrize(
    ("e", "said"),
    [
        (EvalConfig(tta="plate_bn"), "8 plates, .*8 images, .*--tta_min 16 images.*--tta_group experiment"),
        (EvalConfig(tta="controls_bn", tta_min=2), "8 plates, .*8 images, .*--tta_min 2 controls"),
        (
            EvalConfig(tta="mixed_bn", tta_group="experiment", tta_min=17),
            "4 experiments, .*16 images, .*--tta_min 17 images",
        ),
    ],
    ids=lambda e: getattr(e, "adaptation", None),
)
def test_a_split_of_which_no_image_would_be_adapted_is_refused(dataset, e, said):
    plans = {split: split_plan(split_subset(dataset, split), e, 8) for split in ("test", "id_test")}
    with pytest.raises(InputError, match=f"--tta {e.tta} .*id_test.*{said}"):
        check_plans(plans, e)
    check_plans({"test": plans["test"]}, e)


def test_a_split_smaller_than_its_only_batch_is_refused(dataset):
    e = EvalConfig(tta="batch_bn")
    plan = split_plan(split_subset(dataset, "val", frac=0.2), e, 16)
    with pytest.raises(InputError, match=r"1 batches.* 13 images.*--tta_min"):
        check_plans({"val": plan}, e)
