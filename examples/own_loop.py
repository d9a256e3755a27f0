"""ABRA in a plain PyTorch loop: a network of timm's learns simulated plates and predicts new ones.

python examples/own_loop.py --epochs 8    # seconds on a CPU

Each new plate is predicted by the statistics of training and by its own (`adapted`); no label of it is read.
The pictures are simulated: accuracies show that the parts fit together, and nothing about biology.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from abra_wilds import BatchShift, PlateBatchSampler, abra_loss, adapted, predict
from abra_wilds.data.augment.transforms import standardise
from abra_wilds.nets.backbones import timm_package
from abra_wilds.simulate import SimulationConfig, pictures

N_CLASSES, LR = 8, 1e-3


class Images(NamedTuple):
    """Images (n, C, H, W), their classes (n,) and the numbers of their plates (n,)."""

    x: Tensor
    y: Tensor
    plate: Tensor

    def of(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(*(column[rows] for column in self))


def simulated_plates() -> tuple[Images, Images]:
    """20 plates to learn from, and four of another experiment."""
    screen = SimulationConfig(
        classes=N_CLASSES,
        image_size=48,
        replicates=3,
        train_experiments=(0, 5, 0, 0),  # of each of four cell lines
        val_experiments=(0, 0, 0, 0),
        test_experiments=(0, 1, 0, 0),
    )
    found = pictures(screen)
    images = Images(*map(torch.from_numpy, (found.x, found.y, found.plate)))
    images = images._replace(x=standardise(images.x))
    known = torch.from_numpy(found.split == "train")
    return images.of(known), images.of(~known)


class Classifier(nn.Module):
    """A network of your own; what ABRA adds are `arc_weight` and `shift`, which prediction does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm_package().create_model("test_resnet", num_classes=0, global_pool="")
        D = self.trunk.num_features
        self.head = nn.Linear(D, N_CLASSES)
        self.arc_weight = nn.Parameter(torch.randn(N_CLASSES, D) * D**-0.5)
        self.shift = BatchShift(D)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (N, O) of images (N, C, H, W)."""
        logits: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return logits


def plate_loader(images: Images) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of one plate each."""
    return DataLoader(TensorDataset(*images), batch_sampler=PlateBatchSampler(images.plate, 16))


def train(net: Classifier, loader: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """The loop."""
    optimizer = torch.optim.Adam(net.parameters(), LR)
    net.train()
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for x, y, plate in loader:
            out = abra_loss(net.trunk(x), y, net.head, net.arc_weight, net.shift, alpha=LR, bio_batch=plate)
            optimizer.zero_grad()
            out.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        logs = "  ".join(f"{name} {out.logs[name]:.3f}" for name in ("L_clean", "L_shifted", "K_rel_mean"))
        print(f"epoch {epoch + 1}  loss {out.loss.item():.3f}  {logs}")


def show_new_plates(net: nn.Module, images: Images) -> None:
    """Accuracy on each plate, by the statistics of training and by its own."""
    print("accuracy on simulated plates\nplate  images  as it is  adapted")
    for number in sorted(set(images.plate.tolist())):
        x, y, _ = images.of(images.plate == number)
        plain = predict(net, x)
        with adapted(net, x):
            own = predict(net, x)
        scores = [(logits.argmax(1) == y).float().mean().item() for logits in (plain, own)]
        print(f"{number:5d}  {len(x):6d}  {scores[0]:8.3f}  {scores[1]:7.3f}")


def flags() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    known, new = simulated_plates()
    classifier = Classifier()
    train(classifier, plate_loader(known), flags().epochs)
    show_new_plates(classifier, new)
