"""Verdicts on adaptations, computed by hand."""

import pytest

from abra_wilds.analysis.verdicts import advised, means, settled, verdicts
from abra_wilds.board.figures.shift_page import accuracy_cells, page, verdict_cells
from abra_wilds.config.evaluation import ADVICE
from abra_wilds.errors import InputError
from tests.board.figures.figure_boards import label_shifts

AT = (0.1, 8)


def model(rows, seed=0):
    """Rows with what is known of their model."""
    about = {"config_sha256": f"c{seed}", "checkpoint": "best", "checkpoint_sha256": f"m{seed}", "seed": seed}
    return [{**about, "group": "plate", "simulated": False, **row} for row in rows]


def by_name(rows):
    """The verdict on each adaptation."""
    return {v.adapter: v for v in verdicts(rows)}


def test_the_worst_cell_is_that_of_the_mean_over_models_and_the_worst_of_one_model_is_told():
    """Of 100 images 2 are lost in one cell by one of two models: 1 point in the mean, 2 in that model."""
    rows = model(label_shifts({"a": {AT: [2, 0]}})) + model(label_shifts({"a": {}}), 1)
    v = by_name(rows)["a"]
    assert (v.cell, v.cell_of_model) == pytest.approx((1.0, 2.0)) and v.harmless
    worse = model(label_shifts({"a": {AT: [3, 0]}})) + model(label_shifts({"a": {}}), 1)
    v = by_name(worse)["a"]
    assert v.cell == pytest.approx(1.5) and not v.harmless
    assert settled(rows) == "Cannot hurt: plate_bn; a." and settled(worse) == "Cannot hurt: plate_bn."


def test_losses_of_one_cell_are_not_made_good_by_gains_of_another():
    v = by_name(model(label_shifts({"a": {AT: [0, 2], (None, 8): [-9, -9]}})))["a"]
    assert v.cell == pytest.approx(2) and not v.harmless


def test_a_bio_batch_may_lose_three_points_over_its_cells_though_no_cell_loses_one():
    """Plate 1 loses x of 40 images in each of 6 cells, and plate 2 gains as many of 60."""
    shifts = [(a, n) for a in (None, 0.1) for n in (1, 8, None)]
    for lost, harmless in ((1, True), (2, False)):
        v = by_name(model(label_shifts({"a": {at: [lost, -lost] for at in shifts}})))["a"]
        assert v.cell == pytest.approx(0) and v.bio_batch == pytest.approx(100 * lost / 40)
        assert v.harmless is harmless


def test_bio_batches_of_one_name_are_averaged_over_seeds_and_kept_apart_over_folds():
    shifts = [(a, n) for a in (None, 0.1) for n in (1, 8, None)]
    bad, good = ({"a": {at: [lost, -lost] for at in shifts}} for lost in (2, 0))
    seeds = model(label_shifts(bad)) + model(label_shifts(good), 1)
    folds = model(label_shifts(bad)) + model(label_shifts(good, data="e"), 1)
    assert by_name(seeds)["a"].bio_batch == pytest.approx(2.5)
    assert by_name(folds)["a"].bio_batch == pytest.approx(5)


def test_near_best_counts_cells_within_a_point_of_the_best_and_kept_compares_with_plate_bn():
    """plate_bn gains 10 of 100 everywhere; a gains 9.0 in one cell, 4 on whole bio-batches as they are."""
    v = by_name(model(label_shifts({"a": {AT: [-9, 0], (None, None): [-2, -2]}})))
    assert v["a"].near_best == pytest.approx(1 / 6) and v["plate_bn"].near_best == 1
    assert v["a"].kept == pytest.approx(0.4) and v["plate_bn"].kept == 1
    rows = model(label_shifts({"a": {}}))
    for row in rows:
        row["right"] = {**row["right"], "plate_bn": row["right"]["none"]}
    assert by_name(rows)["a"].kept is None


def test_an_adaptation_with_controls_is_no_rival_of_one_without():
    """with gains 10 of 100 in every cell, plate_bn as many, a 9 in one."""
    shifts = [(a, n) for a in (None, 0.1) for n in (1, 8, None)]
    gains = {"eb_bn,controls=all": {at: [-9, -9] for at in shifts}, "a": {AT: [-5, -4]}}
    v = by_name(model(label_shifts(gains)))
    assert v["plate_bn"].near_best == 1 and v["a"].near_best == pytest.approx(1 / 6)
    assert v["eb_bn,controls=all"].near_best == 1


def test_the_record_of_the_advice_is_that_of_cells_one_after_the_other():
    """None has 72 of 100. Adapting gains 3, changes nothing, loses 4; single images are not asked about."""
    rows = model(label_shifts({"a": {(None, 8): [-3, 0], (0.1, None): [4, 0], (0.1, 1): [9, 9]}}))
    said = {
        (None, 8): (4, 0, 0, 75),
        (None, None): (0, 1, 3, 72),
        (0.1, 8): (2, 2, 0, 72),
        (0.1, None): (3, 1, 0, 69),
        (0.1, 1): (4, 0, 0, 54),
        (None, 1): (0, 0, 4, 72),
    }
    for row in rows:
        row["advice"] = {"a": dict(zip((*ADVICE, "right"), said[row["alpha"], row["size"]], strict=True))}
    (found,) = advised(rows)
    assert found.counts == {"adapt": [1, 0, 1], "do not adapt": [0, 0, 0], "cannot tell": [0, 2, 0]}
    assert list(found.followed) == pytest.approx([0, 0, 0, -3])
    assert (found.cells, found.right, found.right_if_always) == (4, 3, 3)
    text = " ".join(page("T", {"ERM": rows}).split())
    assert "within 1 point of it, in 75 %; adapting always does in 75 %" in text
    assert "better in 75 % of the cells, and at most 3.0 below" in text
    assert "| adapt | 1 | 0 | 1 |" in text and not advised(model(label_shifts({"a": {}})))


def test_means_and_images_over_models():
    rows = model(label_shifts({"a": {AT: [2, 0]}})) + model(label_shifts({"a": {AT: [0, 4]}}), 1)
    found = {(m.adapter, m.alpha, m.size): m for m in means(rows)}
    m = found["a", *AT]
    assert (m.acc, m.loss, m.balanced_acc) == pytest.approx((0.69, 3, 0.345))
    assert m.images == 25 and found["none", None, 1].acc == pytest.approx(0.72)


def test_adaptations_that_not_all_models_have_are_left_out_and_other_grids_are_refused():
    rows = model(label_shifts({"a": {}})) + model(label_shifts(), 1)
    assert by_name(rows).keys() == {"plate_bn"}
    with pytest.raises(InputError, match="other grids"):
        verdicts(model(label_shifts()) + model(label_shifts(draws=3), 1))


def test_the_page_holds_both_tables_of_every_row():
    rows = model(label_shifts({"a": {AT: [3, 0]}}))
    assert verdict_cells(rows)[2] == ["a", "no", "-3.0", "-3.0", "-1.2", "0 %", "0 %"]
    assert accuracy_cells(rows)[:2] == [
        ["alpha", "n", "drawn", "none", "plate_bn", "a"],
        ["inf", "1", "25.0", "72.0 / 36.0", "82.0 / 41.0", "72.0 / 36.0"],
    ]
    text = page("Title", {"ERM": rows, "ABRA": model([{**r, "simulated": True} for r in rows], 1)})
    assert (
        text.startswith("# Title\n") and "## ERM\n\n1 model (seed 0), 2 draws of each plate of test." in text
    )
    assert text.count("\n| a | no | -3.0 |") == 2
    assert "Simulated data." not in text and "Simulated data." in page(
        "T", {"A": model([{**r, "simulated": True} for r in rows])}
    )
