"""leaderboard/report.py: what the page says against the files it was made of, and what is refused."""

from __future__ import annotations

import html
import re
import statistics

import numpy as np
import pandas as pd
import pytest

from abra_wilds.board.figures.style import new_figure, save_figure
from abra_wilds.board.report import page as report
from abra_wilds.board.report.screen import MOST_PLATES, plates, read_screen
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.runs import find_runs
from abra_wilds.simulate import preset
from abra_wilds.simulate.design import metadata_table
from tests import runs as tiny
from tests.board import boards
from tests.board.report.report_boards import Page, make_logs

MIX = {"plate": 0.25, "experiment": 0.5}


@pytest.fixture(scope="module")
def logs(screen, tmp_path_factory):
    return make_logs(screen, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(logs, screen):
    return report.report(find_runs(logs), screen.root, logs.parent / "figures")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def right(screen, split, seed):
    return boards.guesses(screen, split, seed) == screen.rows[split]["sirna_id"].to_numpy()


def test_results_are_means_and_sample_deviations_of_recounted_predictions(page, screen):
    header, *rows = page.table("mean ± sample standard deviation")
    assert {(r[1], r[2]) for r in rows} == {("OOD test", "best")}, "the rest can be opened"
    rows += page.table("on other splits and of other epochs")[1:]
    assert header[:7] == ["Method", "Split", "Epoch", "Images", "Seeds", "n", "All images"]
    by_name = {(r[0], r[1]): r for r in rows}
    for split, name in (("test", "OOD test"), ("val", "OOD validation"), ("id_test", "ID test")):
        accs = [100 * right(screen, split, seed).mean() for seed in (0, 1)]
        row = by_name["ABRA", name]
        assert row[6] == f"{np.mean(accs):.1f} ± {statistics.stdev(accs):.1f}"
        assert row[3:6] == [f"{len(screen.rows[split]):,}", "0, 1", "2"]
        line = (screen.rows[split]["cell_type"] == "RPE").to_numpy()
        cells = [100 * right(screen, split, seed)[line].mean() for seed in (0, 1)]
        assert row[header.index("RPE")] == f"{np.mean(cells):.1f} ± {statistics.stdev(cells):.1f}"
    assert by_name["ERM", "OOD test"][6] == f"{100 * right(screen, 'test', 0).mean():.1f}"
    assert ("ABRA + plate_bn", "OOD test") in by_name


def test_the_summary_names_the_best_row_and_calls_simulated_data_so(text):
    said = re.search(r'<p id="summary">(.*?)</p>', text, flags=re.S)[1]
    assert said.startswith("3 runs of ABRA, ERM on a simulated screen in the format of RxRx1-WILDS, with ")
    assert "Highest on OOD test is ERM:" in said or "Highest on OOD test is ABRA" in said
    assert re.search(r"<strong>SIMULATED DATA", text) and "were made by a simulator" in text
    assert text.count("<title>SIMULATED DATA") == 1


def test_the_page_leads_with_what_adapting_changes_and_where_it_fails(text, page, screen):
    lead = text[: text.index("<nav")]
    both = pd.concat([screen.rows["test"].assign(right=right(screen, "test", seed)) for seed in (0, 1)])
    found = re.search(r"Of (\d+) experiments, (.*?) is least right on (.*?)\.</p>", lead)
    assert int(found[1]) == both["experiment"].nunique() and found[3].count("%") == min(3, int(found[1]))
    rows = {r[0]: float(r[6].split()[0]) for r in page.table("mean ± sample standard deviation")[1:]}
    change = re.search(r"changes this by (.*?) points for ABRA \+ plate_bn", lead)[1]
    assert float(change) == pytest.approx(rows["ABRA + plate_bn"] - rows["ABRA"], abs=0.11)


def test_balanced_accuracy_and_the_class_mix_stand_beside_the_results(screen, tmp_path):
    logs = make_logs(screen, tmp_path)
    header, *rows = Page(report.report(find_runs(logs))).table("mean ± sample standard deviation")
    at = header.index("Balanced")
    assert header[at - 1] == "All images" and {row[at] for row in rows} == {"-"}
    for seed, acc in ((0, 0.91), (1, 0.93)):
        boards.change_records(logs / f"abra{seed}", "test", acc=0.99, acc_balanced=acc, class_mix=MIX)
    text = report.report(find_runs(logs))
    shown = {(row[0], row[1]): row[at] for row in Page(text).table("mean ± sample standard deviation")[1:]}
    assert shown["ABRA", "OOD test"] == "92.0 ± 1.4" and shown["ERM", "OOD test"] == "-"
    assert "images (balanced 92.0 ± 1.4 %, 2 seeds, best epoch)" in text
    before_tables_of_the_paper = text[: text.index("<details>")]
    assert before_tables_of_the_paper.count("each): test 0.25 over plates, 0.50 over experiments.") == 1


def test_experiments_and_plates_are_recounted_from_metadata(page, screen):
    rows = screen.rows["test"]
    both = pd.concat([rows.assign(right=right(screen, "test", seed)) for seed in (0, 1)])
    header, *shown = page.table("by experiment", "OOD test")
    at = header.index("ABRA, best")
    wanted = both.groupby("experiment")["right"].mean()
    assert {r[0]: r[at] for r in shown} == {name: f"{100 * v:.1f}" for name, v in wanted.items()}


def test_a_well_has_the_shade_of_its_share_at_its_place():
    rows = pd.DataFrame(
        [("E-01", 1, "A01", True), ("E-01", 1, "A01", True), ("E-01", 1, "P24", False)],
        columns=["experiment", "plate", "well", "right"],
    )
    ((only,), message) = plates(rows)
    assert message == "All 1 plates." and only.share == pytest.approx(200 / 3)
    assert '<path class="w4" d="M0 0h' in only.svg and '<path class="w0" d="M23 15h' in only.svg
    assert "66.7 % of images right; 2 wells, 1 of them never right" in only.svg


def test_of_many_plates_the_worst_of_each_experiment_are_drawn():
    rows = [
        (f"E-{e:02}", p, "B02", right)
        for e in range(MOST_PLATES)
        for p in (1, 2)
        for right in ((True, True) if p == 1 + e % 2 else (True, False))
    ]
    maps, message = plates(pd.DataFrame(rows, columns=["experiment", "plate", "well", "right"]))
    assert [m.name for m in maps] == [f"E-{e:02} plate {2 - e % 2}" for e in range(MOST_PLATES)]
    assert f"the other {MOST_PLATES} plates are in the table" in message


def test_wells_of_a_larger_plate_have_a_map_and_other_names_a_sentence():
    rows = pd.DataFrame([("E", 1, "AA30", True)], columns=["experiment", "plate", "well", "right"])
    ((only,), _) = plates(rows)
    assert '<path class="w4" d="M29 26h' in only.svg
    assert plates(rows.assign(well="17")) == ([], "Wells are not named A01 to AF48, so there are no maps.")


def test_confusions_are_counted_pairs(page, screen):
    y = screen.rows["test"]["sirna_id"].to_numpy()
    counts: dict[tuple[int, int], int] = {}
    for seed in (0, 1):
        for true, guess in zip(y, boards.guesses(screen, "test", seed), strict=True):
            if true != guess:
                counts[true, guess] = counts.get((true, guess), 0) + 1
    _, *shown = page.table("confusions of ABRA, best")
    assert len(shown) == 15 and [int(r[2]) for r in shown] == sorted(counts.values(), reverse=True)[:15]
    for true, guess, n, share in shown:
        a, b = (int(cell.split()[0]) for cell in (true, guess))
        assert counts[a, b] == int(n) and share == f"{100 * int(n) / (2 * (y == a).sum()):.0f} %"


def test_curves_are_told_in_words_too(page):
    figures = [a["aria-label"] for tag, a in page.tags if tag == "svg" and "aria-label" in a]
    losses, ratio, accuracy = figures[:3]
    assert "ABRA: objective 3.5 to 1.5" in losses and "R_JS 0.001 to 1e-05" in losses
    assert "lr" not in losses and "ABRA 0.1 to 0.1" in ratio and "OOD validation: ABRA 10 to 30" in accuracy


def test_the_page_asks_nothing_of_a_network_and_has_no_script(page, text):
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_every_link_in_the_page_has_its_place(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    asked = {a[n][1:] for _, a in page.tags for n in ("href", "xlink:href") if a.get(n, "").startswith("#")}
    assert asked <= set(ids)


def test_figures_are_taken_in_with_their_words_and_values(page, text):
    (image,) = [a for tag, a in page.tags if tag == "img"]
    assert image["alt"] == "Simulated data. Shift <by> layer" and image["src"].startswith(
        "data:image/svg+xml"
    )
    assert "TTA is advisable." in text and 'download="figure_8_ABRA_seed0_best.csv"' in text


def test_figures_of_models_that_are_not_among_the_runs_are_left_out_and_named(logs, text):
    said = "Left out, because they show models that are not among these runs"
    assert said not in text
    alone = report.report(find_runs(logs / "erm"), figures=logs.parent / "figures")
    assert f"{said}: figure_8_ABRA_seed0_best." in alone and "TTA is advisable." not in alone
    assert not [a for tag, a in Page(alone).tags if tag == "img"] and "There are no figures of" in alone


def test_a_figure_that_shows_other_models_too_is_left_out_and_bars_stay(logs, tmp_path):
    figure = new_figure("Both", 3, 2, simulated=True)
    digests = [run.config["digest"] for run in find_runs(logs)]
    for name, models in (("figure_7", [*digests, "another"]), ("figure_10_x", digests)):
        save_figure(figure, [{"config_sha256": digest} for digest in models], tmp_path, name)
    save_figure(figure, [{"setting": "res4"}], tmp_path, "figure_5")
    save_figure(figure, [{"config_sha256": digests[0]}], tmp_path, "figure_shift_x")
    shown, strange = report.figures_of(tmp_path, find_runs(logs))
    assert [f.name for f in shown] == ["figure_5", "figure_10_x", "figure_shift_x"] and strange == [
        "figure_7"
    ]


def test_commands_costs_and_versions_are_the_runs_own(page, text):
    assert "python examples/run_expt.py --algorithm ERM --seed 0" in text
    assert re.search(
        r"abra-wilds predict \S+abra1/\S*epoch:best_model.pth\S* --tta plate_bn", html.unescape(text)
    )
    rows = {r[0]: r for r in page.table("consumed")}
    assert rows["ABRA"][3:6] == ["100", "10", "300"] and rows["ABRA"][-3:-1] == ["no", "no"]
    assert rows["ABRA + plate_bn"][-3:] == ["yes", "yes", "ImageNet"]
    assert ["commit", "0123abc"] in page.table("Source and packages")


def test_the_papers_tables_stand_on_the_page_where_they_apply(screen, tmp_path, text):
    assert "Table 3" in text and "SIMULATED DATA: Table" in text
    boards.make_run(screen, tmp_path / "a", 0, model="resnet18")
    assert "None of Tables 2-6" in report.report(find_runs(tmp_path))


def test_without_root_dir_the_page_says_what_is_needed(logs):
    without = report.report(find_runs(logs))
    assert without.count("--root_dir ROOT") == 2 and "Plate maps of" not in without
    assert "There are no figures of" in without


def test_the_same_runs_give_the_same_bytes(logs, screen, text):
    assert report.report(find_runs(logs), screen.root, logs.parent / "figures") == text


def test_the_command_finds_the_figures_beside_the_runs_and_needs_no_torch(logs, screen, tmp_path):
    flags = [logs, "--out", "deep/r.html", "--root_dir", screen.root]
    out, err, _ = boards.script("report.py", *flags, cwd=tmp_path, absent="torch torchvision wilds")
    assert (out, err) == ("deep/r.html\n", "")
    assert 'alt="Simulated data. Shift' in (tmp_path / "deep" / "r.html").read_text()


def test_five_runs_of_the_official_size_stay_below_5_mb(tmp_path):
    table = metadata_table(preset("full"))
    assert len(table) == 125_510
    screen = boards.make_screen(tmp_path / "data", "full")
    boards.make_runs(screen, tmp_path / "runs", range(5))
    text = report.report(find_runs(tmp_path / "runs"), screen.root)
    assert len(text.encode()) < 5e6 and text.count("<figcaption>HEPG2") >= 2


def test_a_run_is_shown_with_its_own_curves(sim_root, tmp_path, monkeypatch):
    from abra_wilds import fit

    tiny.use_tiny_backbone(monkeypatch)
    root = tiny.small_root(sim_root, tmp_path / "data")
    changes = tiny.settings(root, tmp_path / "run", "ABRA")
    fit(run_config("ABRA", **{n: v for n, v in changes.items() if n != "dataset"}))
    made = report.report(find_runs(tmp_path / "run"), root)
    logged = tiny.rows_of(tmp_path / "run" / "train_algo.csv")
    ends = " to ".join(f"{float(row['R_JS']):.3g}" for row in (logged[0], logged[-1]))
    assert f"R_JS {ends}" in html.unescape(made) and "Size of ABRA" in made
    assert "Plate maps of ABRA, OOD test" in made


def test_six_channels_are_split_as_by_the_package(tmp_path):
    table = metadata_table(preset("mini"))
    folder = tmp_path / "rxrx1"
    folder.mkdir()
    table.to_csv(folder / "metadata.csv", index=False)
    rows = read_screen(tmp_path, "rxrx1_6ch", {"split_scheme": "official"}).rows
    assert (rows["split"] == np.where(table["dataset"] == "train", "train", "test")).all()
