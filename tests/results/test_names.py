"""Names of a run's files, with either sign."""

import os

import pytest

from abra_wilds.results.names import (
    all_found,
    found,
    model_name,
    predictions_name,
    read_model_name,
    sign_in,
)
from tests import disks

NAME = predictions_name("rxrx1", "test", 3, "best", "_tta:plate_bn")


@pytest.mark.parametrize("sign", ":=")
@pytest.mark.parametrize("label", ["best", "last", "12", "best_plate_bn_m256"])
def test_the_name_of_a_checkpoint_is_read_back_with_either_sign(sign, label):
    name = model_name("rxrx1_6ch", 7, label).replace(":", sign)
    assert read_model_name(name) == ("rxrx1_6ch", 7, label)
    assert read_model_name(name.replace("model", "pred")) is None


@pytest.mark.parametrize(("there", "asked"), [(a, b) for a in ":=" for b in ":="])
def test_a_file_is_found_by_the_sign_that_it_has_and_else_named_by_the_one_asked_for(tmp_path, there, asked):
    official = tmp_path / NAME
    assert found(official, asked).name == NAME.replace(":", asked)
    (tmp_path / NAME.replace(":", there)).touch()
    assert found(official, asked).name == found(found(official), asked).name == NAME.replace(":", there)
    assert [p.name for p in all_found(tmp_path, "rxrx1_split:*")] == [NAME.replace(":", there)]


@pytest.mark.parametrize("streams", [False, True])
def test_a_disk_without_colons_is_told_by_a_name_as_it_will_be_written(tmp_path, monkeypatch, streams):
    assert sign_in(tmp_path, NAME) == ":"
    disks.refuse_colons(monkeypatch, tmp_path, streams)
    assert sign_in(tmp_path, NAME) == "="
    assert [p.name for p in tmp_path.iterdir() if "stream" not in p.name] == []


def test_a_folder_that_takes_no_file_is_said_to_take_none(tmp_path, monkeypatch):
    def refuse(path, flags, *args, **kwargs):
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        sign_in(tmp_path, NAME)
