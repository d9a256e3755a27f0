"""What messages advise works when it is followed."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
import torch

from abra_wilds.__main__ import main as tools
from abra_wilds.commands.predict import add_flags, given_flags
from abra_wilds.commands.train import main
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.reading.pack import from_files
from abra_wilds.data.reading.packed import INDEX, pack_command
from abra_wilds.engine import fit
from abra_wilds.engine.evaluation.saved import changed
from abra_wilds.errors import WORKER_KILLED, InputError
from abra_wilds.nets import backbones
from abra_wilds.nets.vit import PatchStem
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.legacy import adaptation_flags
from abra_wilds.terminal import Parser
from tests import runs
from tests.data.screens import own_screen
from tests.engine.conftest import tiny

__all__ = ["tiny"]


def failing_at(patch, number, fault):
    """Let a run's step raise a fault, once."""
    step, taken = fit.step, [0]

    def failing(*args, **kwargs):
        taken[0] += 1
        if taken[0] == number:
            raise fault
        return step(*args, **kwargs)

    patch.setattr(fit, "step", failing)


@pytest.mark.parametrize("step", [2, 11])
def test_a_run_beyond_the_memory_starts_anew_as_advised(root, tiny, tmp_path, monkeypatch, capsys, step):
    argv = runs.command(root, tmp_path / "run", "ERM")
    failing_at(monkeypatch, step, torch.OutOfMemoryError("CUDA out of memory"))
    assert main(argv) == 1
    flags = re.findall(r"--\w+", capsys.readouterr().err)
    assert flags == ["--overwrite", "--batch_size", "--amp"]
    assert main([*argv, "--overwrite", "--batch_size", "4"]) == 0
    assert main([*argv, "--overwrite", "--amp", "bf16"]) == 0


def test_a_run_that_diverges_starts_anew_as_advised(root, tiny, tmp_path, capsys):
    argv = runs.command(root, tmp_path / "run", "ERM", n_epochs=1, warmup_epochs=0, optimizer="SGD")
    assert main([*argv, "--lr", "1e30"]) == 1
    flags = re.findall(r"--\w+", capsys.readouterr().err)
    assert flags == ["--log_dir", "--overwrite", "--lr", "--max_grad_norm"]
    assert main([*argv, "--overwrite", "--lr", "0.001", "--max_grad_norm", "1"]) == 0
    assert main([*argv, "--log_dir", str(tmp_path / "other"), "--lr", "0.001"]) == 0


@pytest.mark.parametrize("step", [2, 11])
def test_a_run_whose_readers_were_killed_goes_on_as_advised(root, tiny, tmp_path, monkeypatch, capsys, step):
    argv = runs.command(root, tmp_path / "run", "ERM", loader_kwargs={"num_workers": 1})
    failing_at(monkeypatch, step, RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed."))
    assert main(argv) == 1 and WORKER_KILLED in capsys.readouterr().err
    assert re.findall(r"--\w+", WORKER_KILLED) == ["--resume", "--loader_kwargs"]
    assert main([*argv[: argv.index("--loader_kwargs")], "--resume", "--loader_kwargs", "num_workers=0"]) == 0


def test_networks_of_timm_that_are_advised_can_be_used():
    with pytest.raises(InputError) as refused, torch.device("meta"):
        backbones.build_net("timm:vgg11", 3, pretrained=False)
    named = re.findall(r"timm:\w+", str(refused.value))
    assert len(named) == 3
    for name in named:
        with torch.device("meta"):
            assert backbones.build_net(name, 6, pretrained=False).d_feat > 0


@pytest.mark.parametrize("side", [20, 33, 50, 257])
@pytest.mark.parametrize("patch", [14, 16])
def test_a_resolution_that_is_advised_for_patches_can_be_used(monkeypatch, side, patch):
    net = backbones.build_net("timm:test_vit", 3, pretrained=False)
    stem = net.stages["stem"]
    assert isinstance(stem, PatchStem)
    stem.patch = (patch, patch)
    with pytest.raises(InputError) as refused:
        stem(torch.zeros(1, 3, side, side))
    advised = re.findall(r"--target_resolution (\d+) (\d+)", str(refused.value))[0]
    sides = run_config("ERM", target_resolution=list(map(int, advised))).data.target_resolution
    assert all(found % patch == 0 and abs(found - max(side, 32)) <= patch for found in sides)


def test_the_command_that_is_advised_for_a_pack_makes_it_in_a_folder_with_a_blank(tmp_path):
    root = tmp_path / "a screen"
    own_screen(root, {"A-1": "train", "A-2": "test"})
    program, *words = shlex.split(pack_command(from_files("rxrx1_6ch", root), root))
    assert program == "abra-wilds" and tools(words) == 0
    (index,) = root.rglob(INDEX)
    shutil.rmtree(index.parent)
    with pytest.raises(InputError) as refused:
        load_dataset("rxrx1_6ch", root, split_scheme="official", data_format="packed")
    command = re.findall(r"run '(abra-wilds .+)' or", str(refused.value))[0]
    assert tools(shlex.split(command)[1:]) == 0 and index.is_file()


@pytest.mark.parametrize(
    "name",
    [
        *("none", "plate_bn", "plate_bn_min10", "mixed_bn_experiment_m8_b64", "mixed_bn_minf", "controls_bn"),
        *("tent_experiment_b64", "label_shift_min4", "unmix_tns"),
    ],
)
def test_flags_that_are_advised_for_an_adaptation_make_the_one_of_the_name(name):
    parser = Parser()
    add_flags(parser)
    config = changed(run_config("ERM"), given_flags(parser.parse_args(shlex.split(adaptation_flags(name)))))
    assert config.eval.name == name
