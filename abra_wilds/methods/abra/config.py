"""What the ABRA paper leaves open, as named fields; of `k_bound` the default departs from its text."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import option, require
from abra_wilds.errors import InputError
from abra_wilds.methods.base import MethodConfig
from abra_wilds.nets.staged import STAGES

TERMS = ("ce", "arc", "js")


@dataclass(frozen=True)
class ABRAConfig(MethodConfig):
    """Eqs. 7-14 and Algorithm 1."""

    at: tuple[str, ...] = option(
        ("res4",), "insertion points of the perturbation", choices=STAGES[1:], distinct=True
    )
    terms: tuple[str, ...] = option(
        TERMS, "terms of the loss; with one of ce and arc alone it weighs 1", choices=TERMS
    )
    lam: float = option(0.8, "lambda: weight of L_CE against L_arc (Eq. 10)", at_least=0, at_most=1)
    scale: float = option(30.0, "ArcFace scale s (Eq. 11)", above=0)
    margin: float = option(0.5, "ArcFace margin m in radians (Eq. 11)", at_least=0, at_most=3.1415)
    halve_arc: bool = option(False, "halve L_arc, as the RxRx1 competition code does")
    share_arc_weight: bool = option(False, "ArcFace uses the classifier's weight matrix instead of its own")
    neck: str = option(
        "none",
        "between pooling and heads, where a batch norm would cancel the shift",
        choices=("none", "layernorm"),
    )
    k_init: float = option(0.1, "first value of both K", at_least=0)
    k_init_relative: bool = option(True, "k_init is in units of the first batch's sigma")
    k_unit: str = option(
        "absolute",
        "K are shifts as in the paper, or multiples of each bio-batch's sigma, which they then keep up with",
        choices=("absolute", "sigma"),
    )
    alpha: float | None = option(
        None, "ascent step of K; unset: theta's current learning rate", kind=float, at_least=0
    )
    alpha_scale: float = option(1.0, "factor on the ascent step", at_least=0)
    ascent_steps: int = option(1, "ascent steps per batch; for none, --abra_alpha 0", at_least=1)
    k_bound: float = option(0.5, "bound on |K| / sigma; inf is the paper's text", above=0, infinite=True)
    reuse_noise: bool = option(False, "phase 2 repeats phase 1's noise instead of drawing afresh")
    noise_shape: str = option("batch", "one draw per bio-batch, or per image", choices=("batch", "image"))
    prob: float = option(1.0, "probability that a batch is perturbed", at_least=0, at_most=1)
    two_forward: bool = option(False, "run the backbone again for phase 1, as Algorithm 1 is written")
    reduce: str = option("mean", "over clean and shifted features in Eq. 13", choices=("mean", "sum"))
    js_weight: float = option(1.0, "weight of R_JS (Eq. 13)", at_least=0)
    js_detach_clean: bool = option(False, "R_JS moves only the shifted side")
    detach_stats: bool = option(False, "no gradient through mu and sigma in phase 2")
    eps: float = option(1e-6, "guard inside the root of sigma (Eq. 1)", above=0)
    clamp_sigma: bool = option(False, "keep sigma + Delta_sigma at 0 or above")
    before_relu: bool = option(False, "shift before the ReLU that ends the stage, not after it")
    soft_arc: str = option("dense", "ArcFace on CutMix labels", choices=("dense", "two_term"))
    stats_over: str = option(
        "group",
        "statistics and noise per bio-batch, or over the mixed batch",
        choices=("group", "batch"),
    )
    pooled_path: bool = option(True, "at res4 shift pooled features instead of the map; equal, and cheaper")

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "ce, arc or both, and js if wanted: js alone gives neither phase a label to learn from"
        require(bool({"ce", "arc"} & set(self.terms)), "abra_terms", need, " ".join(self.terms))

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of L_CE and L_arc."""
        half = 0.5 if self.halve_arc else 1.0
        if not {"ce", "arc"} <= set(self.terms):
            return (1.0, 0.0) if "ce" in self.terms else (0.0, half)
        return self.lam, half * (1 - self.lam)

    @property
    def by_cosine(self) -> bool:
        """Whether ArcFace's cosines classify: without cross-entropy no label reaches the other head."""
        return not self.weights[0]

    def check_loader(self, train_loader: str) -> None:
        """Raise for batches that hold one image of most bio-batches where bio-batches share noise.

        Raises:
            InputError: with what to give instead.
        """
        shared = self.stats_over == "group" and self.prob > 0
        if shared and train_loader not in ("plate", "group"):
            raise InputError(
                "ABRA shifts the images of a bio-batch together, and batches of --train_loader "
                f"{train_loader} hold about one image of each of many; give --train_loader plate, "
                "--train_loader group, or --abra_stats_over batch"
            )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of terms that are left out, of labels that are not mixed, and of a path that is not taken."""
        found = {} if mix == "cutmix" else {"abra_soft_arc": "--mix cutmix"}
        if not {"ce", "arc"} <= set(self.terms):
            found["abra_lam"] = "both ce and arc in --abra_terms"
        if self.k_unit == "sigma":
            found["abra_k_init_relative"] = "--abra_k_unit absolute"
        if "arc" not in self.terms:
            names = ("scale", "margin", "halve_arc", "share_arc_weight", "soft_arc")
            found |= {f"abra_{name}": "arc in --abra_terms" for name in names}
        if "js" not in self.terms:
            found |= {f"abra_{name}": "js in --abra_terms" for name in ("js_weight", "js_detach_clean")}
        if STAGES[-1] not in self.at or self.before_relu:
            found["abra_pooled_path"] = f"{STAGES[-1]} in --abra_at, after its ReLU"
        return found
