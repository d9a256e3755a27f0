"""A trained model that needs no data: images in, logits and features out, with any adaptation.

Letters: N images, C channels, H W of an image, D features, O classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abra_wilds.config.evaluation import EvalConfig, adaptation_flags
from abra_wilds.config.run import COMMON
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.samplers.passes import BioBatch
from abra_wilds.engine.device import pick_device
from abra_wilds.engine.models.hub import pushed
from abra_wilds.engine.models.opened import opened
from abra_wilds.engine.models.stored import Stored, own_randomness, predicting, take_weights, write_stored
from abra_wilds.engine.precision import check_speed, configure_precision
from abra_wilds.engine.setup import build_method
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.tta.adapted import image_batches
from abra_wilds.tta.adapters import Adapter, check_adaptable, make_adapter, running_statistics
from abra_wilds.tta.components import Components
from abra_wilds.tta.features import check_embeds, classified
from abra_wilds.tta.plan import batch_plan, bio_batch_plan
from abra_wilds.types import DataInfo

Images = Tensor | NDArray[Any] | Iterable[Any]
PLAIN = {"amp": "none", "channels_last": False, "compile": False}  # whatever the run was trained with


def load_model(
    source: str | Path,
    device: str = "auto",
    *,
    revision: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Model:
    """Open a trained model; its training data need not be there, and none of its code is run.

    Args:
        source: a model's folder, a run's folder, one of its checkpoints with config.json beside it, or the
            name of a repository of the Hub, OWNER/NAME.
        device: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.
        revision: of the repository.
        flags: amp, channels_last and compile where the backbone should run otherwise than in float32.

    Raises:
        InputError: if there is no such model, or it cannot be used.
    """
    return Model(opened(source, revision), device, flags)


class Model(nn.Module):
    """A trained classifier of images.

    As a module it maps images (N, C, H, W) of any depth to logits (N, O): each image and channel is
    standardised by itself first.

    Args:
        stored: the model at rest.
        device: as of `load_model`.
        flags: as of `load_model`.

    Attributes:
        method: what was trained, in evaluation mode.
        device: where it is.
        config: of its run.
        about: what its config.json says: data, transform, checkpoint, versions.
        classes: name of each column of the logits.
        channels: name of each channel of an image, in order.
        components: of its batch norms, which `eb_bn` needs; or None.
        centroids: (O, D) mean features of training images of each class, or None.

    Raises:
        InputError: if the weights do not fit the configuration.
    """

    def __init__(self, stored: Stored, device: str = "auto", flags: Mapping[str, Any] | None = None):
        super().__init__()
        self.stored, self.about = replace(stored, weights={}), stored.about
        self.classes, self.channels = stored.classes, stored.channels
        self.config = COMMON.replace(stored.config, {**PLAIN, **(flags or {}), "also_tta": ()})
        for name in flags.keys() & self.config.eval.idle().keys() if flags else ():
            raise InputError(f"--{name} would have no effect with --tta {self.config.eval.tta}; leave it out")
        self.device = pick_device(device)
        check_speed(self.config.speed, self.device)
        # Nothing that predicts depends on the bio-batches of training.
        info = DataInfo(len(self.classes), len(self.channels), 1, (0,))
        with own_randomness():
            self.method: Method = build_method(self.config, info, load=False)
        take_weights(self.method, stored.weights, str(self.about["checkpoint"]["name"]))
        self.method.to(self.device).eval()
        configure_precision(self.method, self.config.speed)
        self.components: Components | None = stored.components and stored.components.to(self.device)
        self.centroids = stored.centroids

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "auto", revision: str | None = None) -> Model:
        """`load_model`, under the name that libraries of the Hub have for it."""
        return cls(opened(source, revision), device)

    def save(self, folder: str | Path) -> Path:
        """Write the model as a folder, whole or not at all; returns it.

        Raises:
            InputError: if something is there already, or it cannot be written.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder} exists and is not overwritten; remove it, or give another folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_stored(replace(self.stored, weights=predicting(self.method)), folder)
        except OSError as fault:
            raise InputError(f"{folder} cannot be written ({fault.strerror}); give another") from None
        return folder

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to a repository of the Hub, which is made where it is not there.

        Args:
            name: OWNER/NAME.
            private: whether a new repository is.
            token: of the Hub; None for the one that is logged in.

        Returns:
            The address of the commit.

        Raises:
            InputError: if the Hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as temporary:
            return pushed(self.save(Path(temporary) / "model"), name, private, token)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, O) of images (N, C, H, W) of any depth."""
        return self.method.predict(self.prepared(images))

    def prepared(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any depth as the method sees them: resized, standardised, on the device.

        Raises:
            InputError: for other channels than the model's.
        """
        if images.dim() != 4 or images.shape[1] != len(self.channels):
            raise InputError(
                f"images are {tuple(images.shape)}, and this model needs (N, {len(self.channels)}, H, W) "
                f"with the channels {', '.join(self.channels)} in this order; bring them into it"
            )
        d = self.config.data
        return augment(images.to(self.device), d.plain, size=d.size)

    def predict(self, images: Images, *, tta: str = "none", known: Tensor | None = None) -> Tensor:
        """Logits (N, O) on the host, float32; their softmax are probabilities, in the order of `classes`.

        Args:
            images: (N, C, H, W) of any depth, or whatever yields such batches, as a DataLoader does, alone or
                first of a tuple. With an adaptation, all of one bio-batch.
            tta: an adaptation as --also_tta takes it, such as "plate_bn" or "mixed_bn,prior=64".
            known: (N,) class ids of control images, which adaptations may know, -1 for all others.

        Raises:
            InputError: for other channels, too few images for the adaptation, or one that does not fit.
        """
        return self.answers(images, tta, known)[0]

    def embed(self, images: Images, *, tta: str = "none", known: Tensor | None = None) -> Tensor:
        """What the classifier reads of images, (N, D) on the host, float32; arguments as of `predict`.

        Raises:
            InputError: as `predict`, and for an adaptation that changes more than what the classifier reads.
        """
        check_embeds(self.evaluation(tta).tta)
        return self.answers(images, tta, known)[1]

    def answers(
        self, images: Images, tta: str = "none", known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`predict` and `embed` by the same passes; arguments as of `predict`."""
        e, size = self.evaluation(tta), self.config.data.batch_size
        batches = batches_of(images, size)
        if e.tta == "none":
            return self._together([self.passed(running_statistics, [x], ()) for x in batches])
        held = list(batches)
        x = torch.cat(held) if held else torch.empty(0)
        known = torch.full((len(x),), -1) if known is None else known
        adapter, adapted = self.adapter(e), False
        found, order = [], []
        for group in plan_of(e, known, size):
            adapted |= group.adapted
            rows = [torch.as_tensor(part) for part in group.passes]
            own = [known[part].to(self.device) for part in rows]
            how = adapter if group.adapted else running_statistics
            found.append(self.passed(how, [x[part] for part in rows], own))
            order += rows
        if not adapted:
            raise InputError(
                f"{tta} needs {e.tta_min} images of a bio-batch together, or of its controls, and has fewer "
                f"of the {len(x)} that came; give more, or say {tta},min=N"
            )
        back = torch.cat(order).argsort()
        logits, features = self._together(found)
        return logits[back], features[back]

    def evaluation(self, tta: str) -> EvalConfig:
        """The evaluation settings with an adaptation, written as --also_tta takes it.

        Raises:
            InputError: if there is none of this name, or nothing that it could adapt.
        """
        flags = adaptation_flags(tta)
        e: EvalConfig = COMMON.replace(self.config, flags).eval
        for name in flags.keys() & e.idle().keys():
            raise InputError(f"{tta} has {name.removeprefix('tta_')}=, which has no effect; leave it out")
        check_adaptable(self.method, e)
        return e

    def adapter(self, e: EvalConfig) -> Adapter:
        """The adapter of evaluation settings.

        Raises:
            InputError: if it needs components that the model does not have.
        """
        if e.needs_components:
            self.check_components(e)
        return make_adapter(e, self.components)

    def check_components(self, e: EvalConfig) -> Components:
        """The components of the model's batch norms for evaluation settings.

        Raises:
            InputError: if there are none, or they are of other bio-batches.
        """
        c = self.components
        if c is None or c.group != e.tta_group:
            has = "no components of batch norms" if c is None else f"components of one {c.group} each"
            raise InputError(
                f"this model has {has}, and --tta {e.tta} needs those of one {e.tta_group} each; where its "
                "training data are, run `abra-wilds components CHECKPOINT` and `abra-wilds model CHECKPOINT "
                "FOLDER`"
            )
        return c

    def passed(
        self, adapter: Adapter, passes: Sequence[Tensor], known: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (N, O) and features (N, D) of each pass of a bio-batch, on the host.

        Args:
            adapter: predicts them.
            passes: images (N, C, H, W) of any depth.
            known: class ids (N,) of each pass on the device, -1 where not known; empty if none is.
        """
        with torch.inference_mode(False), torch.no_grad(), classified(self.method) as read:
            logits = adapter(self.method, (self.prepared(x) for x in passes), known)
        features = list(read)
        # What came before the last forward pass gave the posteriors that the adapter goes by.
        return [z.float().cpu() for z in logits], [f.float().cpu() for f in features[-len(logits) :]]

    @staticmethod
    def _together(found: Sequence[tuple[list[Tensor], list[Tensor]]]) -> tuple[Tensor, Tensor]:
        if not found:
            raise InputError("there is no image to predict; give one or more")
        logits, features = zip(*found, strict=True)
        return torch.cat([z for part in logits for z in part]), torch.cat([f for p in features for f in p])


def plan_of(e: EvalConfig, known: Tensor, batch_size: int) -> list[BioBatch]:
    """The passes of one bio-batch, whose controls are those of known class; for batch_bn its batches."""
    n = len(known)
    if e.tta == "batch_bn":
        return batch_plan(n, e, batch_size)
    return [bio_batch_plan(np.arange(n), e, (known >= 0).numpy(), batch_size, seed=0)]


def batches_of(images: Images, size: int) -> Iterator[Tensor]:
    """Images, or the batches of a loader, as tensors of at most `size` images."""
    known = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    return (part for batch in image_batches(known, size) for part in torch.split(batch, size))
