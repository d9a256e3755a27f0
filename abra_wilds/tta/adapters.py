"""Test-time adaptation: from one bio-batch's images to logits; the method stays as it was.

An adapter takes a method in evaluation mode and the images (N, C_in, H, W) of each forward pass of a
bio-batch, standardised and on the method's device, drawn one pass at a time; it returns the logits (N, O) of
each pass. Weights, affine parameters included, are the same afterwards, and no label is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from abra_wilds.config.evaluation import LOGIT_TTA, EvalConfig
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import buffers_put_back, statistics_of_input, tracking_norms
from abra_wilds.tta.components import Components
from abra_wilds.tta.eb_bn import class_aware_statistics
from abra_wilds.tta.literature.label_shift import corrected
from abra_wilds.tta.literature.lame import lame
from abra_wilds.tta.literature.sar import sar
from abra_wilds.tta.literature.tent import tent
from abra_wilds.tta.literature.unmix_tns import unmix_tns

# The method, the images of each pass, and class ids of each pass where they are known (controls), or ().
Adapter = Callable[[Method, Iterable[Tensor], Sequence[Tensor]], list[Tensor]]


@torch.no_grad()
def running_statistics(
    method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()
) -> list[Tensor]:
    """No adaptation."""
    return [method.predict(x) for x in passes]


@torch.no_grad()
def own_statistics(
    method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = (), *, prior: float = 0.0
) -> list[Tensor]:
    """Each pass by the statistics of its images, mixed with the running ones where prior is not 0.

    Over a whole plate it is AdaBN (Li et al. 2016, arXiv 1603.04779) with the plate as domain, as in BEN (Lin
    & Lu 2022); over batches in dataset order, or with a prior, test-time batch norm (Schneider et al. 2020,
    arXiv 2006.16971).
    """
    with buffers_put_back(method), statistics_of_input(method, prior):
        return [method.predict(x) for x in passes]


@torch.no_grad()
def first_pass_statistics(
    method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Every pass by the statistics of the first, which holds the bio-batch's control wells.

    In BEN's code (Lin & Lu 2022) this is an option that the paper does not report.
    """
    left = iter(passes)
    with buffers_put_back(method):
        with statistics_of_input(method):
            logits = [method.predict(next(left))]
        return logits + [method.predict(x) for x in left]


ADAPTERS: dict[str, Callable[..., list[Tensor]]] = {
    "none": running_statistics,
    "batch_bn": own_statistics,
    "plate_bn": own_statistics,
    "mixed_bn": own_statistics,
    "controls_bn": first_pass_statistics,
    "eb_bn": class_aware_statistics,
    "unmix_tns": unmix_tns,
    "tent": tent,
    "sar": sar,
    "lame": lame,
    "label_shift": corrected(running_statistics),
}


def make_adapter(e: EvalConfig, components: Components | None = None) -> Adapter:
    """The adapter of --tta, with its prior or the method's components, which `needs_components` asks for."""
    adapter = ADAPTERS[e.tta]
    if e.tta == "mixed_bn":
        return partial(adapter, prior=e.tta_prior)
    return partial(adapter, components=components) if e.needs_components else adapter


def check_adaptable(method: Method, e: EvalConfig) -> None:
    """Raise where there is nothing that --tta could adapt.

    Raises:
        InputError: if the method has no batch norm.
    """
    if e.tta not in ("none", *LOGIT_TTA) and not tracking_norms(method):
        raise InputError(
            f"--tta {e.tta} changes batch norms, and {method.name} on this model has none; leave it out, or "
            f"give {' or '.join(LOGIT_TTA)}"
        )
