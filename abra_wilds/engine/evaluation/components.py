"""Components of a model's batch norms: measured on images of training and val, kept beside the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.datasets.catalogue import make_grouper, split_subset, training_digest
from abra_wilds.data.datasets.quality import without_flagged
from abra_wilds.data.reading.images import check_images
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.batches import members_of
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.dist import on_rank_zero
from abra_wilds.engine.artifacts.checkpoint import read_checkpoint
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.evaluation.certificates import Certifying
from abra_wilds.engine.setup import Data, reading_kwargs
from abra_wilds.functional.effects import Effects, EffectSums, mix_spread
from abra_wilds.functional.precision import in_float64
from abra_wilds.methods.base import Method
from abra_wilds.results.files import atomic_write, sha256
from abra_wilds.tta.adapters import Adapter, make_adapter
from abra_wilds.tta.bn_state import hooked, image_moments, tracking_norms
from abra_wilds.tta.certificate import Labelled, calibrate
from abra_wilds.tta.components import Components
from abra_wilds.tta.diversity import diversity_errors
from abra_wilds.tta.eb_bn import adapt, adapted, mix_of, posteriors, unadapted
from abra_wilds.tta.evidence import Calibration
from abra_wilds.tta.mix import Reliability, no_labels, reliability
from abra_wilds.tta.plan import known_controls_of, well_ids

IMAGES_PER_BIO_BATCH = 128
COMPONENTS_OF = ("checkpoint_sha256", "data_sha256", "controls", "form")  # whose kept components are
FORM = 4  # of the files; others are measured again
MOST_KEPT = 2**30  # bytes of images that are kept in memory to be looked at again
FEWEST_IMAGES = 10  # of a bio-batch that tells what predictions are worth
# Splits of images that were not trained on, best first: those of new bio-batches tell how new ones come out.
MEASURED_ON = ("val", "id_val", "id_test", "train")


def adapter_of(
    e: EvalConfig,
    config: RunConfig,
    data: Data,
    method: Method,
    checkpoint: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Adapter:
    """The adapter of some evaluation settings for a method as it is now, with components if it needs them.

    Args:
        e: which adaptation.
        config: of the run.
        data: that it was trained on.
        method: on its device.
        checkpoint: of which the method is, to keep its components beside; None keeps none.
        say: takes a line about them.
    """
    if not e.needs_components:
        return make_adapter(e)
    config = replace(config, eval=e)
    fit = fit_components if checkpoint is None else partial(saved_components, checkpoint)
    found = on_rank_zero(lambda: fit(config, data, method))
    say(found.line())
    found = found.to(data.device)
    return make_adapter(e, found) if checkpoint is None else Certifying(found)


def saved_components(
    checkpoint: Path, config: RunConfig, data: Data, method: Method, overwrite: bool = False
) -> Components:
    """The components of a saved model; where none of it are kept, they are fitted and, if they can be, kept.

    Args:
        checkpoint: the model's file.
        config: with what a bio-batch is to its --tta.
        data: that it was trained on.
        method: as it is in the file, on its device.
        overwrite: fit them again, whatever is kept.

    Raises:
        InputError: if what is kept cannot be read, or images are missing.
    """
    path = components_path(checkpoint, config.eval.tta_group)
    trained_on = training_digest(data.dataset, config.data.qc)
    whose = (sha256(checkpoint), trained_on, config.eval.tta_controls, FORM)
    of = dict(zip(COMPONENTS_OF, whose, strict=True))
    if path.exists() and not overwrite:
        state = read_checkpoint(path)
        if {key: state.pop(key, None) for key in of} == of:
            return Components.from_state(state)
    found = fit_components(config, data, method)
    # A run that may not be written can be predicted all the same; a full disk is a RuntimeError of torch's.
    with suppress(OSError, RuntimeError), atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save({**found.to("cpu").state(), **of}, file)
    return found


def components_path(checkpoint: Path, group: str) -> Path:
    """Where components of a saved model are kept."""
    return checkpoint.with_name(checkpoint.name.replace("_model.pth", f"_components_{group}.pth"))


@torch.no_grad()
def fit_components(config: RunConfig, data: Data, method: Method) -> Components:
    """Components of a method's batch norms as they are now.

    Up to 128 random images of each bio-batch are read, first of train, then of the split that shows how the
    posteriors of new bio-batches err (val where there is one).

    Args:
        config: of the run; `eval.tta_group` says what a bio-batch is.
        data: that it trains on.
        method: is left in evaluation mode.

    Raises:
        InputError: if images are missing.
    """
    method.eval()
    source = Split(config, data, "train")
    counts = torch.stack([torch.bincount(y, minlength=data.info.n_classes) for y in source.labels()])
    pi = counts.sum(0).double() / counts.sum()
    norms = {name: m for name, m in method.named_modules() if m in set(tracking_norms(method))}
    of_norms = norm_effects(method, norms, source, data.info.n_classes)
    known = [s for s in MEASURED_ON if s in data.dataset.split_dict]
    unknown = Reliability(1.0, 1.0, 1.0)
    found = Components(
        config.eval.tta_group, pi, mix_spread(counts), *of_norms, unknown, unknown, unknown, known[0]
    )
    new = Split(config, data, known[0])
    found = errors_on(method, found.to(data.device), new)
    found = replace(found, calibration=calibration_of(method, found, new))
    return Components.from_state(found.to("cpu").state())  # as it is when it comes from a file


class Split:
    """Some images of each bio-batch of a split.

    Args:
        config: of the run.
        data: whose split it is.
        name: such as "train".
        most: images of each, drawn at random; None for all.
    """

    def __init__(self, config: RunConfig, data: Data, name: str, most: int | None = IMAGES_PER_BIO_BATCH):
        self.config, self.data, self.name = config, data, name
        dataset = data.dataset
        self.subset = data.subsets.get(name) or split_subset(dataset, name, config.data.frac)
        if name == "train" and config.data.qc is not None:
            self.subset = without_flagged(self.subset, Path(config.data.qc))[0]
        grouper = make_grouper(dataset, TTA_GROUPS[config.eval.tta_group])
        self.members = list(
            members_of(grouper.metadata_to_group(self.subset.metadata_array).numpy()).values()
        )
        self.wells = well_ids(self.subset)
        self.controls = known_controls_of(self.subset, replace(config.eval, tta="eb_bn"))
        rng = np.random.default_rng(config.train.seed)
        self.drawn = [np.sort(rng.permutation(rows)[:most]) for rows in self.members]
        indices = np.asarray(self.subset.indices)
        check_images(dataset, np.concatenate([indices[rows] for rows in self.drawn]))
        self.kept: list[tuple[Tensor, Tensor]] = []

    def labels(self) -> list[Tensor]:
        """Class ids of all images of each bio-batch."""
        y = self.subset.y_array
        return [y[rows] for rows in self.members]

    def read(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number of a bio-batch, standardised images of it on the device, and their class ids on the host."""
        d = self.config.data
        sampler = PassSampler([BioBatch((rows,), False) for rows in self.drawn], d.batch_size)
        loader = Loader(self.subset, self.data.grouper, sampler, **reading_kwargs(d, self.data.device))
        parts = [g for g, reads in enumerate(sampler.reads) for _ in range(reads[0])]
        bar = tqdm(
            zip(parts, loader, strict=True),
            desc=f"components of batch norms, {self.name}",
            total=len(parts),
            unit="batch",
            disable=no_bar(self.config.train),
        )
        for g, batch in bar:
            x = augment(batch.x.to(self.data.device, non_blocking=True), d.plain, size=d.size)
            yield g, x, batch.target.y.cpu()

    def bio_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised images (n, C_in, H, W) of each bio-batch, all at once, and their class ids.

        They are read once if they are no more than MOST_KEPT bytes.
        """
        if self.kept:
            yield from ((x.to(self.data.device), y) for x, y in self.kept)
            return
        kept, size = [], 0
        for _, parts in groupby(self.read(), key=itemgetter(0)):
            _, images, labels = zip(*parts, strict=True)
            x, y = torch.cat(images), torch.cat(labels)
            size += x.nbytes
            if size <= MOST_KEPT:
                kept.append((x.cpu(), y))
            yield x, y
        self.kept = kept if size <= MOST_KEPT else []


def norm_effects(
    method: Method, norms: Mapping[str, Any], split: Split, n_classes: int
) -> tuple[dict[str, Effects], dict[str, Effects], dict[str, Tensor]]:
    """Effects on means and on variances of images' channels, and mean variances, of each batch norm."""
    sums: dict[str, tuple[EffectSums, EffectSums]] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = image_moments(args[0])

    with hooked([norm.register_forward_pre_hook(partial(look, name)) for name, norm in norms.items()]):
        for g, x, y in split.read():
            method.predict(x)
            for name, found in seen.items():
                if name not in sums:
                    size = (n_classes, len(split.drawn), found[0].shape[1])
                    sums[name] = EffectSums(*size), EffectSums(*size)
                own = norms[name].running_mean, norms[name].running_var
                for total, s, origin in zip(sums[name], found, own, strict=True):
                    total.add(in_float64(s - origin).cpu(), y, torch.full_like(y, g))
    means = {name: of_means.effects() for name, (of_means, _) in sums.items()}
    variances = {name: of_variances.effects() for name, (_, of_variances) in sums.items()}
    inside = {name: v.mean() + in_float64(norms[name].running_var).cpu() for name, (_, v) in sums.items()}
    return means, variances, inside


def errors_on(method: Method, components: Components, split: Split) -> Components:
    """The components with how posteriors of a split err, without adaptation and half way, and diversity."""
    seen = []
    for x, y in split.bio_batches():
        f, looked = unadapted(method, [x], no_labels(y), components)
        seen.append((posteriors(method, f), y, looked))
    pi = components.pi
    labels = [y.to(pi.device) for _, y, _ in seen]
    first = reliability([p for p, _, _ in seen], labels, pi)
    diversity = diversity_errors([s.diversity for _, _, s in seen], [y for _, y, _ in seen], pi.cpu())
    components = replace(components, unadapted=first, diversity=diversity)
    halfway = []
    for (x, _), (p, _, looked) in zip(split.bio_batches(), seen, strict=True):
        mix = mix_of(p, no_labels(x), looked, components, first)
        halfway.append((p + posteriors(method, adapted(method, [x], mix, components))) / 2)
    return replace(components, adapted=reliability(halfway, labels, pi))


def calibration_of(method: Method, components: Components, split: Split) -> Calibration:
    """What adapted predictions of a split's bio-batches are worth; small ones count where all are."""
    least = min(FEWEST_IMAGES, max(map(len, split.drawn)))
    return calibrate([b for b in labelled(method, components, split) if len(b.labels) >= least])


@torch.no_grad()
def labelled(method: Method, components: Components, split: Split) -> Iterator[Labelled]:
    """The bio-batches of a split with what adaptation makes of them, where it knows their controls."""
    for rows, (x, y) in zip(split.drawn, split.bio_batches(), strict=True):
        known = no_labels(y) if split.controls is None else split.controls[rows]
        found = adapt(method, [x], [known.to(x.device)], components=components)
        yield Labelled(
            found.logits[0].cpu(),
            found.plain[0].cpu(),
            y,
            None if split.wells is None else split.wells[rows],
            known >= 0 if bool((known >= 0).any()) and not bool((known >= 0).all()) else None,
            found.uncorrected[0].cpu(),
        )
