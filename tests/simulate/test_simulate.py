"""The simulated screen: RxRx1's geometry, cells that differ by class, batch effects on a switch.

Longer than 300 lines because one sub-package is tested in one place: design, pictures, disk, refusals.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import f_oneway

from abra_wilds.commands.data import simulate as command
from abra_wilds.data.datasets.layouts import N_STAINS
from abra_wilds.simulate import Well, preset, simulate, site_picture
from abra_wilds.simulate import write as writing
from abra_wilds.simulate.colony import FULL_SIDE, magnification
from abra_wilds.simulate.config import SimulationConfig
from abra_wilds.simulate.design import COLUMNS, experiments, metadata_table, wells_table
from abra_wilds.simulate.traits import batch_effect, phenotype, traits_of
from abra_wilds.types import InputError
from tests import runs

REAL = runs.REPOSITORY.parent / "shared" / "rxrx1" / "images" / "HEPG2-08" / "Plate1"
CONTROL = Well("HEPG2", 0, 1, 0, "negative_control", 19)


def small(**overrides: Any) -> SimulationConfig:
    """12 experiments x 4 plates x 3 wells x 2 sites of 32 px: 288 sites."""
    one = {f"{split}_experiments": (1, 1, 1, 1) for split in ("train", "val", "test")}
    return preset("mini", **{"image_size": 32, "classes": 6, "replicates": 1, **one, **overrides})


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(flags)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("screen"), small())


@pytest.fixture(scope="module")
def full() -> pd.DataFrame:
    return metadata_table(preset("full"))


# The design


def test_full_has_the_row_counts_of_rxrx1_wilds(full: pd.DataFrame) -> None:
    counts = full.groupby(["dataset", "site"]).size()
    assert len(full) == 125_510
    assert counts["train", 1] == counts["train", 2] == 40_612  # train and id_test
    assert counts["val"].sum() == 9_854
    assert counts["test"].sum() == 34_432


def test_full_has_the_experiments_of_rxrx1_wilds(full: pd.DataFrame) -> None:
    named = full.drop_duplicates("experiment").groupby(["dataset", "cell_type"]).size()
    for split, counts in {"train": (7, 16, 7, 3), "val": (1, 1, 1, 1), "test": (3, 7, 3, 1)}.items():
        assert tuple(named[split][["HEPG2", "HUVEC", "RPE", "U2OS"]]) == counts
    val = full[full["dataset"] == "val"]["experiment"].unique()
    assert list(val) == ["HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"]


def test_full_plates_have_304_to_308_wells_and_all_their_controls(full: pd.DataFrame) -> None:
    wells = full[full["site"] == 1]
    size = wells.groupby(["experiment", "plate"]).size()
    assert len(size) == 51 * 4 and size.min() >= 304 and size.max() == 308
    kinds = wells.groupby(["experiment", "plate", "well_type"]).size().unstack()
    assert (kinds["positive_control"] == 30).all() and (kinds["negative_control"] == 1).all()
    assert not wells.duplicated(["experiment", "plate", "well"]).any()


def test_full_divides_1108_treatments_into_four_sets_of_277(full: pd.DataFrame) -> None:
    treatments = full[full["well_type"] == "treatment"]
    sets = {
        frozenset(g) for _, g in treatments.groupby(["experiment", "plate"])["sirna_id"] if g.nunique() == 277
    }
    assert len(sets) == 4 and frozenset.union(*sets) == frozenset(range(1108))
    assert set(full["sirna_id"]) == set(range(1139))
    assert set(full.loc[full["well_type"] == "negative_control", "sirna_id"]) == {1138}


def test_full_in_the_research_layout_knows_33_train_and_18_test_experiments() -> None:
    table = metadata_table(preset("full", layout="rxrx1"))
    named = table.drop_duplicates("experiment")["dataset"].value_counts()
    assert dict(named) == {"train": 33, "test": 18} and len(table) == 125_510


def test_mini_has_equal_plates_of_48_wells_with_all_lines_and_splits() -> None:
    table = metadata_table(preset("mini"))
    assert set(table[table["site"] == 1].groupby(["experiment", "plate"]).size()) == {48}
    assert set(map(tuple, table[["cell_type", "dataset"]].drop_duplicates().to_numpy())) == {
        (line, split) for line in ("HEPG2", "HUVEC", "RPE", "U2OS") for split in ("train", "val", "test")
    }
    per_class = table[table["site"] == 1].groupby(["experiment", "sirna_id"]).size().unstack(fill_value=0)
    assert (per_class > 0).all(axis=None)  # every class in every experiment


def test_columns_and_label_sets() -> None:
    table = metadata_table(preset("mini", classes=24))
    assert tuple(table.columns) == COLUMNS
    assert set(table["sirna_id"]) == set(range(24))
    assert table["site_id"].is_unique and set(table["site"]) == {1, 2} and set(table["plate"]) == {1, 2, 3, 4}
    assert (table["site_id"] == table["well_id"] + "_" + table["site"].astype(str)).all()
    assert table.groupby("sirna_id")[["sirna", "well_type"]].nunique().eq(1).all(axis=None)


def test_neither_well_nor_plate_number_gives_a_treatment_away(full: pd.DataFrame) -> None:
    treatments = full[(full["well_type"] == "treatment") & (full["site"] == 1)]
    by_class = treatments.groupby("sirna_id")
    assert by_class["plate"].nunique().eq(4).all()
    # 51 draws among 277 free wells repeat few of them.
    assert by_class["well"].nunique().mean() > 40


def test_the_design_depends_on_the_seed_and_on_nothing_else() -> None:
    table = wells_table(small())
    pd.testing.assert_frame_equal(table, wells_table(small(batch_effect=0.0, image_size=64)))
    assert not table.equals(wells_table(small(seed=1)))


@pytest.mark.parametrize("classes", [6, 7, 20, 32, 100, 1139])
def test_classes_divide_into_treatments_on_four_plates_and_controls(classes: int) -> None:
    config = SimulationConfig(classes=classes, replicates=1)
    assert config.n_treatments % 4 == 0 and config.n_treatments >= 4 and config.n_positives >= 1
    assert config.n_treatments + config.n_positives + 1 == classes


# The pictures


def test_without_batch_effect_there_is_none_at_all() -> None:
    effect = batch_effect(0, (3, 2, 1), 0.0)
    assert all(not np.any(part) for part in effect)


def test_batch_effects_are_shared_within_a_plate_more_than_between_experiments() -> None:
    here, same_plate, same_experiment, elsewhere = (
        np.array([batch_effect(s, place, 1.0).log_gain for s in range(60)])
        for place in ((0, 1, 0), (0, 1, 9), (0, 2, 0), (1, 1, 0))
    )
    gaps = [np.abs(here - other).mean() for other in (same_plate, same_experiment, elsewhere)]
    assert gaps == sorted(gaps) and gaps[0] < 0.5 * gaps[2]


def test_bleed_through_never_needs_a_hidden_stain_in_the_rgb_layout() -> None:
    bleed = batch_effect(0, (0, 1, 0), 1.0).bleed
    assert not bleed[:3, 3:].any() and not np.diag(bleed).any() and bleed[:3, :3].any()


def channel_means(strength: float) -> list[np.ndarray]:
    """Mean grey level of 10 untreated wells in each of 4 experiments, (10, 3) each."""
    config = small(batch_effect=strength)
    wells = [[CONTROL._replace(experiment_index=e, well_index=w) for w in range(10)] for e in range(4)]
    return [np.array([site_picture(config, well, 1).mean((1, 2)) for well in group]) for group in wells]


def test_experiments_differ_with_batch_effects_and_only_then() -> None:
    assert f_oneway(*channel_means(0.0)).pvalue.min() > 0.01  # within sampling noise, three stains
    assert f_oneway(*channel_means(1.0)).pvalue.max() < 1e-4


def summaries(sirna_id: int, first: int) -> np.ndarray:
    """Rough features of 8 wells of a class, (8, 12): no gain, no offset, as after WILDS' standardisation."""
    config = preset("mini", batch_effect=0.0)
    rows = []
    for well in range(first, first + 8):
        x = site_picture(config, Well("U2OS", 0, 1, well, "treatment", sirna_id), 1).astype(float)
        z = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
        fine = np.abs(np.diff(z, axis=2)).mean((1, 2))
        edges = np.array([(z[a] * z[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))])
        rows.append(np.concatenate([fine, edges, (z**3).mean((1, 2)), (z**4).mean((1, 2)) ** 0.5]))
    return np.array(rows)


def test_classes_differ_by_more_than_their_cells() -> None:
    seen = [summaries(c, 0) for c in range(6)]
    spread = np.sqrt(np.mean([s.var(0) for s in seen], axis=0))
    centres = np.array([s.mean(0) for s in seen]) / spread  # (6, 12)
    hits = [
        np.argmin(np.square(row / spread - centres).sum(1)) == c
        for c in range(6)
        for row in summaries(c, 100)
    ]
    assert np.mean(hits) > 0.5  # chance is 1 / 6


def test_the_negative_control_has_no_phenotype_and_lines_react_differently() -> None:
    assert not phenotype(0, 19, "RPE", kind="negative_control").any()
    one, other = (phenotype(0, 3, line, kind="treatment") for line in ("RPE", "U2OS"))
    assert not np.array_equal(one, other) and np.corrcoef(one, other)[0, 1] > 0.6
    assert traits_of("HUVEC").elongation > traits_of("HEPG2").elongation


def test_two_sites_show_other_cells_of_the_same_well() -> None:
    config = preset("mini")
    one, two = (site_picture(config, CONTROL, site).astype(float) for site in (1, 2))
    assert abs(np.corrcoef(one[0].ravel(), two[0].ravel())[0, 1]) < 0.5
    far = site_picture(config, CONTROL._replace(experiment_index=5), 1)
    assert (
        np.abs(one.mean((1, 2)) - two.mean((1, 2))).sum() < np.abs(one.mean((1, 2)) - far.mean((1, 2))).sum()
    )


def test_the_rgb_picture_is_stains_one_to_three_of_the_six() -> None:
    rgb, six = (site_picture(small(layout=layout), CONTROL, 1) for layout in ("wilds", "rxrx1"))
    assert rgb.shape == (3, 32, 32) and six.shape == (N_STAINS, 32, 32) and rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, six[:3])


def test_small_images_keep_visible_cells() -> None:
    assert magnification(FULL_SIDE) == 1
    assert (
        magnification(64) * traits_of("HEPG2").nucleus > 4
    )  # radius in pixels; shrinking alone would leave 1.6


def test_grey_levels_resemble_the_real_site() -> None:
    if not REAL.is_dir():
        pytest.skip(f"the real site is not here: {REAL}")
    config = preset("mini", layout="rxrx1", image_size=512, batch_effect=0.0)
    pictures = np.stack([site_picture(config, CONTROL._replace(well_index=w), 1) for w in range(4)])
    for stain in range(N_STAINS):
        real = np.asarray(Image.open(REAL / f"B02_s1_w{stain + 1}.png"))
        made = pictures[:, stain]
        assert 0.6 < made.mean() / real.mean() < 1.6
        assert 0.6 < made.std() / real.std() < 1.8
        assert abs(np.percentile(made, 1) - np.percentile(real, 1)) <= 3
        assert 0.5 < np.percentile(made, 99.5) / np.percentile(real, 99.5) < 2


# On disk


def test_wilds_layout_is_rgb_and_complete(written: Path) -> None:
    table = pd.read_csv(written / "metadata.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS and len(table) == 288
    files = {f"images/{r.experiment}/Plate{r.plate}/{r.well}_s{r.site}.png" for r in table.itertuples()}
    assert {name for name in contents(written) if name.endswith(".png")} == files
    with Image.open(written / sorted(files)[0]) as image:
        assert image.mode == "RGB" and image.size == (32, 32)
    assert (written / "RELEASE_v1.0.txt").is_file()
    assert list(written.parent.iterdir()) == [written]


def test_research_layout_is_six_grey_files_a_site(tmp_path: Path) -> None:
    config = small(layout="rxrx1", val_experiments=(0, 0, 0, 0), test_experiments=(0, 0, 0, 0), sites=1)
    target = simulate(tmp_path, config)
    assert target == tmp_path / "rxrx1"
    table = pd.read_csv(target / "metadata.csv")
    wells = {f"images/{r.experiment}/Plate{r.plate}/{r.well}_s1" for r in table.itertuples()}
    names = {name for name in contents(target) if name.endswith(".png")}
    assert names == {f"{well}_w{stain}.png" for well in wells for stain in range(1, 7)}
    with Image.open(target / sorted(names)[0]) as image:
        assert image.mode == "L" and image.size == (32, 32)


def test_the_marker_tells_what_was_simulated(written: Path) -> None:
    made = json.loads((written / "SIMULATED.json").read_text())
    assert made.pop("generator") == "abra_wilds.data.simulate"
    assert made.pop("generator_version") == writing.GENERATOR_VERSION
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in made.items()}
    assert SimulationConfig(**made) == small()


def test_bytes_do_not_depend_on_the_number_of_workers(written: Path, tmp_path: Path) -> None:
    assert contents(simulate(tmp_path, small(), workers=2)) == contents(written)


def test_another_seed_gives_other_pictures() -> None:
    one, other = (site_picture(small(seed=seed), CONTROL, 1) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_loads_through_wilds(written: Path) -> None:
    from abra_wilds.compat.imports import import_wilds

    import_wilds()
    from wilds.datasets.rxrx1_dataset import RxRx1Dataset

    dataset = RxRx1Dataset(root_dir=str(written.parent), download=False)
    assert dataset.n_classes == 6
    assert {split: len(dataset.get_subset(split)) for split in dataset.split_dict} == {
        "train": 48,
        "id_test": 48,
        "val": 96,
        "test": 96,
    }
    image, label, _ = dataset.get_subset("id_test")[0]
    assert image.size == (32, 32) and 0 <= int(label) < 6


@pytest.mark.parametrize("broken", ["site_picture", "_write_tables", "_put_in_place"])
def test_an_interrupted_write_leaves_nothing(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, broken, stop)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, small(sites=1, val_experiments=(0, 0, 0, 0), test_experiments=(0, 0, 0, 0)))
    assert not list(tmp_path.iterdir())


def test_the_release_file_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write_text = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda p, t, **k: (order.append(p.name), write_text(p, t, **k))[1]
    )
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_a, **_k: order.append("metadata.csv"))
    writing._write_tables(tmp_path, pd.DataFrame(), small())
    assert order == ["SIMULATED.json", "metadata.csv", "RELEASE_v1.0.txt"]


# Refusals


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"layout": "zip"}, "layout 'zip' .*wilds, rxrx1"),
        ({"classes": 5}, "classes is 5; .*6 to 1139"),
        ({"classes": 1140}, "classes is 1140; "),
        ({"image_size": 31}, "image_size is 31; .*32 to 2048"),
        ({"sites": 3}, "sites is 3; .*1 to 2"),
        ({"replicates": 0}, "replicates is 0; .*1 to 308"),
        ({"seed": -1}, "seed is -1; .*0 to 4294967295"),
        ({"batch_effect": -0.1}, "batch_effect is -0.1; .*0"),
        ({"batch_effect": float("nan")}, "batch_effect is nan"),
        ({"val_experiments": (1, 1, 1)}, r"val_experiments is \(1, 1, 1\); .*HEPG2, HUVEC, RPE, U2OS"),
        ({"train_experiments": (0, 0, 0, 0)}, "train_experiments are all 0"),
        ({"classes": 1139, "replicates": 2}, "277 treatments .*585 wells .*308; .*--replicates or --classes"),
    ],
)
def test_a_bad_number_is_refused_in_one_sentence(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}[^\n]*$"):
        replace(SimulationConfig(), **wrong)


def test_unknown_preset_and_setting_are_refused() -> None:
    with pytest.raises(InputError, match=r"preset 'huge' .*mini, midi, full"):
        preset("huge")
    with pytest.raises(InputError, match=r"'colour' .*batch_effect"):
        preset("mini", colour=1)


def test_experiment_counts_are_one_or_four() -> None:
    config = command.config_from(
        parsed("x", "--train_experiments", "2", "--test_experiments", "1", "2", "3", "4")
    )
    assert config.train_experiments == (2, 2, 2, 2) and config.test_experiments == (1, 2, 3, 4)
    assert [name for _, split, name in experiments(config) if split == "test"][:2] == ["HEPG2-04", "HUVEC-04"]
    with pytest.raises(InputError, match="2 experiment counts"):
        command.config_from(parsed("x", "--val_experiments", "1", "2"))


def test_no_worker_and_no_writable_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers is 0"):
        simulate(tmp_path / "new", small(), workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"ROOT .*file cannot be written"):
        simulate(tmp_path / "file", small())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_too_little_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: argparse.Namespace(free=1000))
    with pytest.raises(InputError, match=r"0\.0 GB and .*0\.0 GB free"):
        simulate(tmp_path, small())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_wells", fill)
    with pytest.raises(InputError, match=r"rxrx1_v1.0 .*No space left on device"):
        simulate(tmp_path, small())
    assert not list(tmp_path.iterdir())


def test_an_existing_screen_is_replaced_only_on_demand(tmp_path: Path) -> None:
    few = {
        "train_experiments": (1, 0, 0, 0),
        "val_experiments": (0,) * 4,
        "test_experiments": (0,) * 4,
        "sites": 1,
    }
    target = simulate(tmp_path, small(**few))
    before = contents(target)
    with pytest.raises(InputError, match=r"rxrx1_v1.0 is not empty; .*--overwrite"):
        simulate(tmp_path, small(**few, seed=1))
    assert contents(target) == before
    simulate(tmp_path, small(**few, seed=1), overwrite=True)
    after = contents(target)
    assert after.keys() == before.keys() and after != before and list(tmp_path.iterdir()) == [target]


def test_a_screen_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = small(sites=1, val_experiments=(0,) * 4, test_experiments=(0,) * 4)
    target = simulate(tmp_path, few)
    before, rename = contents(target), Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if to == target and ".old-" not in str(path):
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="Input/output error"):
        simulate(tmp_path, replace(few, seed=1), overwrite=True)
    assert contents(target) == before and list(tmp_path.iterdir()) == [target]


def test_real_data_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "rxrx1_v1.0").mkdir()
    (tmp_path / "rxrx1_v1.0" / "metadata.csv").touch()
    with pytest.raises(InputError, match=r"SIMULATED\.json, .*real data"):
        simulate(tmp_path, small(), overwrite=True)
    (tmp_path / "rxrx1").touch()
    with pytest.raises(InputError, match="rxrx1 is in the way"):
        simulate(tmp_path, small(layout="rxrx1"))


def test_the_command_writes_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--image_size 32 --classes 6 --replicates 1 --sites 1 --workers 1 --batch_effect 0.5 --seed 7"
    counts = "--train_experiments 1 --val_experiments 0 --test_experiments 0"
    assert command.run(parsed(str(tmp_path), *flags.split(), *counts.split())) == 0
    made = json.loads((tmp_path / "rxrx1_v1.0" / "SIMULATED.json").read_text())
    assert (made["seed"], made["batch_effect"], made["image_size"]) == (7, 0.5, 32)
    assert "simulated" in capsys.readouterr().out
