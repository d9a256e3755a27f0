"""Batches that our own loaders would make and a checkout's cannot."""

from __future__ import annotations

from abra_wilds.config.run import RunConfig
from abra_wilds.engine.setup import Setup
from abra_wilds.errors import InputError


def check_checkout_batches(config: RunConfig, setup: Setup) -> None:
    """Raise where WILDS' loaders would end in a traceback, or leave batch norm a single image.

    Args:
        config: of the run.
        setup: of the configuration.

    Raises:
        InputError: with what to change.
    """
    d, n, there = config.data, len(setup.subsets["train"]), len(setup.info.train_groups)
    if d.train_loader != "group":
        if n % d.batch_size == 1:
            raise InputError(
                f"--batch_size {d.batch_size} leaves a training batch of 1 image, and batch norm needs two; "
                "change it by one"
            )
        return
    wanted = d.n_groups_per_batch
    if d.batch_size % wanted:
        raise InputError(
            f"--batch_size {d.batch_size} must be a multiple of --n_groups_per_batch {wanted} in a checkout; "
            "change one of them"
        )
    if n < d.batch_size:
        raise InputError(
            f"--batch_size {d.batch_size} is more than the {n} images of the training split; lower it"
        )
    if d.distinct_groups and wanted > there:
        raise InputError(
            f"--n_groups_per_batch {wanted} is more than the {there} bio-batches of the training split; "
            "lower it, or allow repeats with --distinct_groups false"
        )
