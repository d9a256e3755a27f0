"""From images to tensors."""

import torch
import torchvision.transforms as T

# Unused on purpose: where these names are missing, a checkout cannot be imported; the harness fixes that.
from transformers import BertTokenizerFast, DistilBertTokenizerFast  # noqa: F401


def initialize_transform(transform_name, config, dataset, is_training, additional_transform_name=None):
    """RxRx1's transform; it takes no additional one."""
    if transform_name != "rxrx1":
        raise ValueError(f"the stand-in transforms rxrx1 only, not {transform_name}")
    moves = [T.Lambda(quarter_turns), T.RandomHorizontalFlip()] if is_training else []
    return T.Compose([*moves, T.ToTensor(), T.Lambda(standardise)])


def quarter_turns(image):
    """Turned by 0, 90, 180 or 270 degrees."""
    turns = int(torch.randint(4, (1,)))
    return T.functional.rotate(image, 90 * turns) if turns else image


def standardise(x):
    """Every channel of every image with mean 0 and standard deviation 1; constant channels are 0."""
    sigma = x.std(dim=(1, 2))
    return T.functional.normalize(x, x.mean(dim=(1, 2)), torch.where(sigma == 0, 1.0, sigma))
