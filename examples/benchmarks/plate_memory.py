"""Memory of predicting a whole plate in one pass, as `--tta plate_bn` and eb_bn do: what fits, what is cut.

    python examples/benchmarks/plate_memory.py --json plate_memory.json

Counts the bytes of all tensors that live at once in passes without gradients, on tensors without storage:
images, weights, feature maps and eb_bn's components. What a GPU's convolution library takes comes on top.
Of the three passes of eb_bn, which come one after the other, one is made without adaptation and one with it.
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from itertools import product
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from abra_wilds import get_method
from abra_wilds.config.fields import path
from abra_wilds.functional.effects import Effects
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import build_net
from abra_wilds.nets.staged import BATCH_NORMS
from abra_wilds.results.files import write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.tta.adapters import own_statistics
from abra_wilds.tta.components import Components
from abra_wilds.tta.eb_bn import adapted, unadapted
from abra_wilds.tta.mix import Mix, Reliability
from abra_wilds.types import DataInfo

ADAPTATIONS = ("plate_bn", "eb_bn")
GIB = 2**30
# Images of a plate: 308 wells at one site or at both; RxRx1-WILDS and RxRx1.
PLATES = (308, 616)
IMAGES = ((3, 256), (6, 512))


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators make until they are let go.

    Attributes:
        alive: bytes now.
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_iter(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in self._known:
                self._born(t.untyped_storage())
        return out

    def _born(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def blank_components(method: Method, rank: int = 32) -> Components:
    """Components of a method, as large as fitted ones."""
    n_classes = method.info.n_classes

    def effects() -> dict[str, Effects]:
        norms = [(name, m) for name, m in method.named_modules() if isinstance(m, BATCH_NORMS)]
        return {
            name: Effects(
                *(torch.zeros(s, dtype=torch.float64) for s in ((n_classes, rank), (rank, C), C, C))
            )
            for name, C in ((name, m.num_features) for name, m in norms)
        }

    pi, unknown = torch.zeros(n_classes, dtype=torch.float64), Reliability(1.0, 1.0, 1.0)
    return Components("plate", pi, 0.0, effects(), effects(), {}, unknown, unknown, unknown, "val")


def peak_bytes(tta: str, model: str, n: int, channels: int, side: int) -> int:
    """Bytes that predicting n images at once with an adaptation needs, the weights included."""
    ERM = get_method("ERM")
    with torch.device("meta"), PeakBytes() as bytes_:
        info = DataInfo(n_classes=1139, in_channels=channels, n_groups=1, train_groups=(0,))
        method = ERM(build_net(model, channels, pretrained=False), info, ERM.Config()).eval()
        images = [torch.zeros(n, channels, side, side)]
        if tta == "plate_bn":
            own_statistics(method, images)
        else:
            parts = blank_components(method)
            unadapted(method, images, torch.zeros(n, dtype=torch.int64, device="cpu"), parts)
            adapted(method, images, Mix(parts.pi, 0.1, 0.1), parts)
    return int(bytes_.peak)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=path, help="file for the result")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "densenet161"])
    args = parser.parse_args()
    rows = []
    print(f"{'':24}{'images':>8}{'channels':>10}{'pixels':>8}{'GiB':>8}")
    for tta, model, n, (channels, side) in product(ADAPTATIONS, args.models, PLATES, IMAGES):
        size = peak_bytes(tta, model, n, channels, side)
        rows.append(
            {"tta": tta, "model": model, "images": n, "channels": channels, "side": side, "bytes": size}
        )
        print(f"{tta:10}{model:14}{n:8}{channels:10}{side:8}{size / GIB:8.2f}")
    if args.json:
        content = {"rows": rows, "commit": commit(), "versions": versions()}
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
