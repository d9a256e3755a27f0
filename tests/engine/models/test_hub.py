"""Models on a Hub on the loopback: up, down, nothing executed, one sentence where nothing answers."""

import socket

import pytest
import torch

from abra_wilds import Model, load_model
from abra_wilds.errors import InputError
from tests import runs
from tests.engine.models import hub_server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda _: None)  # between the tries of huggingface_hub
        yield hub


@pytest.fixture(scope="module")
def model(tiny, trained):
    return load_model(trained / "model", "cpu")


def test_a_model_goes_up_and_comes_back_the_same(hub, model, trained, plate):
    address = model.push_to_hub("lab/plates", private=True, token="a token")
    assert address.startswith(f"{hub.url}/lab/plates/commit/") and hub.private == {"lab/plates"}
    assert hub.tokens == {"Bearer a token"}
    files = hub.repositories["lab/plates"]
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    assert files["README.md"] == (trained / "model" / "README.md").read_bytes()
    files["pytorch_model.bin"] = files["custom.py"] = b"never fetched"
    for again in (load_model("lab/plates", "cpu"), Model.from_pretrained("lab/plates", "cpu")):
        assert torch.equal(again.predict(plate[0]), model.predict(plate[0]))
        assert again.classes == model.classes
    assert not any("pytorch_model" in asked or "custom.py" in asked for asked in hub.asked)


def test_what_was_fetched_once_is_there_without_the_hub(hub, model, plate):
    model.push_to_hub("lab/plates")
    wanted = load_model("lab/plates", "cpu").predict(plate[0])
    hub.repositories.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert torch.equal(load_model("lab/plates", "cpu").predict(plate[0]), wanted)


def test_a_local_folder_goes_before_a_repository_of_its_name(hub, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("lab/plates")
    load_model("lab/plates", "cpu")
    assert hub.asked == []


@pytest.mark.parametrize("job", ["up", "down"])
def test_where_nothing_answers_it_is_one_sentence(hub, model, monkeypatch, job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError) as refused:
            load_model("lab/plates") if job == "down" else model.push_to_hub("lab/plates")
    assert "\n" not in str(refused.value)
    runs.assert_says(str(refused.value), "could not be", "check the network")


def test_a_repository_that_is_not_there_and_a_name_that_is_none(hub, model):
    with pytest.raises(InputError, match=r"the model lab/other could not be fetched from the Hub \(.*404"):
        load_model("lab/other")
    with pytest.raises(InputError, match="a repository of the Hub is called OWNER/NAME; got 'plates'"):
        model.push_to_hub("plates")


def test_a_file_of_another_model_in_the_repository_is_refused(hub, model):
    model.push_to_hub("lab/plates")
    hub.repositories["lab/plates"]["model.safetensors"] = hub.repositories["lab/plates"]["config.json"]
    with pytest.raises(InputError, match="cannot be read"):
        load_model("lab/plates", "cpu")
