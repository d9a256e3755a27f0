"""A saved model predicts the images of one plate, none of them labelled: as it is, and adapted to the plate.

python examples/predict_a_plate.py logs/try/model simulated/rxrx1_v1.0/images/HUVEC-04/Plate1 --out plate.csv

The table has a row an image: the likeliest class and its probability by the statistics of training, and the
likeliest five by those of the plate. The command `abra-wilds predict` does more; this is it from Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from abra_wilds import adapted, load_model, predict
from abra_wilds.analysis.answers.tables import predicted_columns
from abra_wilds.errors import InputError
from abra_wilds.results.files import atomic_write
from abra_wilds.terminal import Parser, exit_cleanly


class Plate(Dataset[Tensor]):
    """The RGB images (3, H, W) of a folder, by name; replace it by whatever reads yours."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.png"))
        if not self.files:
            raise InputError(f"{folder} holds no .png; give the folder of one plate's images")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(Image.open(self.files[row]).convert("RGB"))).permute(2, 0, 1)


def main(argv: list[str] | None = None) -> int:
    """Write the table of a plate."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "model", help="a model's folder, a run's folder, a checkpoint, or OWNER/NAME of the Hub"
    )
    parser.add_argument("plate", type=Path, help="the folder of the plate's images")
    parser.add_argument("--out", type=Path, default=Path("plate.csv"))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)

    model = load_model(args.model, args.device)
    plate = Plate(args.plate)
    loader = DataLoader(plate, batch_size=64)
    plain = predict(model, loader)
    with adapted(model, loader):
        own = predict(model, loader)

    found = predicted_columns(own.log_softmax(1), model.classes)
    before = predicted_columns(plain.log_softmax(1), model.classes).iloc[:, :2].add_prefix("Unadapted_")
    table = before.join(found)
    table.insert(0, "Image", [file.name for file in plate.files])
    with atomic_write(args.out) as temporary:
        table.to_csv(temporary, index=False)
    changed = (plain.argmax(1) != own.argmax(1)).sum()
    print(f"{len(plate)} images in {args.out}; the plate's statistics change the class of {changed}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
