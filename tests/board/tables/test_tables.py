"""leaderboard/tables.py: whose numbers stand in which row, against what they are tested, what is refused."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from scipy import stats

from abra_wilds.board.tables import build as tables
from abra_wilds.board.tables.formats import csv_text, grid, markdown
from abra_wilds.commands.board.tables import main as tables_main
from abra_wilds.engine.evaluation.scores import SCREEN_SCORES
from abra_wilds.errors import InputError
from abra_wilds.results.records import RESULTS, read_records
from abra_wilds.results.runs import find_runs
from tests.board import boards
from tests.board.boards import change_records, make_run, make_runs, seconds_of_children
from tests.board.tables.table_boards import ACCS, built, row_of, set_acc


def test_rows_are_the_papers_in_its_order_and_ours_come_after(made):
    table = built(made, 3)
    names = ["ERM", "SimCLR", "BYOL", "DINOv2", "DSU", "AdvStyle", "AdvBayes", "ABRA"]
    assert [r.label for r in table.rows] == [*names, "AdaBN", "AdvStyle", "ABRA", "MixStyle", "MixStyle"]
    assert [r.label for r in table.rows if r.missing] == [*names[1:7], "AdvStyle"]
    assert [r.key[1] for r in table.rows if r.published is None] == [None, "plate_bn"]
    assert table.simulated and table.title.startswith("SIMULATED DATA: Table 3")
    assert row_of(table, "ABRA").published.accs["Total"] == (39.6, 0.2)


def test_a_cell_is_the_mean_and_sample_deviation_of_its_records(made):
    table = built(made, 3)
    for method, accs in ACCS.items():
        for tta, by_seed in zip((None, "plate_bn"), accs, strict=True):
            row = row_of(table, method, tta)
            for i, column in enumerate(("HEPG2", "HUVEC", "RPE", "U2OS", "Total")):
                mean = 100 * np.mean(by_seed) + i * (column != "Total")
                assert row.mean_std(column) == pytest.approx((mean, 100 * np.std(by_seed, ddof=1)))
            assert row.seeds("Total") == (0, 1, 2)


def test_rows_are_tested_by_seed_against_erm_and_adapted_ones_against_adabn(made):
    table = built(made, 3)
    for i, tta in enumerate((None, "plate_bn")):
        assert row_of(table, "ERM", tta).comparison.untested == "reference"
        for method in ("ABRA", "MixStyle"):
            a, b = np.array(ACCS[method][i]), np.array(ACCS["ERM"][i])
            found = row_of(table, method, tta).comparison
            assert found.against == ("ERM", "AdaBN")[i] and found.seeds == (0, 1, 2)
            assert found.result.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
            assert found.result.difference == pytest.approx(100 * (a - b).mean())
            assert found.result.d_z == pytest.approx((a - b).mean() / (a - b).std(ddof=1))


def test_holm_counts_all_tests_of_the_table(made):
    tested = [r.comparison for r in built(made, 3).rows if r.comparison.p_holm is not None]
    ps = sorted(c.result.p for c in tested)
    assert len(ps) == 4
    steps = np.minimum(1, np.maximum.accumulate([(4 - i) * p for i, p in enumerate(ps)]))
    assert sorted(c.p_holm for c in tested) == pytest.approx(list(steps))


def test_only_seeds_that_both_rows_have_are_paired_and_the_table_says_so(mine):
    shutil.rmtree(mine / "ERM" / "8")
    table = built(mine, 3)
    found = row_of(table, "ABRA")
    assert found.comparison.seeds == (0, 2) and found.comparison.result.n == 2
    assert found.seeds("Total") == (0, 1, 2) and row_of(table, "ERM").seeds("Total") == (0, 2)
    assert "ABRA: compared by seeds 0, 2, which ERM has too." in table.notes


@pytest.mark.parametrize(
    ("lost", "key", "why"),
    [
        (["ABRA/8", "ABRA/9"], ("ABRA", None), "one seed"),
        (["ERM"], ("ABRA", None), "no rows of ERM"),
        (["ERM"], ("ABRA", "plate_bn"), "no rows of AdaBN"),
        (["ERM/8", "ERM/9", "ABRA/7"], ("ABRA", None), "no seed with ERM"),
    ],
)
def test_without_seeds_that_both_have_nothing_is_tested_and_the_row_says_why(mine, lost, key, why):
    for name in lost:
        shutil.rmtree(mine / name)
    row = row_of(built(mine, 3), *key)
    assert row.comparison.untested == why and row.comparison.p_holm is None
    if why == "one seed":
        assert row.mean_std("Total") == (pytest.approx(32.5), None)


def test_equal_runs_have_no_p(screen, tmp_path):
    for method in ("ERM", "ABRA"):
        make_runs(screen, tmp_path / method, algorithm=method)
    found = row_of(built(tmp_path, 3), "ABRA").comparison
    assert found.untested == "same difference by all seeds" and found.result.difference == 0


def test_table_5_shows_three_splits_and_tests_the_last(made):
    table = built(made, 5)
    assert list(table.layout.columns) == ["Val", "Test ID", "Test OOD"]
    records = [r for p in (made / "ABRA").glob(f"*/{RESULTS}") for r in read_records(p)]
    for column, split in zip(table.layout.columns, ("val", "id_test", "test"), strict=True):
        accs = [100 * r.acc for r in records if r.split == split]
        assert row_of(table, "ABRA").mean_std(column) == pytest.approx((np.mean(accs), np.std(accs, ddof=1)))
    assert table.rows[0].key == ("ABRA", None) and row_of(table, "ERM").label == "ERM (grid search)"
    assert row_of(table, "ERM", "plate_bn").published is None
    assert row_of(table, "ABRA").comparison.result.difference == pytest.approx(100 * (1.0 - 0.915) / 3)


def test_another_adaptation_may_stand_for_the_papers(screen, tmp_path):
    """Experiments in place of plates: AdaBN and ABRA with TTA are found, and tested against each other."""
    flags = {"tta": "plate_bn_experiment", "adapted": {"tta": "plate_bn", "tta_group": "experiment"}}
    for method in ("ERM", "ABRA"):
        for seed in (0, 1, 2):
            run = make_run(screen, tmp_path / method / str(seed), seed, algorithm=method, **flags)
            set_acc(run / "tta_plate_bn_experiment", ACCS[method][1][seed])
    assert row_of(built(tmp_path, 3), "ABRA", "plate_bn").missing
    table = built(tmp_path, 3, tta="plate_bn_experiment")
    row = row_of(table, "ABRA", "plate_bn_experiment")
    assert row.published.accs["Total"] == (39.3, 0.3) and row.comparison.against == "AdaBN"
    assert row.comparison.result.p == pytest.approx(stats.ttest_rel(ACCS["ABRA"][1], ACCS["ERM"][1]).pvalue)
    assert not [r for r in table.rows if r.published is None]
    assert any("stand ours with plate_bn_experiment" in note for note in table.notes)


def test_table_4_is_of_id_test(made):
    (record,) = [r for r in read_records(made / "ERM" / "9" / RESULTS) if r.split == "id_test"]
    row = row_of(built(made, 4), "ERM")
    assert row.accs["Total"][0] == 100 * record.acc and row.accs["RPE"][0] == 100 * record.acc_by_cell["RPE"]


def test_six_channels_count_the_last_epoch_and_have_two_tables(screen, tmp_path):
    for method, model in (("ERM", "resnet50"), ("DINOv2", "vit_small"), ("DANN", "densenet161")):
        values = {"algorithm": method, "model": model, "pretrained": False}
        run = make_run(screen, tmp_path / method, 0, dataset="rxrx1_6ch", split_scheme="official", **values)
        change_records(run, checkpoint="last")
    two, six = tables.build_tables(find_runs(tmp_path), [2, 6])
    assert [r.key[0] for r in two.rows if not r.missing] == ["ERM", "DINOv2"]
    assert [(r.label, r.key[0]) for r in six.rows if not r.missing] == [("Gradient Reversal", "DANN")]
    assert (
        "Runs on this data set that are not of this table: DANN by densenet161, official splits." in two.notes
    )
    change_records(tmp_path / "DANN", checkpoint="best")
    with pytest.raises(InputError, match="no run belongs to Table 6"):
        built(tmp_path, 6)


def test_scores_of_a_screen_are_columns_where_records_have_them(screen, tmp_path):
    """Table 2 (six channels), two seeds of ABRA with scores and one of ERM of an older version without."""
    values = {"model": "resnet50", "pretrained": False, "dataset": "rxrx1_6ch", "split_scheme": "official"}
    accs = {0: 0.25, 1: 0.75}
    for method, seed in (("ABRA", 0), ("ABRA", 1), ("ERM", 0)):
        run = make_run(screen, tmp_path / method / str(seed), seed, algorithm=method, **values)
        scores = dict(zip(SCREEN_SCORES, (accs[seed], 0.5, 1.0), strict=True))
        change_records(run, checkpoint="last", acc_screen=scores if method == "ABRA" else {})
    table = built(tmp_path, 2)
    assert table.columns == [*table.layout.columns, "Treatments", "Wells", "Treatment wells"]
    assert row_of(table, "ABRA").mean_std("Treatments") == pytest.approx((50.0, 25 * 2**0.5))
    headers, cells = [name for _, name in grid(table)[0]], grid(table)[1]
    shown = {row[0].split()[0]: row for row in cells if row[1] == "-"}
    first = headers.index("Treatments")
    assert shown["ABRA"][first : first + 3] == ["50.0 ± 35.4", "50.0 ± 0.0", "100.0 ± 0.0"]
    assert shown["ERM"][first : first + 3] == ["missing"] * 3 and headers.count("Wells") == 1
    assert "Wells_mean" in csv_text(table) and any("Treatments: images" in note for note in table.notes)
    for seed in accs:
        change_records(tmp_path / "ABRA" / str(seed), acc_screen={})
    assert built(tmp_path, 2).columns == list(table.layout.columns)


def test_balanced_accuracy_is_a_column_and_the_class_mix_a_note_where_records_have_them(mine):
    assert "Balanced" not in built(mine, 3).columns
    mix = {"plate": 0.25, "experiment": 0.0}
    for seed, acc in enumerate((0.2, 0.3, 0.4)):
        change_records(mine / "ABRA" / f"{9 - seed}", "test", acc_balanced=acc, class_mix=mix)
        change_records(mine / "ABRA" / f"{9 - seed}", "val", acc_balanced=1.0)
    table = built(mine, 3)
    assert table.columns == [*table.layout.columns, "Balanced"]
    assert row_of(table, "ABRA").mean_std("Balanced") == pytest.approx((30.0, 10.0))
    headers, cells = [name for _, name in grid(table)[0]], grid(table)[1]
    shown = {row[0].split()[0]: row[headers.index("Balanced")] for row in cells if row[1] == "-"}
    assert (shown["ABRA"], shown["ERM"]) == ("30.0 ± 10.0", "missing")
    (said,) = [note for note in table.notes if note.startswith("Class mix")]
    assert said.endswith("each): test 0.25 over plates, 0.00 over experiments.")
    assert any(note.startswith("Balanced: of Test OOD") for note in table.notes)
    assert not any("Treatments" in note for note in table.notes)


def test_real_runs_are_not_called_simulated(made, tmp_path):
    shutil.copytree(made, tmp_path / "real")
    for path in (tmp_path / "real").rglob(RESULTS):
        change_records(path.parent, simulated=False)
    table = built(tmp_path / "real", 3)
    assert not table.simulated and "SIMULATED" not in "".join([table.title, *table.notes])


def test_a_run_without_records_is_named(mine, screen):
    (make_run(screen, mine / "ABRA" / "going", 7) / RESULTS).unlink()
    assert "Runs without a record yet: runs/ABRA/going." in built(mine, 3).notes


def test_a_split_that_some_seeds_lack_is_named(mine):
    path = mine / "ABRA" / "9" / RESULTS
    lines = [line for line in path.read_text().splitlines(True) if json.loads(line)["split"] != "val"]
    path.write_text("".join(lines))
    table = built(mine, 5)
    assert row_of(table, "ABRA").seeds("Val") == (1, 2)
    assert "ABRA: seeds 0, 1, 2 in Test OOD, and others or none in Val." in table.notes


def test_budgets_are_those_of_the_records(mine):
    for seed, images in enumerate((100, 200, 300)):
        spent = boards.CONSUMED | {"images": images, "forward_equivalents": 500}
        change_records(mine / "ABRA" / f"{9 - seed}", consumed=spent)
    change_records(mine / "ERM" / "9", consumed={})
    table = built(mine, 3)
    found = row_of(table, "ABRA").budget
    assert (found.images, found.forwards, found.outside) == (200, pytest.approx(1500 / 600), "ImageNet")
    unknown = row_of(table, "ERM").budget
    assert (unknown.images, unknown.forwards) == (None, None) and "not recorded" in unknown.outside
    assert row_of(table, "DSU").budget is None


def test_a_classifier_on_frozen_weights_has_drawn_no_images(mine):
    for folder in (mine / "ABRA").glob("*"):
        spent = boards.CONSUMED | {"images": 0, "forward_equivalents": 0, "outside_data": None}
        change_records(folder, consumed=spent)
    found = row_of(built(mine, 3), "ABRA").budget
    assert (found.images, found.forwards, found.outside) == (0, None, "none")


def test_the_page_says_what_of_the_published_p_values_can_be_had(made):
    said = " ".join(built(made, 3).notes)
    assert "Published p: as the paper prints it" in said and "as if seeds were not paired" in said
    assert (
        "The published p of SimCLR, BYOL, DINOv2, DSU, AdvBayes, ABRA is smaller than any such test can "
        "give with the printed means" in said
    )
    assert row_of(built(made, 3), "ABRA").published.p == 7.5e-6
    assert "more than a factor of ten for AdvStyle with TTA, ABRA with TTA." in said


def test_four_files_a_table_are_written_and_a_narrow_form_is_printed(made, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert tables_main([str(made), "--out", str(out), "--table", "3", "5", "3"]) == 0
    endings = ("csv", "html", "md", "tex")
    expected = [f"table_{n}.{ending}" for n in (3, 5) for ending in endings]
    assert sorted(p.name for p in out.iterdir()) == expected
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 110 and printed[-1].endswith(str(out))
    three = built(made, 3)
    for row in three.rows:
        shown = [line for line in printed if line.startswith(row.label + " ")]
        assert bool(shown) != row.missing
    assert f"{sum(row.missing for row in three.rows)} rows of the paper have no run." in printed


def test_without_a_terminal_and_a_folder_the_markdown_is_printed(made, capsys):
    assert tables_main([str(made), "--table", "3"]) == 0
    assert capsys.readouterr().out == markdown(built(made, 3)) + "\n"


def test_three_seeds_of_the_official_size_take_seconds_without_torch_and_pandas(tmp_path):
    """84,898 predictions by each of two methods and three seeds; only their records are read."""
    screen = boards.make_screen(tmp_path / "screen", "full")
    for method in ("ERM", "ABRA"):
        make_runs(screen, tmp_path / "runs" / method, algorithm=method)
    began = seconds_of_children()
    absent = "torch torchvision pandas wilds"
    _, _, peak = boards.script("tables.py", "runs", "--out", "out", cwd=tmp_path, absent=absent)
    assert seconds_of_children() - began < 30 and peak < 512 * 1024
    with (tmp_path / "out" / "table_3.csv").open() as file:
        (abra,) = [r for r in csv.DictReader(file) if (r["method"], r["tta"]) == ("ABRA", "")]
    own = [r for path in (tmp_path / "runs" / "ABRA").rglob(RESULTS) for r in read_records(path)]
    accs = [100 * r.acc for r in own if r.split == "test"]
    assert float(abra["Total_mean"]) == pytest.approx(np.mean(accs))
    assert float(abra["Total_std"]) == pytest.approx(np.std(accs, ddof=1))


def test_a_row_of_several_commits_is_noted(mine):
    assert not [note for note in built(mine, 3).notes if "commits" in note]
    change_records(mine / "ABRA" / "9", "test", commit="fed3210")
    table = built(mine, 3)
    label = row_of(table, "ABRA").label
    assert f"{label}: computed by several commits of the source, 0123abc, fed3210." in table.notes
