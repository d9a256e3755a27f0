"""What today's packages no longer give is supplied in memory, said, and named by doctor with its fix."""

import math
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds.__main__ import main
from abra_wilds.commands import doctor
from abra_wilds.compat import imports as compat
from abra_wilds.compat import writable
from abra_wilds.errors import InputError
from abra_wilds.harness import supplies
from abra_wilds.harness.register import registered
from abra_wilds.harness.supplies import SUPPLIED_NAMES, TOKENIZERS, transformers_supplied

SCHEDULES = {"linear": lambda p: 1 - p, "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p))}
COMPLETE = "".join(f"def {name}(*_, **__): return {name!r}\n" for name in SUPPLIED_NAMES)
# A package that gives its parts when they are asked for, as transformers does.
LAZY = "def __getattr__(name):\n    raise {}\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a transformers of this source on the path; what it leaves goes with the test."""
    for name in leftovers():
        monkeypatch.delitem(sys.modules, name)

    def write(source):
        folder = tmp_path / "site" / "transformers"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        (folder / "part.py").touch()
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

    yield write
    for name in leftovers():
        del sys.modules[name]


def leftovers():
    """Modules of transformers."""
    return sorted(name for name in sys.modules if name.partition(".")[0] == "transformers")


BROKEN = {
    "absent": "raise ModuleNotFoundError(name='transformers')",
    "ImportError": "raise ImportError('tokenizers>=0.22 is required')",
    "RuntimeError": "raise RuntimeError('numpy is not available')",
    "OSError": "raise OSError('undefined symbol')",
    **{kind: f"raise {kind}('too old')" for kind in ("ValueError", "AttributeError", "TypeError")},
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_transformers_that_cannot_be_imported_is_replaced_whole(package, source):
    package(source)
    with transformers_supplied() as said:
        given = import_module("transformers")
        assert all(getattr(given, name) is SUPPLIED_NAMES[name] for name in SUPPLIED_NAMES)
        from transformers import AdamW

        assert AdamW is torch.optim.AdamW
    assert said.startswith("not importable; given: AdamW (torch), BertTokenizerFast (refuses)")
    assert "get_cosine_schedule_with_warmup (abra_wilds)" in said and "transformers" not in sys.modules


def test_a_transformers_that_fails_half_way_leaves_no_parts(package):
    package("import transformers.part\nraise RuntimeError('too old')")
    before = leftovers()
    with transformers_supplied():
        pass
    assert leftovers() == before


def test_what_a_transformers_lacks_is_lent_to_it_and_taken_back(package):
    package("__version__ = '5.23'\n" + COMPLETE.replace("def AdamW", "def OldAdamW"))
    module = import_module("transformers")
    before = dict(vars(module))
    with transformers_supplied() as said:
        assert module.AdamW is torch.optim.AdamW and module.BertTokenizerFast() == "BertTokenizerFast"
        assert sys.modules["transformers"] is module
    assert said == "5.23 lacks names; given: AdamW (torch)"
    assert vars(module) == before and sys.modules["transformers"] is module


@pytest.mark.parametrize(
    "fault", ["ImportError('needs torch')", "RuntimeError('no')", "AttributeError(name)"]
)
def test_a_part_that_fails_when_it_is_asked_for_counts_as_lacking(package, fault):
    package("__version__ = '4.99'\n" + LAZY.format(fault))
    with transformers_supplied() as said:
        assert import_module("transformers").AdamW is torch.optim.AdamW
    assert said.startswith("4.99 lacks names; given: ") and all(name in said for name in SUPPLIED_NAMES)


def test_a_complete_transformers_is_left_alone_and_nothing_is_said(package, checkout):
    package(COMPLETE)
    module = import_module("transformers")
    before = dict(vars(module))
    with transformers_supplied() as said:
        assert said == "" and vars(module) == before and module.AdamW() == "AdamW"
    with registered(checkout) as harness:
        assert "transformers" not in harness.supplied


@pytest.mark.parametrize("missing", [False, True])
def test_it_is_as_before_also_after_a_fault_inside(package, missing):
    package("raise ImportError" if missing else "x = 1")
    before = leftovers()
    with pytest.raises(ZeroDivisionError), transformers_supplied():
        raise ZeroDivisionError
    assert [n for n in leftovers() if missing] == before
    assert not hasattr(sys.modules.get("transformers"), "AdamW")


def test_every_name_that_a_checkouts_scripts_import_for_images_is_supplied(checkout):
    needed = set()
    for name in ("optimizer", "scheduler", "transforms"):
        text = (checkout.examples / f"{name}.py").read_text()
        for names in re.findall(r"from transformers import \(?([\w, ]+)", text):
            needed |= {n.split(" as ")[0].strip() for n in names.split(",")}
    assert needed and needed <= set(SUPPLIED_NAMES)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("warm", "total"), [(0, 8), (3, 11), (8, 8)])
def test_the_schedules_are_warm_up_then_their_closed_forms(kind, warm, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    make = SUPPLIED_NAMES[f"get_{kind}_schedule_with_warmup"]
    scheduler = make(optimizer, num_warmup_steps=warm, num_training_steps=total)
    for step in range(total + 3):
        p = min(1.0, (step - warm) / max(1, total - warm))
        expected = step / warm if step < warm else SCHEDULES[kind](p)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * expected, abs=1e-12), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stand_in_refuses_to_be_used_by_its_name(name):
    for use in (SUPPLIED_NAMES[name], SUPPLIED_NAMES[name].from_pretrained):
        with pytest.raises(InputError, match=f"{name} .*pip install"):
            use("bert-base-uncased")


@pytest.fixture
def new_pandas(monkeypatch):
    """pandas that calls itself 3 and, as 3 does, hands out read-only views; WILDS as it is unpatched."""
    compat.import_wilds()
    rxrx1 = import_module("wilds.datasets.rxrx1_dataset")
    for state in (rxrx1, "pd", pd), (pd, "__version__", "3.1.1"):
        monkeypatch.setattr(*state)
    monkeypatch.delitem(compat.SUPPLIED, "pandas", raising=False)
    with pd.option_context("mode.copy_on_write", True):
        yield rxrx1
    compat.SUPPLIED.pop("pandas", None)


def test_tables_write_through_where_pandas_hands_out_views(new_pandas, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    plain, table = pd.read_csv(tmp_path / "t.csv"), writable.read_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="read-only"):
        plain.a.apply(lambda n: n + 1).values[0] = 9
    for series in (table.a.apply(lambda n: n + 1), table["a"] + 1, table[table.a > 0].a + 1):
        values = series.values
        values[0] = 9
        assert isinstance(series, writable.Column) and values.tolist()[0] == 9
        assert series.tolist() == [2, 3] and series.values is not series.values
    rows = table.apply(lambda row: f"{row.a}{row.b}", axis=1)
    assert rows.values.flags.writeable and rows.tolist() == ["1x", "2y"] and table.a.tolist() == [1, 2]


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) >= 3, reason="compares with pandas 2 as it is")
@pytest.mark.parametrize("scheme", ["official", "mixed-to-test"])
def test_rxrx1_is_read_alike_under_pandas_3(new_pandas, sim_root, scheme):
    def read():
        return new_pandas.RxRx1Dataset(root_dir=str(sim_root), download=False, split_scheme=scheme)

    with pytest.raises(ValueError, match="read-only"):
        read()
    compat._patch_rxrx1()
    assert new_pandas.pd is writable and compat.SUPPLIED["pandas"].startswith("3.1.1 ")
    patched = read()
    new_pandas.pd = pd
    with pd.option_context("mode.copy_on_write", False):
        before = read()
    assert np.array_equal(patched.split_array, before.split_array) and len(set(patched.split_array)) >= 4
    assert patched._input_array.tolist() == before._input_array.tolist()
    assert torch.equal(patched.y_array, before.y_array)
    assert torch.equal(patched.metadata_array, before.metadata_array)


def test_an_older_pandas_is_left_alone(new_pandas, monkeypatch):
    monkeypatch.setattr(pd, "__version__", "2.3.3")
    compat._patch_rxrx1()
    assert new_pandas.pd is pd and "pandas" not in compat.SUPPLIED


def test_doctor_names_every_obstacle_of_a_checkout_and_its_fix(checkout, package, monkeypatch, capsys):
    package("raise ImportError")
    said = {"pandas": "3.1.1 makes read-only", "torch_scatter": "it does not load", "torchvision": "no nms"}
    for name, state in said.items():
        monkeypatch.setitem(compat.SUPPLIED, name, state)
    assert main(["doctor", str(checkout.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(rf"ok +checkout +WILDS {checkout.version} in ", line) for line in lines)
    for name in (*said, "transformers"):
        i = next(i for i, line in enumerate(lines) if f"its {name} " in line)
        assert lines[i].startswith("HELP") and said.get(name, "not importable") in lines[i]
        assert lines[i + 1].endswith(doctor.PLAIN_FIXES[name])
    assert lines[-1] == "nothing to fix"


def test_doctor_says_that_nothing_is_supplied(checkout, package, monkeypatch, capsys):
    package(COMPLETE)
    monkeypatch.setattr("abra_wilds.harness.session.SUPPLIED", {})
    assert main(["doctor", str(checkout.path)]) == 0
    shown = capsys.readouterr().out
    assert "its imports" in shown and "nothing that it is known to miss" in shown and "HELP" not in shown


def test_doctor_fails_where_there_is_no_checkout(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert re.search(rf"FIX +checkout +.*{re.escape(str(tmp_path))}", shown)
    assert shown.endswith("1 to fix\n")


def test_every_package_that_is_supplied_has_a_fix():
    source = Path(compat.__file__).read_text() + Path(supplies.__file__).read_text()
    named = set(re.findall(r'SUPPLIED\["(\w+)"\]', source)) | {"transformers"}
    assert len(named) == 4 and named == set(doctor.PLAIN_FIXES)


def test_a_stand_in_module_holds_nothing_but_the_names(package):
    package("raise ImportError")
    with transformers_supplied():
        assert set(vars(sys.modules["transformers"])) - set(vars(ModuleType("x"))) == set(SUPPLIED_NAMES)
