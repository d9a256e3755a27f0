"""Every command on a page is one that the real parsers take: a renamed flag or job breaks a test."""

from __future__ import annotations

import configparser
import re
from functools import cache

import pytest

from abra_wilds.__main__ import JOBS, make_parser, split_at_dashes
from abra_wilds.recipes.flags import flag_parser, parse
from tests.pages.blocks import NEEDS, PAGES, ROOT, blocks, of_language

MAIN = "examples/run_expt.py"
PROSE = (*PAGES, "ARCHITECTURE.md", "CONTRIBUTING.md", "abra_wilds/methods/README.md")
# Flags of pytest, torchrun and a scanner of models.
OTHERS = {"--path", "--runslow", "--nproc_per_node", "--master_port"}
COMMANDS = [(block.name, words) for block in of_language("bash") for words in block.commands()]


def check_command(words):
    """Parse a command as its program would, without running it."""
    program, *rest = words
    if program == "abra-wilds":
        check_job(rest)
    elif program == "python" and rest[0] == MAIN:
        check_job(["train", *rest[1:]])
    elif program == "python" and rest[0] == "examples/run_in_wilds.py":
        check_job(["wilds", *rest[1:]])
    elif program == "python" and rest[0].startswith("leaderboard/"):
        check_job([rest[0].removeprefix("leaderboard/").removesuffix(".py"), *rest[1:]])
        assert (ROOT / rest[0]).is_file()
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        started = get_args_parser().parse_args(rest)
        check_command(["python", started.training_script, *started.training_script_args])
    elif program == "pip":
        check_install(rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program in ("git", "cd"), f"nothing here knows how {program} parses"


def check_job(words):
    """Parse a job of `abra-wilds`."""
    job, *rest = words
    own, _ = split_at_dashes(words)
    if job == "train":
        parse(rest)
    else:
        make_parser(job).parse_args(own)
    # argparse takes the beginning of a flag for it, so that one that got a longer name would still parse.
    assert {word.partition("=")[0] for word in own if word.startswith("--")} <= options(job)


def check_install(words):
    """Files and extras that an installation names exist."""
    assert words[:3] == ["install", "-c", "constraints.txt"] and (ROOT / words[2]).is_file()
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = re.findall(r"\w+", words[-1].partition("[")[2])
    assert extras and set(extras) <= set(config["options.extras_require"])


@cache
def options(job):
    """The flags of a job and of what it is divided into."""
    open_parsers = [flag_parser() if job == "train" else parts(make_parser(job))[job]]
    found = set()
    for parser in open_parsers:
        open_parsers += parts(parser).values()
        found |= {flag for action in parser._actions for flag in action.option_strings}
    return found


def parts(parser):
    """The parsers of a parser's commands, by name."""
    return parser._subparsers._group_actions[0].choices if parser._subparsers else {}


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[" ".join((n, *w))[:90] for n, w in COMMANDS])
def test_the_parser_takes_every_command_of_every_page(name, words):
    check_command(words)


def test_every_block_says_its_language_and_every_mark_stands_above_one():
    assert {block.language for block in blocks()} == {"bash", "python", "yaml"}
    marks = sum(len(NEEDS.findall((ROOT / page).read_text(encoding="utf-8"))) for page in PAGES)
    assert marks == sum(len(block.needs) for block in blocks())
    for block in blocks():
        for what, beginning in block.needs:
            assert not beginning or len(list(block.runnable())) < len(list(block.commands())), (block, what)


@pytest.mark.parametrize("page", PROSE)
def test_flags_and_jobs_that_prose_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    every = set().union(*map(options, JOBS)) | OTHERS
    for span in re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", text):
        job, script = re.match(r"abra-wilds (\w+)", span), re.search(r"examples/benchmarks/[\w/]+\.py", span)
        known = every
        if job:
            known = options(job[1]) | OTHERS
        elif script:
            known = set(re.findall(r'"(--\w+)"', (ROOT / script[0]).read_text(encoding="utf-8")))
        named = set(re.findall(r"(?<![\w-])--[a-z]\w*(?![\w-])", span)) - {"--foo_"}  # CONTRIBUTING's example
        assert named <= known, span
