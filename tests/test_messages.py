"""What messages advise exists: jobs of `abra-wilds`, flags of some command, extras of the package."""

import argparse
import ast
import configparser
import re
import shlex

import pytest

from abra_wilds.__main__ import JOBS, make_parser
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.layouts import find_layout
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import OUTSIDE, WITHOUT_MEANING, flags_by_name
from tests import runs

FILES = sorted((runs.REPOSITORY / "abra_wilds").rglob("*.py"))
# Of other programs, named with them.
FOREIGN = {"nproc_per_node", "master_port", "no"}
EXTRAS = configparser.ConfigParser()
EXTRAS.read(runs.REPOSITORY / "setup.cfg")


def texts(path):
    """Every text of a file that is no docstring, its fields as {}; parts of one sentence together."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docs = {id(n.body[0].value) for n in nodes if ast.get_docstring(n) is not None}
    inner = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | inner):
            yield node.value


def options_of(parser):
    """The long options of a parser and of its jobs."""
    for action in parser._actions:
        yield from (name.removeprefix("--") for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options_of(inner)


def flags_in(said):
    """Names of flags in texts; not of those that a field completes."""
    return {name for text in said for name in re.findall(r"(?<![\w-])--([a-z]\w+)(?!\w|\{)", text)}


def jobs_in(said):
    """Names of jobs in texts."""
    return {name for text in said for name in re.findall(r"abra-wilds (?!in |as |is |and )([a-z]+)\b", text)}


@pytest.fixture(scope="module")
def known():
    """Every flag of every command."""
    jobs = {name for job in JOBS if job != "train" for name in options_of(make_parser(job))}
    return jobs | set(flags_by_name()) | set(OUTSIDE) | set(WITHOUT_MEANING) | FOREIGN


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(runs.REPOSITORY).as_posix())
def test_flags_and_jobs_that_a_text_names_exist(path, known):
    said = [text for text in texts(path) if " " in text]
    assert flags_in(said) - known == set()
    assert jobs_in(said) - set(JOBS) == set()


def test_extras_that_a_text_names_are_those_of_the_package():
    """By the name of the package, since a message does not know where its source lies."""
    said = [text for path in FILES for text in texts(path) if "pip install" in text]
    extras = {name for text in said for name in re.findall(r"abra-wilds\[(\w+)\]", text)}
    assert extras >= {"board", "slurm", "ssl", "timm", "track"}
    assert extras <= set(EXTRAS["options.extras_require"])
    assert not [text for text in said if "-e " in text or "'.[" in text]


def test_what_is_installed_by_its_own_name_is_no_extra():
    said = " ".join(text for path in FILES for text in texts(path))
    named = set(re.findall(r"pip install ([a-z_]+)", said))
    # The rest comes with an extra, in versions that fit.
    assert named <= {"huggingface_hub", "safetensors", "it"}


@pytest.mark.parametrize(
    ("text", "flags", "jobs"),
    [
        ("raise --tta_minimum to 2", {"tta_minimum"}, set()),
        ("run 'abra-wilds repack {}' again", set(), {"repack"}),
        ("give --lr 1, or run abra-wilds pack {}", set(), set()),
    ],
)
def test_a_flag_or_job_that_does_not_exist_would_be_found(text, flags, jobs, known):
    assert (flags_in([text]) - known, jobs_in([text]) - set(JOBS)) == (flags, jobs)


def test_a_path_in_an_advised_command_is_one_word_whatever_is_in_it(tmp_path):
    """Followed as it stands, by a shell's rules."""
    root = tmp_path / "my data; rm -rf x"
    for find in (lambda: find_layout(root), lambda: load_dataset("rxrx1", str(root))):
        with pytest.raises(InputError) as fault:
            find()
        for said in re.findall(r"abra-wilds (?:fetch|simulate).*?(?=', or|'$)", str(fault.value)):
            words = shlex.split(said + ("'" if said.count("'") % 2 else ""))
            assert str(root) in words
