"""What a model is at rest, and the folder that holds it: model.safetensors, config.json, README.md.

The weights are those that `Method.predict` reads. Components of batch norms and means of classes go with
them where they are known: tensors into the same file, numbers into config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abra_wilds.config.run import RunConfig
from abra_wilds.config.schema import jsonable
from abra_wilds.engine.artifacts.configs import run_config_of
from abra_wilds.engine.artifacts.origins import TENSORS
from abra_wilds.engine.artifacts.weights import read_safetensors
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.results.files import atomic_folder, sha256, write_text
from abra_wilds.results.records import CONFIG, WEIGHTS
from abra_wilds.results.runs import read_json
from abra_wilds.tta.components import Components

CARD = "README.md"
CENTROIDS, COMPONENTS = "centroids", "components"
PROBES = (64, 56)  # sides of an image that finds the weights: patches of transformers divide one of them


@dataclass(frozen=True)
class Stored:
    """A model at rest, which needs no data.

    Attributes:
        config: of its run.
        about: what config.json says: `data` (name, digest, classes, channels, image size ...), transform,
            checkpoint, versions, and the values of the run.
        weights: name of a tensor of the method -> its value on the host, as far as `predict` reads it.
        components: of its batch norms, or None.
        centroids: (O, D) mean of what the classifier reads of training images of each class, NaN for a class
            without any; or None.
        card: the text of README.md.
    """

    config: RunConfig
    about: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    components: Components | None = None
    centroids: Tensor | None = None
    card: str = ""

    @property
    def classes(self) -> list[str]:
        """The name of each class, in the order of the logits."""
        return list(self.about["data"]["classes"])

    @property
    def channels(self) -> list[str]:
        """The name of each channel, in their order."""
        return list(self.about["data"]["channels"])


def write_stored(stored: Stored, folder: Path) -> None:
    """Write a model's folder, whole or not at all; one that is there is replaced."""
    from safetensors.torch import save_file

    tensors, numbers = parted(stored.components)
    tensors |= {} if stored.centroids is None else {CENTROIDS: stored.centroids}
    # A tensor of its own for each name, which is what the format holds.
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in {**stored.weights, **tensors}.items()}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / TENSORS, {"format": "pt"})
        about = {**stored.about, COMPONENTS: numbers, WEIGHTS: sha256(temporary / TENSORS)}
        write_text(temporary / CONFIG, json.dumps(jsonable(about), indent=2) + "\n")
        write_text(temporary / CARD, stored.card)


def read_stored(folder: Path) -> Stored:
    """The model in a folder; no code of it is run.

    Raises:
        InputError: if a file is missing, damaged, or of another model.
    """
    about = read_json(folder / CONFIG)
    if WEIGHTS not in about:
        raise InputError(f"{folder / CONFIG} is missing or of no model; give a folder that training has left")
    config = run_config_of(about, folder / CONFIG)
    tensors = read_safetensors(folder / TENSORS)
    if sha256(folder / TENSORS) != about[WEIGHTS]:
        raise InputError(f"{folder / TENSORS} is not the file that {CONFIG} beside it names; copy both again")
    data = about.get("data")
    names = [data.get(key) for key in ("classes", "channels")] if isinstance(data, Mapping) else [None]
    if not all(isinstance(n, list) and n and all(isinstance(t, str) for t in n) for n in names):
        raise InputError(f"{folder / CONFIG} does not name the classes and channels; copy the folder again")
    kept = {k: tensors.pop(k) for k in list(tensors) if k.startswith(f"{COMPONENTS}/")}
    centroids = tensors.pop(CENTROIDS, None)
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    return Stored(config, about, tensors, joined(kept, about.get(COMPONENTS)), centroids, card)


def parted(components: Components | None) -> tuple[dict[str, Tensor], Any]:
    """The tensors of components by path, and the rest of their state as JSON has it."""
    tensors: dict[str, Tensor] = {}

    def rest(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return None
        if isinstance(value, Mapping):
            return {key: rest(inner, f"{path}/{key}") for key, inner in value.items()}
        return value

    return tensors, None if components is None else rest(components.to("cpu").state(), COMPONENTS)


def joined(tensors: Mapping[str, Tensor], numbers: Any) -> Components | None:
    """Components of what `parted` made of them.

    Raises:
        InputError: if they are none.
    """
    if not isinstance(numbers, Mapping):
        return None
    state = json.loads(json.dumps(numbers))
    for path, tensor in tensors.items():
        _, *above, name = path.split("/")
        inside = state
        for key in above:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if not isinstance(inside, dict):
            raise InputError(f"{CONFIG} of a model knows no {path}, which its weights hold; copy both again")
        inside[name] = tensor
    return Components.from_state(state)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the memory that operations read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.seen |= set(addresses(tree_leaves((args, kwargs))))
        return func(*args, **kwargs)


def addresses(values: Iterable[Any]) -> Iterator[int]:
    """Where the tensors among some values lie in memory."""
    return (v.untyped_storage().data_ptr() for v in values if isinstance(v, Tensor))


@contextmanager
def own_randomness() -> Iterator[None]:
    """Inside, draws from torch's generator of the host leave no trace outside."""
    with torch.random.fork_rng(devices=[]):
        yield


@torch.no_grad()
def predicting(method: Method) -> dict[str, Tensor]:
    """The tensors of a method's state dict that `predict` reads; heads and teachers of training are not."""
    was, like = method.training, next(method.parameters())
    reads = _Reads()
    method.eval()
    for side in PROBES:
        image = torch.zeros(1, method.info.in_channels, side, side, device=like.device, dtype=like.dtype)
        try:
            with torch.compiler.set_stance("force_eager"), reads:
                method.predict(image)
            break
        except (AssertionError, RuntimeError):
            if side == PROBES[-1]:
                raise
    method.train(was)
    return {name: t for name, t in method.state_dict().items() if set(addresses([t])) & reads.seen}


def take_weights(method: Method, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a method on the host the weights that `predict` reads.

    Raises:
        InputError: naming the source, if one is missing or has another shape.
    """
    for name, own in predicting(method).items():
        given = weights.get(name)
        if given is None or given.shape != own.shape:
            has = "no such tensor" if given is None else f"{list(given.shape)}"
            raise InputError(
                f"{source} does not fit its config.json: {name} is {list(own.shape)} there, and the weights "
                f"have {has}; copy the model again"
            )
        own.copy_(given)
