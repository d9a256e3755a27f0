"""Where the settings of a screen come from: flags, its screen.yaml, names of columns; and `screen init`."""

import pytest
import yaml

from abra_wilds import __main__, run_config
from abra_wilds.config.files import screen_config
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import small_rows, write_screen, write_table


def write_yaml(folder, **settings):
    (folder / "screen.yaml").write_text(yaml.safe_dump(settings))


def test_flags_go_before_screen_yaml_and_that_before_defaults(tmp_path):
    table = write_table(tmp_path, small_rows())
    write_yaml(tmp_path, label_column="Metadata_Drug", least_per_class=3, split_column="Metadata_Batch")
    config = run_config("ERM", screen=str(table), least_per_class=5)
    assert (config.screen.label_column, config.screen.least_per_class) == ("Metadata_Drug", 5)
    origins = [config.origin[name] for name in ("label_column", "least_per_class", "dataset", "plate_column")]
    assert origins == ["screen.yaml", "flag", "screen.yaml", "default"]
    assert (config.data.dataset, config.data.split_scheme) == ("screen", "screen")
    assert run_config("ERM", dataset="screen", screen=str(tmp_path)).screen.least_per_class == 3
    # Splits that are drawn take the place of those in a column.
    drawn = run_config("ERM", screen=str(table), split=["test=0.2"])
    assert (drawn.screen.split, drawn.screen.split_column) == (("test=0.2",), None)
    assert Screen.open(table, least_per_class=7).config.least_per_class == 7


def test_paths_in_screen_yaml_are_relative_to_it(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    table = write_table(folder, small_rows())
    write_yaml(folder, platemap="map.csv", image_root=["/old=images", "/older=/new"])
    monkeypatch.chdir(tmp_path)
    for screen in ("deep/load_data.csv", "deep", table):
        config = screen_config(screen)
        assert config.platemap.endswith("deep/map.csv")
        assert config.roots[0][1].endswith("deep/images") and config.roots[1] == ("/older", "/new")


def test_what_is_no_setting_or_has_no_screen_is_refused(tmp_path):
    table = write_table(tmp_path, small_rows())
    for given, said in (
        ({"label_column": "x"}, "--screen"),
        ({"screen": str(table), "dataset": "rxrx1"}, "belong together"),
        ({"dataset": "screen"}, "belong together"),
    ):
        with pytest.raises(InputError, match=said):
            run_config("ERM", **given)
    write_yaml(tmp_path, label="Metadata_Drug")
    with pytest.raises(InputError, match="'label'"):
        screen_config(table)


def test_the_digest_is_of_settings_and_not_of_places(tmp_path):
    flags = {"label_column": "Metadata_Drug", "split": ["test=0.5"]}
    digests = {run_config("ERM", screen=str(tmp_path / name), **flags).digest() for name in ("a", "b")}
    assert len(digests) == 1
    assert run_config("ERM", screen="a", **{**flags, "split": ["test=0.4"]}).digest() not in digests


def test_init_proposes_what_columns_suggest_and_writes_it_when_asked_to(tmp_path, capsys, monkeypatch):
    table = write_screen(tmp_path, small_rows().assign(Metadata_Frame=lambda rows: rows["Metadata_Well"]))
    assert __main__.main(["screen", "init", str(table)]) == 1  # nobody is there to be asked
    assert not (tmp_path / "screen.yaml").exists() and "--yes writes it" in capsys.readouterr().out
    assert __main__.main(["screen", "init", str(table), "--yes", "--least_per_class", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"train --screen {table}" in shown and "48 sites" in shown and "4 of 12 to 12 images" in shown
    assert "plates in them: 8; each is a bio-batch to ABRA without --groupby_fields experiment" in shown
    found = yaml.safe_load((tmp_path / "screen.yaml").read_text())
    assert found == {
        "bio_batch_columns": ["Metadata_Batch"],
        "plate_column": "Metadata_Plate",
        "well_column": "Metadata_Well",
        "site_column": "Metadata_Site",
        "least_per_class": 2,
        "label_column": "Metadata_Drug",
        "keep_together": "Metadata_Frame",
        "split": ["test=0.2", "val=0.1", "seed=0"],
    }
    assert run_config("ERM", screen=str(table)).screen.label_column == "Metadata_Drug"
    # At a terminal a person is asked, and sees that a file would be replaced.
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    assert __main__.main(["screen", "init", str(table)]) == 1
    assert "in place of the one that is there" in asked[0]


def test_init_of_a_screen_without_classes_points_to_predict(tmp_path, capsys):
    table = write_screen(tmp_path, small_rows().drop(columns="Metadata_Drug"))
    assert __main__.main(["screen", "init", str(table), "--yes"]) == 0
    assert f"'abra-wilds predict MODEL --screen {table}'" in capsys.readouterr().out


def test_init_keeps_a_platemap_beside_the_screen_relative(tmp_path):
    table = write_screen(tmp_path, small_rows().drop(columns="Metadata_Drug"))
    drugs = small_rows()[["Metadata_Plate", "Metadata_Well", "Metadata_Drug"]].drop_duplicates()
    drugs.to_csv(tmp_path / "map.csv", index=False)
    flags = ["--platemap", str(tmp_path / "map.csv")]
    assert __main__.main(["screen", "init", str(table), "--yes", *flags]) == 0
    found = yaml.safe_load((tmp_path / "screen.yaml").read_text())
    assert (found["platemap"], found["label_column"]) == ("map.csv", "Metadata_Drug")
    assert "Metadata_Drug" in Screen.open(table).sites.rows


def test_init_keeps_paths_that_were_given_relative_whatever_folder_they_are_in(tmp_path, monkeypatch):
    table = write_screen(tmp_path / "screen", small_rows().drop(columns="Metadata_Drug"))
    drugs = small_rows()[["Metadata_Plate", "Metadata_Well", "Metadata_Drug"]].drop_duplicates()
    drugs.to_csv(tmp_path / "map.csv", index=False)
    (tmp_path / "screen" / "images").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    flags = ["--platemap", "map.csv", "--image_root", "images=moved"]
    assert __main__.main(["screen", "init", "screen/load_data.csv", "--yes", *flags]) == 0
    found = yaml.safe_load((tmp_path / "screen" / "screen.yaml").read_text())
    assert (found["platemap"], found["image_root"]) == ("../map.csv", ["images=../moved"])
    monkeypatch.chdir("/")
    assert "Metadata_Drug" in Screen.open(table).sites.rows  # which looks for every image
