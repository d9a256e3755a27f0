"""Making WILDS importable: in processes of their own, because imports happen once."""

import importlib
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from abra_wilds.compat import imports as compat
from abra_wilds.types import InputError


def alone(code, *, path=None, timeout=600):
    """What a fresh interpreter prints, or fails with its last line."""
    start = f"import sys; sys.path[:0] = {[str(path)] if path else []}\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    env = {name: value for name, value in os.environ.items() if name != "OUTDATED_IGNORE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported_or_changed_at_package_import():
    printed = alone("""
        import os, torch
        from abra_wilds.compat import imports as compat
        names = ("wilds", "torchvision", "torch_scatter", "outdated", "pandas")
        print([name for name in names if name in sys.modules])
        print(hasattr(torch.ops.torchvision, "nms"), "OUTDATED_IGNORE" in os.environ, compat._kept)
    """)
    assert printed.splitlines() == ["[]", "False False []"]


def test_import_wilds_starts_no_thread_and_looks_for_no_network():
    printed = alone("""
        import socket, threading
        asked = []
        class Refused(socket.socket):
            def __init__(self, *args, **kwargs):
                asked.append(args)
                raise OSError("no network in this test")
        socket.socket = Refused
        socket.create_connection = socket.getaddrinfo = lambda *args, **kwargs: asked.append(args)
        import os
        from abra_wilds.compat import imports as compat
        wilds = compat.import_wilds()
        from wilds.datasets.rxrx1_dataset import RxRx1Dataset
        print(wilds.__version__, asked, threading.active_count(), os.environ["OUTDATED_IGNORE"])
        print(compat.import_wilds() is wilds, sys.modules.get("outdated", "absent"))
    """)
    assert printed.splitlines() == ["2.0.0 [] 1 1", "True absent"]


def test_torchvision_guard_declares_schemas_only_where_the_import_fails():
    printed = alone("""
        import torch
        from abra_wilds.compat import imports as compat
        try:
            import torchvision
            works = True
        except RuntimeError:
            works = False
            compat.forget("torchvision")
        twice = compat.torchvision_importable(), compat.torchvision_importable()
        print(*twice, len(compat._kept) == (not works))
        from torchvision.models import resnet18
        from torchvision.transforms import functional
        import gc; gc.collect()
        print(torch.ops.torchvision.nms is not None)
    """)
    assert printed.splitlines() == ["True True True", "True"]


def test_torchvision_guard_touches_nothing_where_torchvision_works(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    code = "from abra_wilds.compat import imports as c; print(c.torchvision_importable(), c._kept)"
    assert alone(code, path=tmp_path) == "True []"


def test_torchvision_guard_hides_no_other_fault(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('CUDA driver too old')")
    printed = alone("""
        from abra_wilds.compat import imports as compat
        try:
            compat.torchvision_importable()
        except RuntimeError as fault:
            print(fault)
    """, path=tmp_path)  # fmt: skip
    assert printed == "CUDA driver too old"


def test_missing_torchvision_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert not compat.torchvision_importable()
    with pytest.raises(InputError, match="torchvision"):
        compat.import_wilds()


def test_pandas_3_gives_rxrx1_writable_tables():
    printed = alone("""
        import pandas
        pandas.__version__ = "3.1.1"
        from abra_wilds.compat import imports as compat, writable
        compat.import_wilds()
        from wilds.datasets import rxrx1_dataset
        print(rxrx1_dataset.pd is writable, compat.import_wilds() is sys.modules["wilds"])
        print(compat.SUPPLIED["pandas"])
    """)
    first, said = printed.splitlines()
    assert first == "True True" and said.startswith("3.1.1 ")


@pytest.mark.parametrize("fault", ["OSError('undefined symbol: _ZN3c10')", "ImportError('no module')"])
def test_stand_in_replaces_a_torch_scatter_that_does_not_load(tmp_path, fault):
    """A wheel of another torch raises OSError, and leaves its first submodules."""
    package = tmp_path / "torch_scatter"
    package.mkdir()
    (package / "utils.py").touch()
    (package / "__init__.py").write_text(f"import torch_scatter.utils\nraise {fault}")
    printed = alone("""
        from abra_wilds.compat import imports as compat
        compat.import_wilds()
        import torch, torch_scatter
        from wilds.common.utils import avg_over_groups
        means, counts = avg_over_groups(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), 4)
        print(compat.scatter_backend(), [m for m in sys.modules if m.startswith("torch_scatter")])
        print(means.tolist(), counts.tolist())
    """, path=tmp_path)  # fmt: skip
    assert printed.splitlines() == [
        "abra_wilds stand-in ['torch_scatter']",
        "[0.5, 0.0, 1.0, 0.0] [2.0, 0.0, 1.0, 0.0]",
    ]


def test_a_torch_scatter_that_loads_is_used(tmp_path):
    (tmp_path / "torch_scatter.py").write_text("__version__ = '2.1.2'")
    code = "from abra_wilds.compat import imports as c; print(c.scatter_backend(), c.scatter_backend())"
    assert alone(code, path=tmp_path) == "torch_scatter 2.1.2 torch_scatter 2.1.2"


def slow_means(src, index, n_groups):
    """Group means along the last dimension, group by group."""
    groups = [src[..., index == group] for group in range(n_groups)]
    return torch.stack([g.mean(-1) if g.shape[-1] else torch.zeros(src.shape[:-1]) for g in groups], -1)


@pytest.mark.parametrize("shape", [(50,), (3, 50)])
def test_stand_in_gives_group_means_and_0_for_empty_groups(shape):
    g = torch.Generator().manual_seed(0)
    src = torch.randn(shape, generator=g)
    index = torch.randint(0, 6, (50,), generator=g)
    assert torch.allclose(compat.scatter(src, index, dim_size=8), slow_means(src, index, 8), atol=1e-6)
    assert compat.scatter(src, index).shape[-1] == int(index.max()) + 1
    first = compat.scatter(src.movedim(-1, 0), index, dim=0, dim_size=8)
    assert torch.equal(first.movedim(0, -1), compat.scatter(src, index, dim_size=8))


def test_stand_in_refuses_what_wilds_never_asks():
    ones = torch.ones(2)
    with pytest.raises(NotImplementedError, match="reduce='sum'"):
        compat.scatter(ones, ones.long(), reduce="sum")
    with pytest.raises(NotImplementedError, match="torch-scatter"):
        compat.scatter(ones, ones.long(), out=ones)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_stand_in_equals_torch_scatter(dtype):
    name = compat.scatter_backend()
    if name == compat.STAND_IN_VERSION:
        pytest.skip("torch_scatter is not installed or does not load")
    theirs = importlib.import_module("torch_scatter").scatter
    g = torch.Generator().manual_seed(1)
    src = torch.randint(-9, 10, (4, 60), generator=g).to(dtype)
    index = torch.randint(0, 7, (60,), generator=g)
    for given in (index, index.expand(4, -1)):
        a, b = (
            scatter(src, given, dim=-1, dim_size=9, reduce="mean") for scatter in (compat.scatter, theirs)
        )
        assert a.dtype == b.dtype and torch.allclose(a, b)
