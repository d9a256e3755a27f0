"""What is decided before training: the device, the workers, and images that a transform cannot turn."""

import shutil

import pytest
import torch

from abra_wilds import run_config
from abra_wilds.data.reading import dataset as rows
from abra_wilds.data.reading import images
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.engine import device, setup
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.device import pick_device
from abra_wilds.engine.fit import opening
from abra_wilds.engine.setup import prepare, reading_kwargs, reading_lines
from abra_wilds.types import InputError
from tests import runs

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """A function that gives this process devices and a rank; returns the list of devices it made current."""

    def made(devices, local_rank=0, world=1, visible=None):
        chosen = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(device, "local_rank", lambda: local_rank)
        monkeypatch.setattr(device, "world", lambda: world)
        monkeypatch.setattr(device, "local_world", lambda: world)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return chosen

    return made


def test_one_process_makes_the_device_it_is_given_the_current_one(machine):
    chosen = machine(devices=4)
    assert pick_device("3") == torch.device("cuda", 3) and chosen == [3]
    with pytest.raises(InputError, match=r"--device 4 .*4 CUDA"):
        pick_device("4")
    assert pick_device("cpu") == CPU and chosen == [3]


def test_of_several_processes_each_has_the_device_of_its_number(machine):
    chosen = machine(devices=2, local_rank=1, world=2, visible="4,5")
    assert pick_device("0") == torch.device("cuda", 1) and chosen == [1]


def test_a_process_that_is_shown_one_device_takes_it_whatever_its_number(machine):
    chosen = machine(devices=1, local_rank=1, world=2, visible="1")
    assert pick_device("0") == torch.device("cuda", 0) and chosen == [0]


def test_several_processes_do_not_share_the_only_device_of_a_machine(machine):
    chosen = machine(devices=1, local_rank=1, world=2)
    with pytest.raises(InputError, match=r"2 processes .*1 CUDA"):
        pick_device("0")
    assert chosen == []


@pytest.mark.parametrize(
    ("usable", "cores", "processes", "asked", "taken"),
    [
        (4, 64, 1, 8, 4),  # bound to a few cores of a large machine
        (64, 64, 8, 16, 8),  # eight processes, each of which may run anywhere
        (8, 64, 8, 8, 8),  # eight processes, each bound to its own
        (1, 1, 2, 4, 1),
        (8, 8, 1, 4, 4),
        (8, 8, 1, 0, 0),
    ],
)
def test_workers_are_no_more_than_cores_and_the_log_says_so(
    monkeypatch, usable, cores, processes, asked, taken
):
    monkeypatch.setattr(setup, "usable_cores", lambda: usable)
    monkeypatch.setattr(setup.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(setup, "local_world", lambda: processes)
    d = run_config("ERM", loader_kwargs={"num_workers": asked}).data
    assert reading_kwargs(d, CPU) == {"num_workers": taken, "pin_memory": False}
    lines = reading_lines(d, CPU)
    assert len(lines) == (taken < asked)
    assert all(f"{taken} worker processes read images instead of {asked}" in line for line in lines)


def test_the_first_lines_of_a_run_say_that_it_has_fewer_workers(root, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "usable_cores", lambda: 0)
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM", loader_kwargs={"num_workers": 3}))
    assert "\n0 worker processes read images instead of 3" in opening(config, prepare(config), Progress())


@pytest.mark.parametrize("transform", ["rxrx1", "paper", "iid"])
def test_images_that_are_not_square_are_refused_before_anything_is_written(
    root, refused, tmp_path, monkeypatch, transform
):
    read = rows.read_image
    for module in (rows, images):
        monkeypatch.setattr(module, "read_image", lambda *args: read(*args)[:, :24])
    argv = runs.command(root, tmp_path / "run", "ERM", transform=transform)
    runs.assert_says(refused(argv), repr(transform), "24x32")


def test_the_log_says_whether_images_come_from_files_or_from_which_pack(sim_root, tmp_path):
    root = runs.small_root(sim_root, tmp_path / "root")
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM"))

    def second_line():
        return opening(config, prepare(config), Progress()).splitlines()[1]

    assert second_line().startswith("images from files: train 64, ")
    folder = pack(from_files("rxrx1", root))
    assert second_line().startswith(f"images from {folder}: train 64, ")
    shutil.rmtree(folder)
    assert second_line().startswith("images from files: ")
