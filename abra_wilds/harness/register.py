"""Entering our methods, data sets, backbones and transforms into an opened checkout."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from PIL import Image, ImageFile
from torch import Tensor

from abra_wilds.config.data import TRANSFORMS
from abra_wilds.config.optim import SCHEDULERS
from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.datasets.catalogue import DATASET_NAMES, load_dataset
from abra_wilds.data.reading.images import decoded, unreadable
from abra_wilds.engine.artifacts.checkpoint import read_checkpoint
from abra_wilds.engine.artifacts.folder import (
    as_trained,
    check_last_model,
    check_same_run,
    hold_folder,
    open_folder,
    write_config,
)
from abra_wilds.engine.artifacts.logs import CsvLog
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.errors import InputError
from abra_wilds.harness.algorithm import HarnessAlgorithm, begins, build
from abra_wilds.harness.arguments import Request, read_request
from abra_wilds.harness.batches import check_checkout_batches
from abra_wilds.harness.checkout import Checkout
from abra_wilds.harness.session import attribute, open_session
from abra_wilds.methods import METHODS
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import BACKBONES


class Harness:
    """An opened checkout with our methods in it.

    Attributes:
        checkout: which one.
        supplied: what was supplied in memory, by package, in words.
        names: our method's name -> its name here; "abra:NAME" where the checkout has one of its own.
        run: the values of the run that `arguments` was asked for; None for an algorithm of the checkout's.
    """

    def __init__(self, checkout: Checkout, supplied: Mapping[str, str]):
        self.checkout = checkout
        self.supplied = supplied
        self.run: RunConfig | None = None
        self.held = ExitStack()  # the run's folder, until the checkout is left or another run is made ready
        self._dataset: Any = None
        self._method: Method | None = None
        supported: Any = import_module("configs.supported")
        taken = supported.algorithms
        self.names = {name: f"abra:{name}" if name in taken else name for name in METHODS}
        self._enter_tables(supported)
        self._wrap_functions()
        tables = (
            import_module("configs.datasets").dataset_defaults,
            import_module("configs.model").model_defaults,
            import_module("configs.scheduler").scheduler_defaults,
        )
        self._tables = [(table, dict(table)) for table in tables]
        self._models = (supported.models, list(supported.models))

    def _enter_tables(self, supported: Any) -> None:
        supported.algorithms.extend(self.names.values())
        import_module("configs.algorithm").algorithm_defaults.update({n: {} for n in self.names.values()})
        model_defaults = import_module("configs.model").model_defaults
        for known, ours in (
            (supported.models, BACKBONES),
            (supported.transforms, TRANSFORMS),
            (supported.schedulers, SCHEDULERS),
        ):
            known.extend(name for name in ours if name not in known)
        for name in BACKBONES:
            model_defaults.setdefault(name, {})
        dataset_defaults = import_module("configs.datasets").dataset_defaults
        for name in DATASET_NAMES:
            dataset_defaults.setdefault(name, dict(dataset_defaults["rxrx1"]))

    def _wrap_functions(self) -> None:
        """Replace what the checkout's run_expt.py and train.py will bind by name when they are imported."""
        for module, name, wrapper in (
            ("algorithms.initializer", "initialize_algorithm", self._initialize_algorithm),
            ("transforms", "initialize_transform", self._initialize_transform),
            ("utils", "save_model", self._save_model),
            ("utils", "load", self._load),
        ):
            owner = import_module(module)
            setattr(owner, name, wrapper(getattr(owner, name)))

    def arguments(self, argv: Sequence[str]) -> list[str]:
        """What to give to the checkout's parser for a command line, once the tables answer for it.

        Raises:
            InputError: for whatever one of our methods cannot be run with.
        """
        request = read_request(argv, self.names, self.checkout.flags())
        for table, entries in self._tables:
            table.clear()
            table.update(entries)
        self._models[0][:] = self._models[1]
        self.run = None
        if request.run is not None:
            loop = f"WILDS {self.checkout.version} at {self.checkout.commit()}"
            self.run = replace(request.run, loop=loop)
            self._answer_for(request, self.run)
        return request.argv

    def _answer_for(self, request: Request, run: RunConfig) -> None:
        """Let the checkout's defaults be this run's values, so that nothing else fills a gap."""
        tables: Any = import_module("configs.datasets").dataset_defaults
        tables[run.data.dataset] = {
            **tables[run.data.dataset],
            **request.defaults,
            "loop": run.loop,
            "world": run.world,
        }
        import_module("configs.model").model_defaults[run.model.model] = {}
        if run.model.model not in self._models[0]:  # "timm:NAME"
            self._models[0].append(run.model.model)
        import_module("configs.scheduler").scheduler_defaults[run.optim.scheduler] = {}

    def ready(self, argv: Sequence[str], command: Sequence[str] | None = None) -> list[str]:
        """`arguments`, and for one of our methods data, batches and folder checked before anything is opened.

        Args:
            argv: a command line.
            command: as the user gave it, for config.json; None takes this process'.

        Raises:
            InputError: one sentence for whatever cannot be used.
        """
        line, config = self.arguments(argv), self.run
        self.held.close()
        if config is None:
            return line
        self.held.enter_context(hold_folder(config))
        if not downloads(line):
            setup = prepare(config)
            check_checkout_batches(config, setup)
            self._dataset = setup.dataset  # the checkout's first request for it gets this one
            self._method = build_method(config, setup.info, load=begins(config))
        folder = open_folder(config)
        if folder.sign_lines():
            raise InputError(
                f"--log_dir {folder.path} takes no ':' in names of files, and a WILDS checkout knows no "
                "others; give another folder, or train by our own command, examples/run_expt.py"
            )
        if config.eval.eval_only:
            config = as_trained(folder, config)
        if config.train.resume or config.eval.eval_only:
            check_same_run(folder, config)
        if config.train.resume:
            check_last_model(folder)
        if config.eval.eval_only:
            epoch = config.eval.eval_epoch
            read_checkpoint(folder.model("best" if epoch is None else epoch))
        else:
            write_config(folder, config, command)
        if not begins(config) and not config.eval.eval_only:
            done = int(read_checkpoint(folder.model("last"))["epoch"])
            for path in [*folder.path.glob("*_eval.csv"), *folder.path.glob("*_algo.csv")]:
                CsvLog(path).keep_through(done)  # rows of an epoch that was cut short come again
        return line

    def get_dataset(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`wilds.get_dataset` that checks what it loads, and loads our own data sets too."""

        def get_dataset(
            dataset: str, version: str | None = None, unlabeled: bool = False, **kwargs: Any
        ) -> Any:
            if dataset not in DATASET_NAMES or unlabeled or kwargs.get("download"):
                return original(dataset=dataset, version=version, unlabeled=unlabeled, **kwargs)
            # run_expt.py turned it on, and a cut-off image would then load with its lower rows blank.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            loaded, self._dataset = self._dataset, None
            if loaded is None:
                root = kwargs.get("root_dir", "data")
                loaded = load_dataset(dataset, root, version, kwargs.get("split_scheme"), data_format="png")
            loaded.get_input = partial(whole_image, type(loaded).get_input, loaded)
            return loaded

        return get_dataset

    def _initialize_algorithm(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize_algorithm(
            config: Any, datasets: Any, train_grouper: Any, unlabeled_dataset: Any = None
        ) -> Any:
            if config.algorithm not in self.names.values():
                return original(config, datasets, train_grouper, unlabeled_dataset)
            if self.run is None or self.names[self.run.algorithm] != config.algorithm:
                raise InputError(
                    f"{config.algorithm} has no values yet; give its command line to arguments()"
                )
            loss = import_module("losses").initialize_loss(config.loss_function, config)
            metric = import_module("configs.supported").algo_log_metrics[config.algo_log_metric]
            base = import_module("algorithms.single_model_algorithm").SingleModelAlgorithm
            method, self._method = self._method, None
            return build(base, self.run, config, datasets, train_grouper, loss, metric, method)

        return initialize_algorithm

    def _initialize_transform(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize_transform(
            transform_name: str, config: Any, dataset: Any, is_training: bool, **kwargs: Any
        ) -> Any:
            theirs = transform_name == "rxrx1" and config.dataset == "rxrx1"
            if self.run is None or theirs or transform_name not in TRANSFORMS:
                return original(transform_name, config, dataset, is_training, **kwargs)
            return ImageTransform(transform_name if is_training else self.run.data.plain, self.run.data.size)

        return initialize_transform

    def _save_model(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_model(algorithm: Any, epoch: int, best_val_metric: float, path: str) -> None:
            if isinstance(algorithm, HarnessAlgorithm):
                algorithm.save(epoch, best_val_metric, path)
            else:
                original(algorithm, epoch, best_val_metric, path)

        return save_model

    def _load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(module: Any, path: str, device: Any = None, tries: int = 2) -> Any:
            if isinstance(module, HarnessAlgorithm):
                return module.load(path)
            return original(module, path, device, tries)

        return load


def whole_image(get_input: Callable[..., Any], dataset: Any, row: int) -> Any:
    """What a data set's `get_input` gives, once all of it has been read from its file.

    Raises:
        InputError: with the path, if it cannot be.
    """
    try:
        image = get_input(dataset, row)
        if isinstance(image, Image.Image):
            image.load()
    except InputError:
        raise
    except Exception as fault:  # Pillow's own kinds among them
        raise unreadable(dataset, row, fault) from fault
    return image


def downloads(argv: list[str]) -> bool:
    """Whether WILDS is to fetch the data, which then cannot be checked before.

    >>> downloads(["--download"]), downloads(["--download", "false"]), downloads(["--download=True"])
    (True, False, True)
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--download", nargs="?", const="true", default="false")
    return bool(parser.parse_known_args(argv)[0].download.lower() == "true")


class ImageTransform:
    """Our augmentation of a batch, for one image at a time.

    Args:
        name: as `augment` takes it.
        size: (H, W) to resize to, or None.
    """

    def __init__(self, name: str, size: tuple[int, int] | None):
        self.name = name
        self.size = size

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """The augmented, standardised image, (C, H', W') float32."""
        x = image if isinstance(image, Tensor) else decoded(image)
        return augment(x[None], self.name, torch.default_generator, self.size)[0]


@contextmanager
def registered(checkout: Checkout) -> Iterator[Harness]:
    """Inside, the checkout's scripts can be imported and know our methods; afterwards nothing is left of it.

    Import run_expt inside, not before: it binds what is wrapped here by name.
    """
    with open_session(checkout) as supplied:
        wilds: Any = import_module("wilds")
        harness = Harness(checkout, supplied)
        known = wilds.supported_datasets + [
            name for name in DATASET_NAMES if name not in wilds.supported_datasets
        ]
        with (
            attribute(wilds, "supported_datasets", known),
            attribute(wilds, "get_dataset", harness.get_dataset(wilds.get_dataset)),
            harness.held,
        ):
            yield harness
