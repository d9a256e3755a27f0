"""The folder that training leaves: whole, with what predict reads, opened without data, alike in logits."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from abra_wilds import fit, load_model, run_config
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.evaluation.results import load_method
from abra_wilds.engine.evaluation.saved import located, saved_config
from abra_wilds.engine.models import stored
from abra_wilds.engine.models.leave import some_of_each
from abra_wilds.engine.models.stored import predicting, read_stored
from abra_wilds.engine.setup import open_evaluation
from abra_wilds.errors import InputError
from abra_wilds.methods import METHODS
from abra_wilds.results.records import read_records
from abra_wilds.results.runs import find_runs
from tests import disks, runs
from tests.helpers import make_method

MODEL = "rxrx1_seed:0_epoch:best_model.pth"


@pytest.fixture(scope="module", autouse=True)
def small(tiny):
    """The tiny network in place of a ResNet."""


@pytest.fixture(scope="module")
def opened(trained):
    """Data and method of the run's best model, by its data."""
    config = saved_config(located(trained / MODEL)[0])
    setup = open_evaluation(config, ["test"])
    return setup, load_method(config, setup, trained / MODEL)[0].eval()


def test_the_folder_holds_three_files_that_say_what_the_model_is(trained):
    folder = trained / "model"
    assert runs.names_in(folder) == {"model.safetensors", "config.json", "README.md"}
    about, run = (json.loads((f / "config.json").read_text()) for f in (folder, trained))
    assert about["data"] == run["data"] and about["run"]["digest"] == run["digest"]
    assert about["checkpoint"]["name"] == MODEL and about["values"]["algorithm"] == "ABRA"
    assert not {"root_dir", "log_dir", "device"} & set(about["values"])
    assert len(about["data"]["classes"]) == 9 and len(about["data"]["channels"]) == 3
    assert [run.path for run in find_runs(trained)] == [trained]


def test_every_number_of_the_card_is_one_of_a_record(trained):
    card = (trained / "model" / "README.md").read_text()
    epoch = json.loads((trained / "model" / "config.json").read_text())["checkpoint"]["epoch"]
    records = [
        r for r in read_records(trained / "results.jsonl") if (r.checkpoint, r.epoch) == ("best", epoch)
    ]
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.endswith("% |")]
    assert [row[2:4] for row in rows] == [[str(r.n), f"{100 * r.acc:.1f} %"] for r in records]
    assert card.startswith("---\nlibrary_name: abra_wilds\n") and "- abra-wilds\n" in card
    assert "simulated" not in card


def test_logits_are_those_of_the_checkpoint_with_its_data(trained, opened):
    setup, method = opened
    images = torch.stack([read_image(setup.dataset, int(row)) for row in setup.subsets["test"].indices])
    with torch.no_grad():
        wanted, features = method.predict(augment(images, "none")), method.embed(augment(images, "none"))
    for source in (trained / "model", trained / MODEL, trained):
        model = load_model(source, "cpu")
        torch.testing.assert_close(model.predict(images), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.embed(images), features, rtol=0, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(model(images).argmax(1), wanted.argmax(1))


def test_opening_a_model_draws_nothing_from_the_callers_generator(trained):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    load_model(trained / "model", "cpu")
    assert torch.equal(torch.rand(2), wanted)


def test_a_saved_copy_is_the_same_model_and_overwrites_nothing(trained, tmp_path):
    model = load_model(trained / MODEL, "cpu")
    folder = model.save(tmp_path / "deep" / "copy")
    again, x = load_model(folder, "cpu"), torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again.predict(x), model.predict(x))
    names = set(load_file(folder / "model.safetensors"))
    assert {n for n in names if not n.startswith("components/")} == set(predicting(model.method))
    with pytest.raises(InputError, match="exists and is not overwritten"):
        model.save(folder)


def test_components_and_centroids_go_with_it(trained, opened):
    model = load_model(trained / "model", "cpu")
    kept = torch.load(trained / "rxrx1_seed:0_epoch:best_components_plate.pth", weights_only=True)
    state = model.components.state()
    for key, value in kept["means"]["net.stages.stem.1"].items():
        assert torch.equal(state["means"]["net.stages.stem.1"][key], value)
    assert state["calibration"]["scores"] == list(kept["calibration"]["scores"])
    setup, method = opened
    train = setup.subsets["train"]
    rows = some_of_each(train.y_array.numpy(), 0)
    with torch.no_grad():
        features = [
            method.embed(augment(read_image(setup.dataset, int(train.indices[r]))[None], "none"))
            for r in rows
        ]
    for k in range(9):
        own = torch.cat(features)[train.y_array[rows] == k].mean(0)
        torch.testing.assert_close(model.centroids[k], own, rtol=1e-4, atol=1e-5)


def test_at_most_so_many_rows_of_each_class_are_drawn():
    labels = np.repeat([4, 1, 7], [100, 5, 32])
    np.random.default_rng(1).shuffle(labels)
    rows = some_of_each(labels, 0)
    assert np.bincount(labels[rows], minlength=8).tolist() == [0, 5, 0, 0, 32, 0, 0, 32]
    assert (np.diff(rows) > 0).all() and not np.array_equal(rows, some_of_each(labels, 1))


@pytest.mark.parametrize("name", list(METHODS))
def test_what_predict_reads_is_all_that_it_needs(name):
    """Everything else is overwritten by nan, and predictions stay."""
    method = make_method(name, dtype=torch.float32).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted, kept = method.predict(x), predicting(method)
        for key, tensor in method.state_dict().items():
            if isinstance(tensor, torch.Tensor) and key not in kept and tensor.is_floating_point():
                tensor.fill_(float("nan"))
        assert torch.equal(method.predict(x), wanted)
        for key in [k for k in kept if "running" in k or k.endswith("weight")][:3]:
            kept[key].fill_(float("nan"))
            assert method.predict(x).isnan().any()


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_is_built_for_prediction_without_its_bio_batches(name):
    method = make_method(name, dtype=torch.float32)
    info = replace(method.info, n_groups=1, train_groups=(0,))
    other = METHODS[name](make_method(name, dtype=torch.float32).net, info, method.cfg)
    x = torch.randn(2, 3, 8, 8)
    stored.take_weights(other, predicting(method), "it")
    with torch.no_grad():
        assert torch.equal(other.eval().predict(x), method.eval().predict(x))


def damaged(folder, how):
    config = folder / "config.json"
    about = json.loads(config.read_text())
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:200])
    if how == "other":
        save_file({"net.x": torch.zeros(2)}, weights)
    if how == "classes":
        about["data"]["classes"].append("one more")
    if how == "nameless":
        about["data"]["channels"] = 3
    if how == "algorithm":
        about["values"]["algorithm"] = "os.system"
    if how == "no config":
        config.unlink()
        return
    config.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "model.safetensors cannot be read"),
        ("other", "is not the file that config.json beside it names"),
        ("classes", r"head.weight is \[10, 12\] there, and the weights have \[9, 12\]"),
        ("nameless", "does not name the classes and channels"),
        ("algorithm", "unknown algorithm 'os.system'"),
        ("no config", "is missing or of no model"),
    ],
)
def test_a_folder_that_was_damaged_is_one_sentence(trained, tmp_path, how, said):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    damaged(folder, how)
    with pytest.raises(InputError, match=said):
        load_model(folder, "cpu")


def test_a_model_of_other_channels_and_what_is_no_image_are_refused(trained):
    model = load_model(trained / "model", "cpu")
    with pytest.raises(InputError, match="with the channels Hoechst, ConA, phalloidin in this order"):
        model.predict(torch.zeros(2, 5, 32, 32))
    with pytest.raises(InputError, match="got str"):
        model.predict(["a"])
    with pytest.raises(InputError, match="there is no model nowhere; give"):
        load_model("nowhere")


def test_a_write_that_fails_leaves_the_old_folder_whole(trained, tmp_path):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    before = runs.content(folder)
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, tmp_path, "*README*", 0)
        with pytest.raises(OSError, match="No space"):
            stored.write_stored(read_stored(folder), folder)
    assert runs.content(folder) == before and runs.names_in(tmp_path) == {"model"}
    stored.write_stored(read_stored(folder), folder)
    assert runs.content(folder)["README.md"] == before["README.md"] and runs.names_in(tmp_path) == {"model"}


def test_without_the_flag_there_is_no_folder(root, tmp_path):
    fit(run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", n_epochs=1, save_model=False)))
    assert runs.names_in(tmp_path / "run") == runs.files() - {"model"}


def test_the_model_of_an_older_run_whose_config_says_nothing_of_data(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**content, "data": None}))
    model, x = load_model(run / MODEL, "cpu"), torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8)
    assert model.classes == [str(k) for k in range(9)] and model.channels[2] == "channel 3"
    assert torch.equal(model.predict(x), load_model(trained / "model", "cpu").predict(x))
