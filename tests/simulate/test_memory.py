"""A screen in memory is the one that is written."""

import numpy as np
import pandas as pd
from PIL import Image

from abra_wilds.simulate import SimulationConfig, pictures, simulate


def test_pictures_are_those_of_the_files_plate_by_plate(tmp_path):
    few = {"train_experiments": (1, 0, 0, 0), "val_experiments": (0,) * 4, "test_experiments": (0, 1, 0, 0)}
    config = SimulationConfig(classes=6, image_size=32, replicates=1, **few)
    found, folder = pictures(config), simulate(tmp_path, config)
    rows = pd.read_csv(folder / "metadata.csv")
    names = [
        f"{e}/Plate{p}/{w}_s{s}.png"
        for e, p, w, s in zip(rows["experiment"], rows["plate"], rows["well"], rows["site"], strict=True)
    ]
    files = [np.array(Image.open(folder / "images" / name)).transpose(2, 0, 1) for name in names]
    np.testing.assert_array_equal(found.x, np.stack(files))
    assert found.y.tolist() == rows["sirna_id"].tolist() and found.split.tolist() == rows["dataset"].tolist()
    plates = rows.groupby(["experiment", "plate"]).ngroup().tolist()
    assert found.plate.tolist() == plates and set(plates) == set(range(8))
