"""What the files around the package say of it: they agree with one another."""

import configparser
import re

import pytest
import yaml

import abra_wilds
from tests import runs

SETUP = configparser.ConfigParser()
SETUP.read(runs.REPOSITORY / "setup.cfg")
# Packages that conda-forge has by other names.
ON_CONDA = {"torch": "pytorch", "PyYAML": "pyyaml"}
# torch-scatter needs a compiler; lightly and lightning bring timm; docs and dev are for the repository.
NOT_IN_ALL = {"scatter", "timm", "docs", "dev", "all"}


def read(name):
    """The text of a file of the repository."""
    return (runs.REPOSITORY / name).read_text(encoding="utf-8")


def lines(text):
    """The lines of a value in setup.cfg that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_every_file_names_the_same_version():
    released = re.findall(r"^## (\d\S*) - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE)
    cited = yaml.safe_load(read("CITATION.cff"))["version"]
    recipe = yaml.safe_load(read("conda/meta.yaml"))["package"]["version"]
    assert {released[0], cited, recipe} == {abra_wilds.__version__}


def test_the_recipe_of_conda_asks_for_what_setup_asks_for():
    recipe = yaml.safe_load(read("conda/meta.yaml"))
    python = f"python {SETUP['options']['python_requires']}"
    wanted = [
        re.sub(r"^\w+", lambda name: ON_CONDA.get(name[0], name[0]), line)
        for line in lines(SETUP["options"]["install_requires"])
    ]
    assert recipe["requirements"]["run"] == [python, *wanted]
    assert recipe["build"]["entry_points"] == lines(SETUP["options.entry_points"]["console_scripts"])


def test_the_extra_all_has_the_others():
    extras = SETUP["options.extras_require"]
    (every,) = lines(extras["all"])
    assert every == f"abra-wilds[{','.join(sorted(set(extras) - NOT_IN_ALL))}]"


@pytest.mark.parametrize("extra", sorted(set(SETUP["options.extras_require"]) - {"docs"}))
def test_what_an_extra_brings_has_a_tested_version(extra):
    pinned = {name.lower() for name in re.findall(r"^([\w-]+)==", read("constraints.txt"), re.MULTILINE)}
    asked = [re.match(r"[\w-]+", line)[0].lower() for line in lines(SETUP["options.extras_require"][extra])]
    assert {name for name in asked if name != "abra-wilds"} <= pinned
