"""Settings in YAML: each name once, bounded in size and aliases, and one sentence for all that is wrong."""

import pytest
import yaml

from abra_wilds.board.sweep.slurm import read_parameters
from abra_wilds.board.sweep.spec import SPECS, read_spec
from abra_wilds.commands.data.fetch import expected_sums
from abra_wilds.config.files import LARGEST, read_settings, read_value
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import parse


def refusal(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as fault:
        read_settings(path, "--config")
    assert str(fault.value).startswith(f"--config {path} ") and "\n" not in str(fault.value)
    return str(fault.value)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{y}: &{y} [{', '.join([f'*{x}'] * 10)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: 1\nn_epochs: 2\nlr: 3\n", "'lr' occurs twice; keep one"),
        ("loader_kwargs: {num_workers: 1, num_workers: 2}", "'num_workers' occurs twice"),
        ("1: a\n'1': b", "'1' occurs twice"),
        (BOMB, "aliases stand for too much"),
        ("a: &a [*a]", "refers to the value that it is part of"),
        ("a: " + "[" * 5000, "is no YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, "is no YAML"),
        ("a: 2026-13-45", "is no YAML"),
        ("a: " + "9" * 5000, "is no YAML"),
        ("!!python/object/apply:os.system [ls]", "is no YAML"),
        ("a: !!python/name:os.system", "is no YAML"),
        ("{[a]: 1}", "is no YAML"),
        ("a: b: c", "line 1"),
        ("a\x00b: 1", "is no YAML"),
        (b"a: \xff", "cannot be read"),
        ("a: 1\n".encode("utf-16"), "cannot be read"),
        ("# " + "x" * LARGEST, "more than 1,048,576 bytes"),
        ("", "holds no settings"),
        ("- a", "holds no settings"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_mapping_of_names_that_are_there_once_is_refused(tmp_path, text, said):
    assert said in refusal(tmp_path, text)


def test_a_mark_at_the_beginning_aliases_and_merges_are_read(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfbase: &b {lr: 1, wd: 2}\nrow: {<<: *b, lr: 3}\nagain: *b\n")
    assert read_settings(path, "SPEC") == {
        "base": {"lr": 1, "wd": 2},
        "row": {"lr": 3, "wd": 2},
        "again": {"lr": 1, "wd": 2},
    }


def test_every_file_of_the_package_is_read_as_pyyaml_reads_it():
    files = [*SPECS.glob("*.yaml"), *(SPECS.parents[1] / "recipes").rglob("*.yaml")]
    assert len(files) > 10
    for path in files:
        assert read_settings(path, "") == yaml.safe_load(path.read_text())


def test_a_path_with_a_null_byte_is_a_sentence():
    with pytest.raises(InputError, match="cannot be read"):
        parse(["--config", "a\0b"])


def test_twice_in_a_sweep_or_on_the_command_line_is_refused_too(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("seeds: [0]\nrows:\n- {label: a, algorithm: ERM, algorithm: ABRA}\n")
    with pytest.raises(InputError, match="'algorithm' occurs twice"):
        read_spec(path)
    with pytest.raises(InputError, match="--loader_kwargs has num_workers twice"):
        parse(["--algorithm", "ERM", "--loader_kwargs", "num_workers=1", "num_workers=2"])
    with pytest.raises(InputError, match="--model_kwargs has pretrained twice"):
        parse(["--algorithm", "ERM", "--model_kwargs", "pretrained=True", "pretrained=False"])
    with pytest.raises(InputError, match="--slurm has time twice"):
        read_parameters(["time=1", "time=2"], 0)
    with pytest.raises(InputError, match="--sha256 has a twice"):
        expected_sums([f"a={'0' * 64}", f"a={'1' * 64}"])


def test_a_value_says_in_one_line_why_it_cannot_be_read():
    assert read_value("1e-3") == "1e-3" and read_value("[1, a]") == [1, "a"]
    with pytest.raises(ValueError, match="line 1") as fault:
        read_value("[1, ")
    assert "\n" not in str(fault.value)
