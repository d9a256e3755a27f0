"""One simulated screen of 16 bits on disk in four ways: the same tensors, runs and predictions from all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.config.data import MARKER
from abra_wilds.data.reading.images import read_image
from abra_wilds.data.reading.pack import pack
from abra_wilds.data.reading.packed import Pack
from abra_wilds.data.screens.screen import Screen
from abra_wilds.simulate import SimulationConfig, Well, preset, simulate, site_picture, wells_table
from abra_wilds.simulate.formats import FORMATS
from abra_wilds.types import InputError
from tests import runs

pytest.importorskip("zarr")
NONE = (0, 0, 0, 0)
SCREEN = preset(
    "mini",
    layout="rxrx1",
    depth=16,
    image_size=32,
    classes=6,
    replicates=1,
    train_experiments=(1, 0, 0, 0),
    val_experiments=NONE,
    test_experiments=(1, 0, 0, 0),
)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the screen in each format."""
    root = tmp_path_factory.mktemp("formats")
    return {write: simulate(root, SCREEN, write=write) for write in FORMATS}


def drawn(config: SimulationConfig) -> np.ndarray:
    """Every picture of a screen, in the order of its metadata.csv."""
    columns = zip(*(wells_table(config)[name].tolist() for name in Well._fields), strict=True)
    wells = [Well(*values) for values in columns]
    return np.stack([site_picture(config, well, site) for well in wells for site in (1, 2)])


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_pictures_bit_for_bit_from_files_and_packed(screens, write):
    dataset = Screen.open(screens[write]).dataset()
    wanted = drawn(SCREEN)
    assert wanted.dtype == np.uint16 and 255 < wanted.max() <= 4095 and len(dataset) == len(wanted) == 48
    found = [read_image(dataset, row) for row in range(len(dataset))]
    assert all(x.dtype == torch.uint16 for x in found) and np.array_equal(torch.stack(found).numpy(), wanted)
    dataset.pack = Pack.open(pack(dataset))
    packed = [read_image(dataset, row) for row in range(len(dataset))]
    assert np.array_equal(torch.stack(packed).numpy(), wanted)


def test_every_format_says_the_same_of_its_wells(screens):
    first, *others = (Screen.open(folder).dataset() for folder in screens.values())
    assert len(first.class_names) == 6 and set(first.split_dict) == {"train", "test"}
    for other in others:
        assert other.channels == first.channels and other.class_names == first.class_names
        fields = [0, 1, 3, 4, 5]  # without plates, which RxRx1 numbers again from 1 in every experiment
        assert torch.equal(other.metadata_array[:, fields], first.metadata_array[:, fields])
        assert np.array_equal(other.split_array, first.split_array)
        assert np.array_equal(other.well_kinds, first.well_kinds)
        assert all(
            other.metadata_map[name] == first.metadata_map[name] for name in ("experiment", "cell_type")
        )


def test_runs_on_every_format_predict_the_same(screens, tmp_path, monkeypatch):
    runs.use_tiny_backbone(monkeypatch)
    found: dict[str, Any] = {}
    for write, folder in screens.items():
        changes = {"root_dir": None, "dataset": "screen", "screen": str(folder), "n_epochs": 1}
        for data_format in ("png", "packed"):
            if data_format == "packed":
                pack(Screen.open(folder).dataset())
            log_dir = tmp_path / write / data_format
            flags = runs.settings(folder, log_dir, "ABRA", **changes, data_format=data_format)
            fit(run_config("ABRA", **flags))
            texts = runs.texts(log_dir)
            found[f"{write} {data_format}"] = {name: texts[name] for name in texts if "_pred" in name}
    first = found["rxrx png"]
    assert first and all(texts == first for texts in found.values())


def test_16_bits_are_the_same_picture_in_finer_steps():
    columns = wells_table(SCREEN)
    well = Well(*(columns[name].tolist()[0] for name in Well._fields))
    fine, coarse = (site_picture(replace(SCREEN, depth=depth), well, 1) for depth in (16, 8))
    assert coarse.dtype == np.uint8 and np.abs(fine / 16 - coarse)[coarse < 255].max() <= 0.5 + 1 / 32


def test_the_command_writes_formats_and_depths(tmp_path, capsys):
    few = ["--image_size", "32", "--classes", "6", "--replicates", "1", "--sites", "1", "--workers", "1"]
    few += ["--train_experiments", "1", "0", "0", "0"]
    few += ["--val_experiments", "0", "--test_experiments", "0"]
    assert main(["simulate", str(tmp_path), *few, "--depth", "16", "--write", "phenix"]) == 0
    assert f"wrote {tmp_path / 'phenix'}" in capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.rglob("*.tiff"))
    assert len(names) == 12 * 6 and names[0] == "r02c02f01p01-ch1sk1fk1fl1.tiff"
    assert '"depth": 16' in (tmp_path / "phenix" / MARKER).read_text()
    shallow = ["--depth", "8", "--write", "loaddata", "--layout", "wilds"]
    assert main(["simulate", str(tmp_path), *few, *shallow]) == 0
    assert Screen.open(tmp_path / "loaddata").sites.channels == ("Hoechst", "ConA", "phalloidin")
    assert '"depth"' not in (tmp_path / "loaddata" / MARKER).read_text()


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"images of 8 bits; for 16 give --layout rxrx1"):
        simulate(tmp_path, replace(SCREEN, layout="wilds"))
    with pytest.raises(InputError, match=r"write is 'nd2'; choose one of rxrx, loaddata, omezarr, phenix"):
        simulate(tmp_path, SCREEN, write="nd2")
    with pytest.raises(InputError, match=r"depth is 12; choose 8 or 16"):
        replace(SCREEN, depth=12)
    assert not list(tmp_path.iterdir())
