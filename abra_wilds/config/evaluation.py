"""What is measured after training, when, and with which adaptation to the images that are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.fields import Options, option, require
from abra_wilds.errors import InputError

# Adaptations that leave all but batch-norm statistics alone, but for "none".
STATISTICS_TTA = ("batch_bn", "plate_bn", "mixed_bn", "controls_bn", "eb_bn", "unmix_tns")
# Values of --tta whose predictions the classifier makes of what it reads.
EMBEDDED = ("none", *STATISTICS_TTA)
# Adaptations after the forward pass, which any number of images may share.
LOGIT_TTA = ("lame", "label_shift")
TTA = ("none", *STATISTICS_TTA, "tent", "sar", *LOGIT_TTA)
# Adaptations to a bio-batch, which --tta_group defines.
GROUPED_TTA = tuple(tta for tta in TTA if tta not in ("none", "batch_bn"))
# Adaptations whose passes are the parts of at most --tta_batch_size images.
CUT_TTA = tuple(tta for tta in TTA if tta not in ("none", "controls_bn", *LOGIT_TTA))
# Adaptations that learn from pass to pass, and how many images of a bio-batch make one in the papers.
ONLINE_TTA = ("unmix_tns", "tent", "sar")
ONLINE_BATCH = 64
CONTROLS_TTA = ("controls_bn", "eb_bn")  # to which --tta_controls matters
TTA_MIN = 16
ADVICE = ("adapt", "do not adapt", "cannot tell")  # whether to adapt to a bio-batch
CONTROL_KINDS = ("all", "positive", "negative", "none")


@dataclass(frozen=True)
class EvalConfig(Options):
    """What is measured, when, and with which adaptation."""

    val_metric: str = option("acc_avg", "entry of WILDS' evaluation of `val` that picks the best epoch")
    val_metric_decreasing: bool = option(False, "smaller values of val_metric are better")
    evaluate_all_splits: bool = option(
        True, "evaluate every split after each epoch, not only val", local=True
    )
    eval_splits: tuple[str, ...] = option((), "splits to evaluate besides val", kind=str, local=True)
    bn_stats: str = option(
        "running",
        "batch-norm statistics: running, or re-estimated on training images",
        choices=("running", "precise"),
    )
    tta: str = option(
        "none",
        "test-time adaptation: predict by batch-norm statistics of each batch in dataset order, of each "
        "bio-batch, mixed of those and the running ones, of each bio-batch's control wells, with the class "
        "mix taken into account (eb_bn), or of components of statistics; by affine parameters "
        "that lower entropies; or correct the predictions of a bio-batch",
        choices=TTA,
    )
    tta_group: str = option("plate", "what one bio-batch is to --tta", choices=tuple(TTA_GROUPS))
    tta_batch_size: int = option(
        0,
        "most images whose statistics are taken together; a larger bio-batch is cut at random into "
        "near-equal parts (eb_bn: with statistics together); 0: never cut, for batch_bn --batch_size, and "
        f"for what learns from pass to pass {ONLINE_BATCH}, or twice --tta_min if that is more",
    )
    tta_prior: float = option(
        256.0,
        "mixed_bn: the running statistics weigh as much as this many images (M of Schneider et al. 2020)",
        at_least=0,
        infinite=True,
    )
    tta_min: int = option(
        TTA_MIN,
        "statistics of fewer images are not used: those images are predicted with the running ones",
        at_least=1,
    )
    tta_controls: str = option(
        "all",
        "control wells whose statistics controls_bn takes, and whose classes eb_bn knows",
        choices=CONTROL_KINDS,
        later=True,
    )
    also_tta: tuple[str, ...] = option(
        (),
        "further adaptations that pick an epoch of their own by val, whose model is kept as epoch:best_NAME: "
        "a --tta, and after commas what differs of group, batch_size, prior and min",
        kind=str,
        local=True,
    )
    eval_only: bool = option(False, "evaluate a saved model of --log_dir and stop", local=True)
    eval_epoch: int | None = option(
        None, "with eval_only: the epoch to evaluate instead of the best", kind=int, at_least=0, local=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # A bio-batch just above the limit is cut in two, and a half must not be too small.
        least = self.tta_min if self.tta == "batch_bn" else 2 * self.tta_min
        fits = self.tta_batch_size == 0 or self.tta_batch_size >= least
        allowed = f"0, or {least} or more (with --tta_min {self.tta_min})"
        require(fits, "tta_batch_size", allowed, self.tta_batch_size)
        names = [e.name for e in self.alternatives()]
        distinct = len({*names, self.name}) == len(names) + 1
        require(
            distinct,
            "also_tta",
            "a list of adaptations that differ from one another and from --tta",
            self.also_tta,
        )

    @property
    def name(self) -> str:
        """`adaptation`, or "none"."""
        return self.adaptation or "none"

    def alternatives(self) -> list[EvalConfig]:
        """These settings with each adaptation of --also_tta.

        Raises:
            InputError: for one that is none, or a part of it without effect.
        """
        found = []
        for text in self.also_tta:
            flags = adaptation_flags(text)
            e = replace(self, also_tta=(), **flags)
            for name in flags.keys() & e.idle().keys():
                raise InputError(
                    f"--also_tta got {text!r}, where {name.removeprefix('tta_')} has no effect; leave it out"
                )
            found.append(e)
        return found

    def idle(self) -> dict[str, str]:
        """Flags that would have no effect with this --tta and --also_tta, and what they need."""
        works = {
            "eval_loader": ("none",),
            "tta_group": GROUPED_TTA,
            "tta_batch_size": CUT_TTA,
            "tta_controls": CONTROLS_TTA,
            "tta_prior": ("mixed_bn",),
            "tta_min": TTA[1:],
        }
        own = {self.tta, *(text.partition(",")[0] for text in self.also_tta)}
        return {name: f"--tta {' or '.join(tta)}" for name, tta in works.items() if not own & set(tta)}

    @property
    def needs_components(self) -> bool:
        """Whether --tta works with components of the model's batch norms."""
        return self.tta == "eb_bn"

    @property
    def adaptation(self) -> str | None:
        """The test-time adaptation in one word fit for file names, such as "plate_bn_b128", or None.

        After its name come the group where it is not the plate, m and the prior, b and the batch size, and
        min with the least images where that is not the default.
        """
        if self.tta == "none":
            return None
        parts = [
            self.tta_group if self.tta in GROUPED_TTA and self.tta_group != "plate" else "",
            f"m{self.tta_prior:g}" if self.tta == "mixed_bn" else "",
            f"b{self.tta_batch_size}" if self.tta_batch_size and self.tta in CUT_TTA else "",
            f"min{self.tta_min}" if self.tta_min != TTA_MIN else "",
            f"{self.tta_controls}_controls"
            if self.tta in CONTROLS_TTA and self.tta_controls != "all"
            else "",
        ]
        return "_".join([self.tta, *filter(None, parts)])


# What --also_tta may say of an adaptation after commas, and its kind; the flags have tta_ before the name.
ADAPTATION_PARTS: Mapping[str, type] = {
    **{"group": str, "batch_size": int, "prior": float, "min": int},
    "controls": str,
}


def adaptation_flags(text: str) -> dict[str, Any]:
    """Flags of an adaptation as --also_tta takes it.

    Raises:
        InputError: for another name, or a value of another kind.

    >>> adaptation_flags("plate_bn,group=experiment,min=8")
    {'tta': 'plate_bn', 'tta_group': 'experiment', 'tta_min': 8}
    """
    name, *others = text.split(",")
    found: dict[str, Any] = {"tta": name}
    for pair in others:
        key, _, value = pair.partition("=")
        try:
            found[f"tta_{key}"] = ADAPTATION_PARTS[key](value)
        except (KeyError, ValueError):
            allowed = f"{', '.join(TTA)}, and after commas group=, batch_size=, prior=, min= or controls="
            raise InputError(f"--also_tta got {text!r}; give one of {allowed}") from None
    return found


def adaptation_text(e: EvalConfig, base: EvalConfig) -> str:
    """An adaptation as --also_tta takes it.

    Args:
        e: with the adaptation.
        base: of the run that it judges, whose values hold where the text says nothing.

    >>> adaptation_text(EvalConfig(tta="plate_bn", tta_group="experiment"), EvalConfig())
    'plate_bn,group=experiment'
    """
    values = {part: getattr(e, f"tta_{part}") for part in ADAPTATION_PARTS}
    others = [f"{part}={v}" for part, v in values.items() if v != getattr(base, f"tta_{part}")]
    return ",".join([e.tta, *others])
