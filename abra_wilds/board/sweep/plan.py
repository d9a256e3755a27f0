"""The runs that a sweep's file stands for: rows x seeds, resolved as the main command resolves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from abra_wilds.board.sweep.spec import Spec, SweepRow, as_words, refuse_repeated
from abra_wilds.board.terms import differing_terms, terms_of
from abra_wilds.config.evaluation import adaptation_text
from abra_wilds.config.run import RunConfig
from abra_wilds.config.schema import jsonable
from abra_wilds.config.screen import DATASET, ScreenConfig
from abra_wilds.data.screens.screen import Screen
from abra_wilds.engine.evaluation.saved import changed
from abra_wilds.errors import InputError
from abra_wilds.methods import get_method
from abra_wilds.methods.base import Method
from abra_wilds.recipes.flags import parse
from abra_wilds.results.names import found, model_name

# Without these a run would not leave what tells a finished one.
KEPT = ("save_best", "save_last", "save_pred", "evaluate_all_splits")
# What each split scheme has to predict; six channels of one site have no id_test under "wilds".
PREDICTED = {
    ("rxrx1", "official"): ("val", "test", "id_test"),
    ("rxrx1", "mixed-to-test"): ("val", "test"),
    ("rxrx1_6ch", "wilds"): ("val", "test", "id_test"),
    ("rxrx1_6ch", "official"): ("test",),
    ("rxrx1_6ch", "heldout"): ("val", "test"),
}


@dataclass(frozen=True)
class Adaptation:
    """Predictions of a run's model by other batch-norm statistics.

    Attributes:
        name: what follows `tta_` in the folder's name.
        digest: of the configuration its records name.
        words: flags of `abra-wilds predict`.
        model: label of the checkpoint that is adapted: "last", or the epoch that it picked on val itself.
    """

    name: str
    digest: str
    words: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        label: of its row.
        config: what the main command makes of `words`, on as many processes as the sweep says.
        words: the main command's arguments, but for the device.
        adaptations: to be predicted with its model.
        fold: which part of the data it runs on, such as "fold1"; empty without such parts.
        rule: of the sweep, whose predictions count: "best" or "last".
    """

    label: str
    config: RunConfig
    words: tuple[str, ...]
    adaptations: tuple[Adaptation, ...]
    fold: str = ""
    rule: str = "best"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.train.log_dir)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.label} {self.fold and f'{self.fold} '}seed {self.config.train.seed}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it predicts."""
        d, screen = self.config.data, self.config.screen
        return screen_splits(screen) if d.dataset == DATASET else PREDICTED[d.dataset, str(d.split_scheme)]

    @property
    def checkpoint(self) -> str:
        """Whose predictions count: the best epoch's, or without val the last's."""
        return self.rule if "val" in self.splits else "last"

    @property
    def model(self) -> Path:
        """The checkpoint of that epoch."""
        return self.model_of(self.checkpoint)

    def model_of(self, label: str) -> Path:
        """The checkpoint of a label."""
        t, data = self.config.train, self.config.data
        return found(self.folder / model_name(data.dataset, t.seed, label))


@lru_cache
def screen_splits(screen: ScreenConfig) -> tuple[str, ...]:
    """The splits that runs on a screen predict, which its table or --split says.

    Raises:
        InputError: if it cannot be trained on.
    """
    known = list(Screen.open(screen).dataset().split_dict)
    return tuple(split for split in ("val", "test", "id_test") if split in known)


def plan(
    spec: Spec,
    out: Path,
    root_dir: str | None = None,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    screen: str | None = None,
) -> list[Planned]:
    """The runs of a sweep, seed after seed, so that every row has its first seed early.

    Args:
        spec: the sweep.
        out: below which ROW/seedS are the run folders, or ROW/foldK/seedS.
        root_dir: of the data; None leaves it to the main command.
        only: labels of the rows to take; None for all.
        seeds: to take; None for all.
        screen: the table or folder of the data of a sweep over a screen.

    Raises:
        InputError: for a row that is no configuration, or a label or seed that is not there.
    """
    labels = [row.label for row in spec.rows]
    for given, known, flag in ((only, labels, "only"), (seeds, spec.seeds, "seeds")):
        for value in given or ():
            if value not in known:
                raise InputError(f"--{flag} got {value!r}; {spec.name} has {', '.join(map(str, known))}")
    where = places(root_dir, screen)
    resolved = [
        (row, resolve_row(row, spec, (*fold, *where)), name, (*fold, *where))
        for row in spec.rows
        if row.label in (only or labels)
        for name, fold in zip(spec.fold_names, spec.folds, strict=True)
    ]
    return [
        seeded(
            row, config, seed, out / row.folder / name / f"seed{seed}", words, fold=name, rule=spec.checkpoint
        )
        for seed in (seeds or spec.seeds)
        for row, config, name, words in resolved
    ]


def places(root_dir: str | None, screen: str | None = None) -> tuple[str, ...]:
    """Where the data are, as words of a command line."""
    given = {"--root_dir": root_dir, "--screen": screen}
    return tuple(word for flag, value in given.items() if value is not None for word in (flag, value))


def resolve_row(row: SweepRow, spec: Spec, where: Sequence[str] = ()) -> RunConfig:
    """What the main command makes of a row.

    Raises:
        InputError: naming the row, if that is nothing, or nothing that a sweep can tell finished.
    """
    try:
        config = parse([*row.words, *where])
    except InputError as fault:
        raise InputError(f"row {row.label!r} of {spec.name}: {fault}") from None
    values = config.values()
    for name in KEPT:
        if not values[name]:
            raise InputError(
                f"row {row.label!r} of {spec.name} has {name} false, and a sweep tells finished runs by what "
                "that would leave out; take it out"
            )
    return replace(config, world=spec.gpus_per_run)


def seeded(
    row: SweepRow, config: RunConfig, seed: int, folder: Path, where: Sequence[str], **more: str
) -> Planned:
    """A row's run of one seed.

    Args:
        row: of the sweep.
        config: of the row.
        seed: of the run.
        folder: of the run.
        where: its words that say where and which the data are.
        more: fold and rule of the run.

    Raises:
        InputError: naming the row, for an adaptation that is none or occurs twice.
    """
    config = replace(config, train=replace(config.train, seed=seed, log_dir=str(folder)))
    run = Planned(row.label, config, (), (), **more)
    picks = run.checkpoint == "best" and picks_epochs(config)
    adaptations, also = [], []
    for flags in row.tta:
        try:
            adapted = changed(config, flags)
        except InputError as fault:
            raise InputError(f"tta of row {row.label!r}: {fault}") from None
        name, words = adapted.eval.name, tuple(as_words(flags, f"tta of {row.label}"))
        # What predicts as the run does has the run's epoch.
        own = picks and name != config.eval.name
        also += [adaptation_text(adapted.eval, config.eval)] if own else []
        model = f"best_{name}" if own else run.checkpoint
        adaptations.append(Adaptation(name, adapted.digest(), words, model))
    refuse_repeated((a.name for a in adaptations), f"adaptations of row {row.label!r} are there twice")
    words = (*row.words, "--seed", str(seed), "--log_dir", str(folder), *where)
    words += ("--also_tta", *also) if also else ()
    return replace(run, words=words, adaptations=tuple(adaptations))


def picks_epochs(config: RunConfig) -> bool:
    """Whether adaptations can judge a method's epochs; not where a classifier follows on frozen features."""
    return get_method(config.algorithm).head_phase is Method.head_phase


def unequal(spec: Spec, where: Sequence[str] = ()) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The terms in which each row differs from the spec's reference: row -> term -> (its, the reference's).

    Folds differ in their data alone, so that the first one speaks for all.

    Rows that the spec adapts after training, or that adapt by themselves, are compared like the others: what
    picks their epoch is their own accuracy on val, or they have the last epoch.
    """
    configs = {row.label: resolve_row(row, spec, (*spec.folds[0], *where)) for row in spec.rows}
    terms = {label: terms_of(jsonable(c.values()), epoch="") for label, c in configs.items()}
    reference = terms[spec.reference]
    found = {}
    for label, own in terms.items():
        names = differing_terms(own, reference)
        found[label] = {name: (own[name], reference[name]) for name in names}
    return found
