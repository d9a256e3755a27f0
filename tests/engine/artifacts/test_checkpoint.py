"""Checkpoints: strict, whole, and without code that runs when they are loaded."""

import os
import pickle

import pytest
import torch

from abra_wilds.engine.artifacts.checkpoint import (
    Progress,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from abra_wilds.engine.step import step
from abra_wilds.types import InputError
from tests.helpers import make_batch, make_method
from tests.runs import differences

GROUPS = (0, 0, 0, 1, 1, 1)


@pytest.mark.parametrize("name", ["ERM", "ABRA", "deepCORAL", "groupDRO", "IRM"])
def test_a_checkpoint_brings_back_method_optimiser_and_progress(tmp_path, name):
    method, twin = make_method(name), make_method(name, seed=7)
    optimizers = [torch.optim.Adam(m.parameters(), 0.01) for m in (method, twin)]
    for seed in range(3):
        step(method, make_batch(GROUPS, seed=seed), optimizers[0])
    progress = Progress(epoch=4, best_val_metric=0.25, best_epoch=2, seconds=1.5)
    save_checkpoint(tmp_path / "c.pth", method, progress, optimizers[0])
    assert load_checkpoint(tmp_path / "c.pth", twin, optimizers[1]) == progress
    assert differences(dict(method.state_dict()), dict(twin.state_dict())) == []
    assert differences(optimizers[0].state_dict(), optimizers[1].state_dict()) == []
    torch.manual_seed(3)
    step(method, make_batch(GROUPS, seed=9), optimizers[0])
    torch.manual_seed(3)
    step(twin, make_batch(GROUPS, seed=9), optimizers[1])
    assert differences(dict(method.state_dict()), dict(twin.state_dict())) == []


def test_a_checkpoint_has_the_keys_that_wilds_reads(tmp_path):
    save_checkpoint(tmp_path / "c.pth", make_method("ERM"), Progress(3, 0.5, 1))
    saved = torch.load(tmp_path / "c.pth", weights_only=True)
    assert {"algorithm", "epoch", "best_val_metric"} < set(saved)
    assert (saved["epoch"], saved["best_val_metric"]) == (3, 0.5)
    assert not list(tmp_path.glob(".*"))


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint .*c\.pth"):
        read_checkpoint(tmp_path / "c.pth")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))]
)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, write):
    write({"algorithm": Bomb(tmp_path / "ran"), "epoch": 0, "best_val_metric": None}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"^[^\n]*c\.pth[^\n]*$"):
        load_checkpoint(tmp_path / "c.pth", make_method("ERM"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*c\.pth [^\n]*\(.+\)[^\n]*$"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_bare_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(1), tmp_path / "c.pth")
    with pytest.raises(InputError, match="Tensor"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_checkpoint_without_an_optimiser_cannot_be_resumed(tmp_path):
    method = make_method("ERM")
    save_checkpoint(tmp_path / "c.pth", method, Progress(0, 0.5, 0))
    with pytest.raises(InputError, match="optimizer"):
        load_checkpoint(tmp_path / "c.pth", method, torch.optim.SGD(method.parameters(), 0.1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("head.bias"), "Missing key"),
        (lambda s: s.update({"more.weight": torch.zeros(1)}), "Unexpected key"),
        (lambda s: s.update({"head.bias": torch.zeros(9)}), "size mismatch for head.bias"),
    ],
)
def test_weights_are_loaded_strictly(tmp_path, change, named):
    method = make_method("ERM")
    state = dict(method.state_dict())
    change(state)
    torch.save({"algorithm": state, "epoch": 0, "best_val_metric": None}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=rf"^[^\n]*c\.pth [^\n]*ERM[^\n]*{named}[^\n]*$"):
        load_checkpoint(tmp_path / "c.pth", method)


@pytest.mark.parametrize(("of", "into"), [("IRM", "ERM"), ("ERM", "ABRA"), ("ABRA", "IRM")])
def test_a_checkpoint_of_another_method_does_not_fit(tmp_path, of, into):
    save_checkpoint(tmp_path / "c.pth", make_method(of), Progress(0))
    with pytest.raises(InputError, match=f"c.pth .*{into}"):
        load_checkpoint(tmp_path / "c.pth", make_method(into))


def test_of_many_weights_that_do_not_fit_the_first_and_their_number_are_said(tmp_path):
    method = make_method("ERM")
    torch.save({"algorithm": {}, "epoch": 0, "best_val_metric": None}, tmp_path / "c.pth")
    keys = [key for key in method.state_dict() if not key.endswith("tracked")]  # those torch forgives
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "c.pth", method)
    assert f'"{keys[0]}" and {len(keys) - 1} more' in str(caught.value) and keys[1] not in str(caught.value)


def test_an_optimiser_of_another_kind_does_not_fit(tmp_path):
    method = make_method("ERM")
    other = torch.optim.Adam(list(method.parameters())[:2], 0.1)
    save_checkpoint(tmp_path / "c.pth", method, Progress(0), other)
    with pytest.raises(InputError, match="does not fit ERM"):
        load_checkpoint(tmp_path / "c.pth", method, torch.optim.Adam(method.parameters(), 0.1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": "last"}, "says epoch is 'last'"),
        ({"best_val_metric": [0.5]}, r"says best_val_metric is \[0.5\]"),
        ({"picked": 3}, "says picked is 3"),
        ({"algorithm": [1]}, "not a checkpoint"),
        ({"optimizer": {"state": 1}}, "does not fit"),
    ],
)
def test_a_checkpoint_with_other_content_is_a_sentence(tmp_path, changes, said):
    method = make_method("ERM")
    optimizer = torch.optim.Adam(method.parameters())
    save_checkpoint(tmp_path / "c.pth", method, Progress(3, 0.5, 1), optimizer)
    torch.save(torch.load(tmp_path / "c.pth", weights_only=True) | changes, tmp_path / "c.pth")
    with pytest.raises(InputError, match=said):
        load_checkpoint(tmp_path / "c.pth", method, optimizer)


def test_no_sentence_advises_to_load_a_file_with_code(tmp_path):
    """Torch's own message about such a file does."""
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"algorithm": Progress()}))
    with pytest.raises(InputError, match="other things than tensors") as fault:
        read_checkpoint(tmp_path / "c.pth")
    assert "weights_only" not in str(fault.value) and "trust" not in str(fault.value)
