"""`registered` leaves the process as it was, and brings every method, backbone and data set along."""

import copy
import io
import os
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from PIL import ImageFile

from abra_wilds.compat.imports import import_wilds
from abra_wilds.errors import InputError
from abra_wilds.harness import register
from abra_wilds.harness.register import registered
from abra_wilds.harness.session import Unclosed, attribute, entries, open_session
from abra_wilds.methods import METHODS
from abra_wilds.methods.erm import ERM
from abra_wilds.nets import backbones
from tests.runs import tiny_backbone


class Broken(Exception):
    """Raised inside the block."""


def watched(checkout):
    """What the block may not leave changed: identities where a change of content is no excuse."""
    wilds = import_wilds()
    bare = checkout.modules() | {"transformers"}
    modules = {name: id(m) for name, m in sys.modules.items() if name.partition(".")[0] in bare}
    transformers = sys.modules.get("transformers")
    return {
        "path": (id(sys.path), list(sys.path)),
        "modules": modules,
        "transformers": {k: id(v) for k, v in vars(transformers).items()} if transformers else None,
        "streams": (id(sys.stdout), id(sys.stderr), id(sys.stdin)),
        "argv": (id(sys.argv), list(sys.argv)),
        "environ": dict(os.environ),
        "bytecode": sys.dont_write_bytecode,
        "pillow": ImageFile.LOAD_TRUNCATED_IMAGES,
        "data sets": (id(wilds.supported_datasets), list(wilds.supported_datasets), id(wilds.get_dataset)),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "grad": torch.is_grad_enabled(),
    }


def disturb(checkout):
    """What the scripts do to a process, and more."""
    run_expt = import_module("run_expt")
    assert run_expt.__file__ == str(checkout.examples / "run_expt.py") and ImageFile.LOAD_TRUNCATED_IMAGES
    utils = import_module("utils")
    utils.set_seed(1)
    logger = utils.Logger(None)
    logger.write("written by the checkout's logger\n")
    logger.close()
    sys.argv = ["run_expt.py", "--eval_only"]
    sys.path.insert(0, "nowhere")
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    torch.backends.cudnn.benchmark = True
    torch.set_grad_enabled(False)
    ImageFile.LOAD_TRUNCATED_IMAGES = True


@pytest.fixture
def foreign(monkeypatch):
    """Modules of somebody else under names of the checkout."""
    found = {name: ModuleType(name) for name in ("utils", "utils.deep", "configs")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("devices", [None, "0,1"])
def test_afterwards_the_process_is_as_before(checkout, foreign, monkeypatch, capsys, fails, devices):
    if devices is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    before = watched(checkout)
    try:
        with registered(checkout) as harness:
            changed = watched(checkout)
            assert all(changed[what] != before[what] for what in ("path", "modules", "data sets", "streams"))
            assert import_module("utils") is not foreign["utils"] and harness.checkout is checkout
            disturb(checkout)
            if fails:
                raise Broken
    except Broken:
        assert fails
    assert watched(checkout) == before
    assert all(sys.modules[name] is module for name, module in foreign.items())
    print("standard output is still open")
    shown = capsys.readouterr().out
    assert shown == "written by the checkout's logger\nstandard output is still open\n"


def test_it_can_be_entered_again_and_every_time_finds_fresh_tables(checkout):
    before, found = watched(checkout), []
    for _ in range(2):
        with registered(checkout):
            supported = import_module("configs.supported")
            found.append((supported, list(supported.algorithms), list(supported.models)))
    assert found[0][0] is not found[1][0] and found[0][1:] == found[1][1:]
    assert all(len(names) == len(set(names)) for names in found[1][1:])
    assert watched(checkout) == before


def test_a_failure_while_it_is_opened_leaves_nothing(checkout, monkeypatch):
    def broken(_):
        raise Broken

    before = watched(checkout)
    monkeypatch.setattr(register.Harness, "_wrap_functions", broken)
    with pytest.raises(Broken), registered(checkout):
        pass
    assert watched(checkout) == before


def test_our_methods_stand_beside_the_checkouts_own_under_names_of_their_own(checkout):
    with open_session(checkout):
        own = list(import_module("configs.supported").algorithms)
    with registered(checkout) as harness:
        now = import_module("configs.supported").algorithms
        defaults = import_module("configs.algorithm").algorithm_defaults
        names = harness.names
    assert {"ERM", "IRM", "deepCORAL", "groupDRO"} <= set(own)
    assert list(names) == list(METHODS) and now == own + list(names.values())
    assert names["ABRA"] == "ABRA" and names["ERM"] == "abra:ERM" and names["IRM"] == "abra:IRM"
    assert all((name in own) == (there == f"abra:{name}") for name, there in names.items())
    assert all(defaults[there] == {} for there in names.values()) and defaults["ERM"] != {}


def test_what_joins_our_tables_appears_in_the_checkouts_with_no_further_work(checkout, monkeypatch):
    monkeypatch.setitem(METHODS, "Newcomer", type("Newcomer", (ERM,), {"name": "Newcomer"}))
    monkeypatch.setitem(backbones.BACKBONES, "squashnet", tiny_backbone)
    monkeypatch.setattr(register, "DATASET_NAMES", (*register.DATASET_NAMES, "yeast"))
    with registered(checkout) as harness:
        supported = import_module("configs.supported")
        assert harness.names["Newcomer"] == "Newcomer" and "Newcomer" in supported.algorithms
        assert "squashnet" in supported.models
        assert "squashnet" in import_module("configs.model").model_defaults
        table = import_module("configs.datasets").dataset_defaults
        assert table["yeast"] == table["rxrx1"] and table["yeast"] is not table["rxrx1"]
        assert import_wilds().supported_datasets.count("yeast") == 1
    assert "yeast" not in import_wilds().supported_datasets


def test_a_command_line_does_not_change_the_defaults_of_the_checkouts_own_algorithms(checkout, tmp_path):
    own = ["--dataset", "rxrx1", "--algorithm", "ERM", "--root_dir", str(tmp_path)]
    with registered(checkout) as harness:
        tables = [import_module("configs.datasets").dataset_defaults]
        tables += [import_module("configs.model").model_defaults]
        before = copy.deepcopy(tables)
        harness.arguments(["--algorithm", "ABRA", "--model", "resnet18", "--batch_size", "6", "--lr", "0.5"])
        assert harness.run is not None and tables != before
        assert harness.arguments(own) == own and harness.run is None
        assert tables == before


def test_an_algorithm_of_ours_without_a_command_line_says_so(checkout):
    with registered(checkout):
        initialize = import_module("algorithms.initializer").initialize_algorithm
        config = type("Config", (), {"algorithm": "ABRA"})()
        with pytest.raises(InputError, match="ABRA"):
            initialize(config, {}, None)


def test_a_stream_that_stays_open_passes_everything_else_on():
    below = io.StringIO()
    stream = Unclosed(below)
    print("a line", file=stream, flush=True)
    stream.close()
    print("another", file=stream)
    assert below.getvalue() == "a line\nanother\n" and not stream.closed
    with pytest.raises(AttributeError):
        stream.no_such_method()


def test_closing_a_stream_that_is_gone_says_nothing(tmp_path):
    with open(tmp_path / "out", "w") as below:
        stream = Unclosed(below)
    stream.close()


def test_attribute_and_entries_put_back_what_was_there_also_after_an_error():
    owner, mapping = ModuleType("owner"), {"kept": 1, "gone": 2}
    owner.value = before = object()
    with pytest.raises(Broken), attribute(owner, "value", 3), entries(mapping, {"kept": 5, "new": 6}):
        assert owner.value == 3 and mapping == {"kept": 5, "gone": 2, "new": 6}
        del mapping["kept"]
        raise Broken
    assert owner.value is before and mapping == {"kept": 1, "gone": 2}
