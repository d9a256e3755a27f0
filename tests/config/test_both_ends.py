"""Ranges have two ends where the other one ends in a traceback or takes the machine down."""

import pytest
import torch

from abra_wilds.__main__ import main
from abra_wilds.config.fields import Flag
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import parse
from tests import runs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", str(2**32)], "--seed must be in [0, 4294967295]"),
        (["--seed", str(10**30)], "--seed"),
        (["--target_resolution", "4097"], "--target_resolution must be in [32, 4096]"),
        (["--target_resolution", "31"], "--target_resolution must be in [32, 4096]"),
        (["--loader_kwargs", "num_workers=1025"], "num_workers must be in [0, 1024]"),
        (["--eval_only", "--eval_epoch", "-1"], "--eval_epoch must be 0 or more"),
    ],
)
def test_a_number_past_either_end_is_refused(words, said):
    with pytest.raises(InputError) as fault:
        parse(["--algorithm", "ERM", *words])
    assert said in str(fault.value)


def test_every_seed_that_is_allowed_seeds_torch():
    torch.manual_seed(parse(["--algorithm", "ERM", "--seed", str(2**32 - 1)]).train.seed)


def test_a_range_of_large_whole_numbers_is_written_out():
    assert Flag("", int, at_least=0, at_most=2**32 - 1).range == "in [0, 4294967295]"
    assert Flag("", float, at_least=0.5, at_most=3.1415).range == "in [0.5, 3.1415]"


@pytest.mark.parametrize("draws", ["0", "-3", "1001"])
def test_draws_of_figure_7_are_some_and_not_too_many(tmp_path, capsys, draws):
    words = ["figures", str(tmp_path), "--out", str(tmp_path / "f"), "--draws", draws]
    runs.assert_says(runs.sentence(capsys, main, words), "--draws must be in [1, 1000]", draws)


def test_a_null_byte_in_a_recipe_names_the_flag(tmp_path):
    (tmp_path / "c.yaml").write_text('root_dir: "a\\0b"\n')
    with pytest.raises(InputError, match="--root_dir must be text without null bytes"):
        parse(["--algorithm", "ERM", "--config", str(tmp_path / "c.yaml")])
