"""Weights under other names than a StagedNet's: files of torchvision and timm, WILDS' checkpoints.

A backbone knows what its builder called its tensors (`StagedNet.published`). What stands before those names,
`module.` or `model.0.`, is found by looking for all of them after one prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from abra_wilds.nets.staged import StagedNet

# As published DenseNets have them, whose modules have other names since.
DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# What builders call a classifier; and where WILDS keeps backbone and classifier apart, their two prefixes.
HEADS = ("fc.", "classifier.", "head.", "head.fc.")
APART = {"net.": "head.", "0.": "1.", "featurizer.": "classifier."}
COUNTERS = "num_batches_tracked"  # which old files lack, and nothing reads


def names_of(net: nn.Module) -> dict[int, str]:
    """What a network calls its tensors, by their identity; to be asked before it is taken apart."""
    return {id(t): name for name, t in net.state_dict(keep_vars=True).items()}


def with_published(net: StagedNet, theirs: Mapping[int, str]) -> StagedNet:
    """The network, knowing what `names_of` the one that it is made of called its tensors."""
    own = net.state_dict(keep_vars=True)
    net.published = {theirs[id(t)]: name for name, t in own.items() if id(t) in theirs}
    return net


@dataclass(frozen=True)
class Weights:
    """What a state dict holds for a network.

    Attributes:
        backbone: by the network's names.
        head: "weight" and "bias" of the classifier; empty where there is none.
        own: whether the names are the network's own and not its builder's.
        missing: those of the network that have no weight.
    """

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    own: bool
    missing: list[str]


def weights_for(net: StagedNet, state: Mapping[str, Tensor]) -> Weights:
    """The weights of a network in a state dict, of all ways to read it by the one that misses fewest.

    Args:
        net: that is to have them.
        state: name -> weight.
    """
    state = {DENSE.sub(r"\1\2", name): weight for name, weight in state.items()}
    own = {name: name for name in net.state_dict()}
    readings = [
        reading(state, names, prefix, names is own)
        for names in (own, net.published)
        for prefix in prefixes(state, names)
    ]
    return min(readings, key=lambda found: len(found.missing), default=reading(state, own, "net.", True))


def prefixes(state: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    """What may stand before the names of a network in a state dict, the shortest first."""
    first = next(iter(names), None)
    ends = [name.removesuffix(first) for name in state if first is not None and name.endswith(first)]
    return sorted((p for p in ends if not p or p.endswith(".")), key=len)


def reading(state: Mapping[str, Tensor], names: Mapping[str, str], prefix: str, own: bool) -> Weights:
    """A state dict read by names (theirs -> ours) after a prefix."""
    there = {ours: state[prefix + theirs] for theirs, ours in names.items() if prefix + theirs in state}
    missing = [ours for ours in names.values() if ours not in there and not ours.endswith(COUNTERS)]
    head = next((h for h in heads(prefix) if f"{h}weight" in state), "")
    parts = {part: state[head + part] for part in ("weight", "bias") if head and head + part in state}
    return Weights(there, parts, own, missing)


def heads(prefix: str) -> Iterator[str]:
    """What may stand before the weight of the classifier that belongs to a backbone of this prefix."""
    for backbone, head in APART.items():
        if prefix.endswith(backbone):
            yield prefix.removesuffix(backbone) + head
    yield from (prefix + head for head in HEADS)


def first_weight(net: StagedNet) -> str:
    """The name of the weight that images meet first."""
    convolutions = (name for name, m in net.named_modules() if isinstance(m, nn.Conv2d))
    return f"{next(convolutions)}.weight"
