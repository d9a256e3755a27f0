"""TENT: affine parameters of batch norms that make predictions certain (Wang et al. 2021, arXiv 2006.10726).

Online: the logits of a pass are those of the parameters that the passes before it left, and then one step of
SGD lowers the mean entropy of them. So a bio-batch in a single pass is predicted as by --tta plate_bn, and by
default one pass holds at most the papers' 64 images. Episodic: every bio-batch starts from the trained model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from abra_wilds.methods.base import Method
from abra_wilds.tta.literature.affine import Descent, affine_copies, entropies, gradients


def tent(
    method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = (), *, steps: int = 1
) -> list[Tensor]:
    """Logits (N, O) of each pass, before the last of its steps.

    Args:
        method: in evaluation mode, and left as it was.
        passes: images (N, C_in, H, W) of each.
        known: not read.
        steps: of SGD a pass.

    Raises:
        InputError: for a batch norm's input with one value a channel.
    """
    found = []
    with affine_copies(method) as parameters:
        descent = Descent(parameters)
        for x in passes:
            for _ in range(steps):
                logits = method.predict(x)
                descent.move(gradients(entropies(logits).mean(), parameters))
            found.append(logits.detach())
    return found
