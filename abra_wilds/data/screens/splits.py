"""Who trains, validates and tests in a screen: as a column says, or drawn over whole bio-batches.

Letters: n sites, U units that go to one split as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from abra_wilds.config.screen import Division, ScreenConfig
from abra_wilds.data.datasets.splits import SPLIT_NUMBERS
from abra_wilds.data.screens.columns import Names, joint
from abra_wilds.data.screens.sites import Sites
from abra_wilds.errors import InputError

NONE = -1  # of a row in no split, as WILDS has it
NUMBERS = {name: number for name, (number, _) in SPLIT_NUMBERS.items()}
Texts = NDArray[np.object_]


def split_numbers(sites: Sites, config: ScreenConfig, names: Names) -> NDArray[np.int64] | None:
    """The split of each row, (n,), as the ids of SPLIT_NUMBERS and NONE; None if nothing says it.

    Args:
        sites: of the screen.
        config: from `with_columns`.
        names: of the sites.

    Raises:
        InputError: for another value of the column, or a bio-batch, or what is kept together, in two splits.
    """
    column = config.keep_together
    kept = None if column is None else sites.rows[column].to_numpy(dtype=object)
    if config.division is not None:
        by = joint(sites, config.division.by) if config.division.by else names.bio_batch
        found = drawn(config.division, by, names, kept, sites)
    elif config.split_column is not None:
        found = _as_written(sites, config.split_column)
    else:
        return None
    _refuse_both(sites, found, names.bio_batch, "bio-batch", ("train", "val", "test"))
    if kept is not None:
        _refuse_both(sites, found, kept, str(column), tuple(NUMBERS))
    return found


def _as_written(sites: Sites, column: str) -> NDArray[np.int64]:
    """The splits of a column, whose empty values are none."""
    values = sites.rows[column]
    wrong = np.flatnonzero(~values.isin([*NUMBERS, ""]).to_numpy())
    if len(wrong):
        k = int(wrong[0])
        raise InputError(
            f"column {column} is {values.iloc[k]!r} in {sites.where(k)}; it must be one of "
            f"{', '.join(NUMBERS)}, or empty for images that are not used"
        )
    return np.array([NUMBERS.get(value, NONE) for value in values], dtype=np.int64)


def _refuse_both(sites: Sites, split: NDArray[np.int64], of: Texts, what: str, among: Sequence[str]) -> None:
    """Refuse a value whose rows are in two of some splits."""
    counted = np.isin(split, [NUMBERS[name] for name in among]) & (of != "")
    first: dict[str, int] = {}
    for k in np.flatnonzero(counted).tolist():
        other = first.setdefault(of[k], k)
        if split[other] != split[k]:
            theirs, ours = (next(name for name in among if NUMBERS[name] == split[at]) for at in (other, k))
            raise InputError(
                f"{what} {of[k]} is {theirs} in {sites.where(other)} and {ours} in {sites.place(k)}; it "
                "must be in one split, so give its rows the same split, or draw splits by --split"
            )


def drawn(division: Division, by: Texts, names: Names, kept: Texts | None, sites: Sites) -> NDArray[np.int64]:
    """Splits over whole units: bio-batches, those of one value of `by` and those that share what is kept.

    A share is one of units, at least one. Which they are depends on the seed and on names, not on the order
    of rows. Of id_test it is one of the training units' groups of what is kept together, or else wells.

    Args:
        division: what --split says.
        by: (n,) what goes to one split as a whole.
        names: of the rows.
        kept: (n,) what is never split, "" for nothing; or None.
        sites: for messages.

    Returns:
        (n,) ids of splits.

    Raises:
        InputError: for an unknown bio-batch, or too few units.
    """
    split = np.full(len(by), NUMBERS["train"], dtype=np.int64)
    units = units_of(names.bio_batch, by, kept)
    rng = np.random.default_rng(division.seed)
    order = rng.permutation(units.max() + 1)
    n = len(order)
    tested, order = _left_out(division, names, units, order, sites)
    split[tested] = NUMBERS["test"]
    shares = dict(division.shares)
    for name in ("test", "val"):
        if name in shares:
            taken, order = np.split(order, [max(round(shares[name] * n), 1)])
            split[np.isin(units, taken)] = NUMBERS[name]
    if not (split == NUMBERS["train"]).any():
        raise InputError(
            f"--split leaves no bio-batch of {sites.source} to train on, of {n} that can be distinguished; "
            "lower its shares, or name finer bio-batches by --bio_batch_columns"
        )
    if "id_test" in shares:
        wells = pd.Series(names.plate) + "\0" + names.well
        groups = pd.factorize(wells if kept is None else np.where(kept == "", wells, kept), sort=True)[0]
        training = split == NUMBERS["train"]
        inside = _in_distribution(groups[training], names.bio_batch[training], shares["id_test"], rng)
        split[np.isin(groups, inside) & training] = NUMBERS["id_test"]
    return split


def _left_out(
    division: Division, names: Names, units: NDArray[np.int64], order: NDArray[np.int64], sites: Sites
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Rows (n,) of the bio-batch or fold that tests, and the other units; none and all where a share tests.

    Raises:
        InputError: for an unknown bio-batch, or more folds than units.
    """
    tested, others = np.zeros(len(units), dtype=bool), order
    if division.leave_one_out is not None:
        tested = names.bio_batch == division.leave_one_out
        if not tested.any():
            raise InputError(
                f"--split leave_one_out={division.leave_one_out} is no bio-batch of {sites.source}, which "
                f"has {', '.join(sorted(set(names.bio_batch))[:20])}"
            )
        others = order[~np.isin(order, units[tested])]
    if division.fold is not None:
        k, parts = division.fold[0], np.array_split(order, division.fold[1])
        if len(order) < len(parts):
            raise InputError(
                f"--split fold={k}/{len(parts)} asks for {len(parts)} parts of {sites.source}, of whose "
                f"bio-batches {len(order)} can be distinguished; give at most {len(order)}"
            )
        # Who validates follows, so that it differs from fold to fold too.
        tested, others = np.isin(units, parts[k - 1]), np.concatenate([*parts[k:], *parts[: k - 1]])
    return tested, others


def _in_distribution(
    groups: NDArray[np.int64], bio_batch: Texts, share: float, rng: np.random.Generator
) -> list[int]:
    """A share of the groups of training images, at least one, that leaves images of every bio-batch."""
    left = Counter(bio_batch.tolist())
    own = {group: Counter(rows.tolist()) for group, rows in pd.Series(bio_batch).groupby(groups)}
    wanted, taken = max(round(share * len(own)), 1), list[int]()
    for group in rng.permutation(np.unique(groups)).tolist():
        if len(taken) < wanted and all(left[batch] > n for batch, n in own[group].items()):
            left -= own[group]
            taken.append(group)
    return taken


def units_of(bio_batch: Texts, by: Texts, kept: Texts | None) -> NDArray[np.int64]:
    """The unit of each row, (n,), from 0 to U - 1 in the order of their first bio-batches' names."""
    columns = [bio_batch, by, *([] if kept is None else [np.where(kept == "", bio_batch, kept)])]
    codes, start = [], 0
    for column in columns:
        codes.append(pd.factorize(column)[0] + start)
        start = int(codes[-1].max()) + 1
    edges = np.concatenate([[codes[0], other] for other in codes[1:]], axis=1)
    graph = coo_array((np.ones(edges.shape[1], dtype=bool), tuple(edges)), shape=(start, start))
    component = connected_components(graph, directed=False)[1][codes[0]]
    first = pd.Series(bio_batch).groupby(component).transform("min")
    return np.asarray(pd.factorize(first, sort=True)[0], dtype=np.int64)
