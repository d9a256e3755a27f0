"""Prediction by any module, and any module adapted to given images for a while.

Images come as a tensor (N, C_in, H, W), or as an iterable of batches, such as a torch DataLoader: tensors,
tuples or lists that begin with one, or `Batch`es. They are standardised as the module wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.errors import InputError
from abra_wilds.functional.precision import at_least_fp32
from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import Mixing, buffers_put_back, tracking_norms
from abra_wilds.tta.together import SetNorm, together
from abra_wilds.types import Batch

Images = Tensor | Iterable[Any]


@contextmanager
def adapted(
    module: nn.Module, images: Images, *, prior: float = 0.0, batch_size: int = 256
) -> Iterator[nn.Module]:
    """Inside, batch norms normalise by the statistics of these images; afterwards the module is as found.

    This is --tta plate_bn, AdaBN (Li et al. 2016, arXiv 1603.04779) on the images of one bio-batch: each
    batch norm sees what the adapted ones before it made of all images, however they are cut into batches.
    Inside the module is in evaluation mode. Statistics and modes are put back, also after an exception.

    Args:
        module: any with batch norms, ours or not.
        images: of one bio-batch, unlabelled, two or more; all are held at once, on their own device.
        prior: M images that the running statistics weigh as (--tta mixed_bn; Schneider et al. 2020, arXiv
            2006.16971); infinity leaves the running ones.
        batch_size: images of a forward pass where they come as one tensor.

    Yields:
        The module.

    Raises:
        InputError: for a module without batch norms that keep running statistics, or fewer than two images.
    """
    norms: list[nn.Module] = tracking_norms(module)
    if not norms:
        raise InputError(
            f"{type(module).__name__} has no batch norm with running statistics, which is what `adapted` "
            "replaces; predict without it"
        )
    passes = list(image_batches(images, batch_size))
    if sum(map(len, passes)) < 2:
        raise InputError("statistics of a bio-batch are of two images or more; give `adapted` all of a plate")
    forward, device = forward_of(module), device_of(module)
    with in_evaluation(module), buffers_put_back(module):
        setters: dict[nn.Module, SetNorm] = {norm: Mixing(norm, prior) for norm in norms}
        together(lambda x: forward(x.to(device)), passes, setters)
        yield module


@torch.no_grad()
def predict(module: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """Logits of images in their order, on the host; the module is afterwards in the mode it was found in.

    Args:
        module: (N, C_in, H, W) -> logits (N, O), or one of our methods.
        images: see above; a DataLoader that shuffles gives their order.
        batch_size: images of a forward pass where they come as one tensor.

    Returns:
        (N, O), float32 or better, without gradient.

    Raises:
        InputError: where there are no images, or the module returns something else than a row for each.
    """
    forward, device = forward_of(module), device_of(module)
    logits = []
    with in_evaluation(module):
        for x in image_batches(images, batch_size):
            found = forward(x.to(device))
            if not isinstance(found, Tensor) or found.shape[:1] != x.shape[:1]:
                raise InputError(
                    f"predict takes modules that return a tensor with a row for each image; "
                    f"{type(module).__name__} returns {type(found).__name__}; wrap it in one that does"
                )
            logits.append(at_least_fp32(found).cpu())
    if not logits:
        raise InputError("there are no images to predict; give a tensor (N, C_in, H, W) or batches of them")
    return torch.cat(logits)


def image_batches(images: Images, batch_size: int) -> Iterator[Tensor]:
    """The images of each batch, (N, C_in, H, W).

    Raises:
        InputError: for batches that are or begin with something else than a tensor.
    """
    if isinstance(images, Tensor):
        yield from torch.split(images, batch_size) if len(images) else ()
        return
    for batch in images:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        x = x.x if isinstance(x, Batch) else x
        if not isinstance(x, Tensor):
            raise InputError(
                f"a batch is a tensor of images, or a tuple that begins with one; got {type(x).__name__}"
            )
        yield x


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Inside the module is in evaluation mode; afterwards each of its parts is in the mode it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def forward_of(module: nn.Module) -> Callable[[Tensor], Any]:
    """What makes logits of images: `predict` of our methods, whose forward pass is a training step."""
    return module.predict if isinstance(module, Method) else module


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first tensor lies; the CPU where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
