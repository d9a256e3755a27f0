"""Scores beside WILDS' own: of a screen among treatments alone and by well, and class mixes of any split.

Letters: N images of a batch, n images of a split, W wells, O classes, T classes that are treatments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abra_wilds.config.datasets import known_of
from abra_wilds.dist import max_across_ranks, sum_across_ranks
from abra_wilds.functional.classes import class_mix_spread
from abra_wilds.functional.precision import in_float64

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset


SCREEN_SCORES = ("acc_treatments", "acc_well", "acc_well_treatments")


class ScreenScores:
    """Accuracy among treatments and by well of a split, from the logits of its images.

    Among treatments is the score of the 2019 competition on RxRx1: of images of treatments alone, and with
    no other class to choose from, 1,108 in all. A well's probabilities are the mean of its sites' softmax
    over all classes.

    Args:
        subset: the split, of a data set whose attribute `treatments` holds the classes (T,) that are
            treatments, or None.
        device: where the logits are.

    Attributes:
        predictions: (n,) int64, each image's best class among the treatments (all classes if it is not
            known which are); -1 until it is added.
        probabilities: (W, O) float32, the sum over each well's images.
    """

    def __init__(self, subset: WILDSSubset, device: torch.device):
        fields = list(subset.metadata_fields)
        at = [fields.index(name) for name in ("experiment", "plate", "well", "y")]
        wells, well_of = torch.unique(
            subset.metadata_array[:, at], dim=0, return_inverse=True
        )  # (W, 4), (n,)
        n_classes = int(subset.dataset.n_classes)
        known = subset.dataset.treatments
        self._known = known is not None
        self._treatments = (known if self._known else torch.arange(n_classes)).to(device)
        self._y, self._y_well = subset.y_array.to(device), wells[:, -1].to(device)
        self._well_of = well_of.to(device)
        self.predictions = torch.full((len(subset),), -1, dtype=torch.int64, device=device)
        self.probabilities = torch.zeros(len(wells), n_classes, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, rows: Tensor) -> None:
        """Add images; every row of the split comes once.

        Args:
            logits: (N, O).
            rows: (N,) int64, positions in the split.
        """
        self.predictions[rows] = self._treatments[logits[:, self._treatments].argmax(1)]
        self.probabilities.index_add_(0, self._well_of[rows], logits.float().softmax(1))

    def merge(self) -> None:
        """Take in what all processes have added."""
        self.predictions = max_across_ranks(self.predictions)
        self.probabilities = sum_across_ranks(self.probabilities)

    def results(self) -> dict[str, float]:
        """acc_treatments, acc_well and acc_well_treatments, as fractions.

        Those of treatments are left out where it is not known which classes are, or the split shows none.

        Raises:
            RuntimeError: if an image of the split was not added.
        """
        if bool((self.predictions < 0).any()):
            raise RuntimeError("scores were asked for before every image of the split was added")
        wells = self.probabilities.argmax(1)  # (W,)
        scores = {"acc_well": share(wells == self._y_well)}
        of, of_well = (torch.isin(y, self._treatments) for y in (self._y, self._y_well))
        if self._known and bool(of.any()):
            best = self._treatments[self.probabilities[:, self._treatments].argmax(1)]  # (W,)
            scores["acc_treatments"] = share((self.predictions == self._y)[of])
            scores["acc_well_treatments"] = share((best == self._y_well)[of_well])
        return dict(sorted(scores.items()))


def class_mix(subset: WILDSSubset) -> dict[str, float]:
    """What a bio-batch may be to --tta -> how far the class mix of a split's varies (`mix_spread`)."""
    fields = list(subset.metadata_fields)
    found = {}
    for name, keys in known_of(subset.dataset.dataset_name).groups.items():
        at = [fields.index(key) for key in keys]
        _, g = torch.unique(subset.metadata_array[:, at], dim=0, return_inverse=True)
        found[name] = class_mix_spread(subset.y_array, g)
    return found


def share(right: Tensor) -> float:
    """The share of true values."""
    return float(in_float64(right).mean())
