"""The examples of loops of one's own, and of a plate that a saved model predicts."""

from __future__ import annotations

import os
import re
import runpy
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds import load_model
from abra_wilds.errors import InputError
from tests import runs
from tests.engine.models.conftest import tiny, trained

__all__ = ["tiny", "trained"]

PREDICT = runpy.run_path(str(runs.REPOSITORY / "examples" / "predict_a_plate.py"))["main"]


def test_a_saved_model_predicts_an_unlabelled_plate_as_it_is_and_adapted(tiny, trained, root, tmp_path):
    folder, out = root / "rxrx1_v1.0" / "images" / "HEPG2-04" / "Plate1", tmp_path / "plate.csv"
    argv = [str(trained / "model"), str(folder), "--out", str(out), "--device", "cpu"]
    assert PREDICT(argv) == 0
    table = pd.read_csv(out, dtype={"Predicted": str, "Unadapted_Predicted": str})
    assert table["Image"].tolist() == sorted(p.name for p in folder.iterdir())
    model = load_model(trained / "model", "cpu")
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1) for name in table["Image"]]
    )
    for start, tta in (("", "plate_bn"), ("Unadapted_", "none")):
        p = model.predict(images, tta=tta).softmax(1)
        assert table[f"{start}Predicted"].tolist() == [model.classes[k] for k in p.argmax(1)]
        np.testing.assert_allclose(table[f"{start}Probability"], p.max(1).values, atol=1e-5)
    assert (table["Probability"] - table["Unadapted_Probability"]).abs().max() > 1e-3
    with pytest.raises(InputError, match=r"holds no \.png"):
        PREDICT([argv[0], str(tmp_path), *argv[2:]])


def loop(name: str, **more: object) -> str:
    """What three epochs of a loop print."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = runs.process(f"examples/{name}", "--epochs", 3, **{"env": env, **more})
    assert done.returncode == 0, done.stderr
    return done.stdout


def plates(shown: str) -> list[tuple[float, ...]]:
    """Images and the two accuracies of each new plate."""
    found = re.findall(r"^ +\d+ +(\d+) +([\d.]+) +([\d.]+)$", shown, flags=re.MULTILINE)
    return [tuple(map(float, row)) for row in found]


@pytest.mark.slow
def test_the_plain_loop_learns_and_predicts_new_plates_with_and_without_their_statistics():
    shown = loop("own_loop.py")
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", shown)]
    assert len(losses) == 3 and losses[2] < 0.9 * losses[0]
    found = plates(shown)
    assert [row[0] for row in found] == [14.0] * 4 and any(a != b for _, a, b in found)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
def test_the_loop_of_lightning_trains_and_predicts_the_same_plates():
    assert [row[0] for row in plates(loop("lightning_loop.py"))] == [14.0] * 4


@pytest.mark.slow
def test_without_lightning_its_example_says_how_to_get_it(tmp_path):
    (tmp_path / "lightning.py").write_text("raise ModuleNotFoundError(name='lightning')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(runs.REPOSITORY)])}
    done = runs.process("examples/lightning_loop.py", env=env)
    assert done.returncode == 1 and done.stderr.endswith("run `pip install 'abra-wilds[lightning]'`\n")
