"""The table: cell lines apart, intervals over treatments, what is missing, and what is mixed."""

import itertools

import numpy as np
import pandas as pd
import pytest

from abra_wilds.analysis.metrics import cells, relations, table
from abra_wilds.analysis.metrics import wells as wells_module
from abra_wilds.errors import InputError
from tests.analysis.made_wells import RNG, embedded, measured_on, wells

FIELD = ["mAP, treatments", "retrieved, treatments", "CiLISI", "BRAS", "experiment classifier"]
CONTROLS = ["mAP, controls", "retrieved, controls"]
ALL = ["silhouette by experiment", "neighbours of the same experiment", "silhouette by siRNA"]


@pytest.fixture
def both_packages():
    pytest.importorskip("copairs", reason="the extra hcs is not installed")
    pytest.importorskip("scib_metrics", reason="the extra scib is not installed")


def test_every_metric_tells_mixed_embeddings_from_those_apart(both_packages):
    made = wells(3, 20, controls=3)
    versions = {"apart": embedded(made, 5, 0.2), "mixed": embedded(made, 0, 4)}
    entries = table.reviewed(versions, made, "all")
    assert [e["metric"] for e in entries] == CONTROLS + FIELD + ALL
    for e in entries:
        sign = 1 if e["better"] == "higher" else -1
        assert sign * (e["mixed"] - e["apart"]) > 0.1, e["metric"]
        for name in versions:
            low, high = e["interval"][name] or (0, 1)
            assert low - 1e-9 <= e[name] <= high + 1e-9 or "silhouette" in e["metric"]
    assert [e["metric"] for e in table.reviewed(versions, wells(3, 20))] == FIELD, "no control is known"


def test_lines_are_measured_apart_on_shared_treatments_and_averaged_by_wells(monkeypatch):
    made = pd.concat([wells(2, 6), wells(3, 8, 1, "RPE"), wells(1, 8, 1, "U2OS")], ignore_index=True)
    made.loc[made["Metadata_sirna_id"] == 5, "Metadata_control_type"] = "poscon"
    huvec = made.index[(made["Metadata_Cell_Line"] == "HUVEC") & (made["Metadata_sirna_id"] == 0)]
    made.loc[huvec[made["Metadata_Batch"][huvec] == "HUVEC-00"], "Metadata_sirna_id"] = 90
    chosen = wells_module.measurable(made)
    assert list(chosen) == ["HUVEC", "RPE"], "U2OS has one experiment"
    assert set(made["Metadata_sirna_id"][chosen["HUVEC"]]) == {1, 2, 3, 4}
    monkeypatch.setattr(table, "METRICS", [m for m in table.METRICS if "neighbours" in m.names[0]])
    f = RNG(0).normal(size=(len(made), 4))
    (entry,) = table.reviewed({"none": f}, made, "all")
    n = {line: len(rows) for line, rows in chosen.items()}
    wells_of = {line: row["wells"] for line, row in entry["by_cell_line"].items()}
    assert wells_of == n == {"HUVEC": 16, "RPE": 21}
    assert entry["none"] == pytest.approx(sum(entry["by_cell_line"][k]["none"] * n[k] / 37 for k in n))


def test_an_interval_is_that_of_treatments_drawn_again():
    """Against the normal approximation, of 200 treatments in each of two lines of weights 3 : 1."""
    rng = RNG(0)
    values = [rng.normal(size=200), rng.normal(1, 2, size=200)]
    low, high = wells_module.resampled([np.stack([v, np.ones(200)]) for v in values], [3, 1])
    mean = 0.75 * values[0].mean() + 0.25 * values[1].mean()
    error = ((0.75 * values[0].std()) ** 2 / 200 + (0.25 * values[1].std()) ** 2 / 200) ** 0.5
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)
    assert wells_module.resampled([np.stack([values[0], np.ones(200)]), None], [3, 1]) is None


def test_of_many_wells_whole_classes_are_drawn_by_the_seed():
    label = np.repeat(np.arange(50), 4)
    rows = wells_module.whole_classes(label, 42, 0)
    assert len(rows) == 40 and np.isin(label, label[rows]).sum() == 40
    np.testing.assert_array_equal(rows, wells_module.whole_classes(label, 42, 0))
    assert set(label[rows]) != set(label[wells_module.whole_classes(label, 42, 1)])
    assert len(wells_module.whole_classes(label, 1, 0)) == 8, "two classes at least"
    assert len(wells_module.whole_classes(label, 2000, 0)) == 200


def test_one_experiment_a_line_cannot_be_measured():
    with pytest.raises(InputError, match="two experiments"):
        wells_module.measurable(pd.concat([wells(1), wells(1, line="RPE")], ignore_index=True))


@pytest.mark.parametrize(("package", "extra"), [("copairs", r"\[hcs\]"), ("scib_metrics", r"\[scib\]")])
def test_a_missing_package_is_refused_by_the_name_of_its_extra(package, extra, monkeypatch):
    find = table.importlib.util.find_spec
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(InputError, match=extra):
        table.check_packages()
    assert find("numpy") is not None


def test_known_pairs_are_found_in_the_tails_of_all_cosines_of_profiles():
    made = wells(2, 20, 2)
    made["Metadata_gene"] = [f"g{y // 2}" for y in made["Metadata_sirna_id"]]
    f = RNG(0).normal(size=(len(made), 6))
    names = sorted(set(made["Metadata_gene"]))
    x = []
    for name in names:
        own = (made["Metadata_gene"] == name).to_numpy()
        x.append(f[own].reshape(2, -1, 6).mean(1).mean(0))  # as many wells in each experiment
    cosine = {
        (a, b): x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2)
    }
    order = sorted(cosine, key=cosine.get)
    tails, middle = [order[0], order[1][::-1], order[-1]], order[20:22]
    pairs = [*tails, *middle, ("g0", "unknown"), tails[0]]
    found = relations.recall(f, measured_on(made, "Metadata_gene", pairs))
    assert (found.value, found.chance, found.parts) == (3 / 5, 0.1, None)
    assert relations.recall(f, measured_on(made, "Metadata_gene", [("g0", "unknown")])) is None
    by_class = relations.recall(f, measured_on(made, None, [("0", "1")]))
    assert by_class.value in (0, 1), "class ids are the names where there are no annotations"


def test_a_file_of_pairs_is_two_names_a_line(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("TP53, MDM2\n\nA,B\n")
    assert relations.read_pairs(path) == [("TP53", "MDM2"), ("A", "B")]
    path.write_text("A,B\nC\n")
    with pytest.raises(InputError, match="row 2"):
        relations.read_pairs(path)
    with pytest.raises(InputError, match="cannot be read"):
        relations.read_pairs(tmp_path / "none.csv")


def test_the_text_has_a_row_for_each_embedding_and_each_caveat_once():
    entry = {
        "metric": "BRAS",
        "better": "higher",
        "caveat": "a caveat",
        "model": 0.51234,
        "plate position": 0.9,
        "chance": {"model": 0.95, "plate position": 1.0},
        "interval": {"model": (0.4, 0.6), "plate position": None},
    }
    said = cells.metrics_text([entry, entry | {"metric": "CiLISI"}]).splitlines()
    assert said[0].split() == ["Features", "BRAS", "CiLISI"]
    assert said[1].split() == ["model", "0.512", "[0.40,", "0.60]", "0.512", "[0.40,", "0.60]"]
    assert said[2].split() == ["plate", "position", "0.900", "0.900"]
    assert said[3].split() == ["chance,", "model", "0.950", "0.950"]
    assert said[5:] == ["BRAS; CiLISI: a caveat"]
