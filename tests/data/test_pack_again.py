"""A data set that is packed already, is being packed, or has lost a part of its pack."""

from __future__ import annotations

import warnings

import pytest

from abra_wilds.data.pack import from_files, pack
from abra_wilds.data.packed import INDEX
from abra_wilds.data.wilds_data import load_dataset
from tests.data.screens import own_screen


@pytest.fixture
def root(tmp_path):
    """A root_dir of two plates of six sites of 4 x 4 and six stains."""
    own_screen(tmp_path / "root", {"A-1": "train", "A-2": "test"})
    return tmp_path / "root"


@pytest.fixture
def load(root):
    return lambda: from_files("rxrx1_6ch", root)


def test_a_pack_without_an_index_is_warned_of_by_one_process(root, load, monkeypatch):
    (pack(load()) / INDEX).unlink()
    match = f"no pack in {root}/rxrx1/packed, or an unfinished one; image files are read until 'abra-wilds"
    with pytest.warns(UserWarning, match=match):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
    monkeypatch.setattr("abra_wilds.data.packed.is_main", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
