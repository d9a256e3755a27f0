"""What the ABRA paper leaves open, as named fields; of `k_bound` the default departs from its text."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import check_choices, method_option, require
from abra_wilds.errors import InputError
from abra_wilds.methods.base import MethodConfig
from abra_wilds.nets.staged import STAGES

TERMS = ("ce", "arc", "js")


@dataclass(frozen=True)
class ABRAConfig(MethodConfig):
    """Eqs. 7-14 and Algorithm 1."""

    at: tuple[str, ...] = method_option(("res4",), "insertion points of the perturbation", choices=STAGES[1:])
    terms: tuple[str, ...] = method_option(
        TERMS, "terms of the loss; with one of ce and arc alone it weighs 1", choices=TERMS
    )
    lam: float = method_option(0.8, "lambda: weight of L_CE against L_arc, in [0, 1] (Eq. 10)")
    scale: float = method_option(30.0, "ArcFace scale s (Eq. 11)")
    margin: float = method_option(0.5, "ArcFace margin m in radians (Eq. 11)")
    halve_arc: bool = method_option(False, "halve L_arc, as the RxRx1 competition code does")
    share_arc_weight: bool = method_option(
        False, "ArcFace uses the classifier's weight matrix instead of its own"
    )
    neck: str = method_option("none", "between pooling and heads", choices=("none", "layernorm"))
    k_init: float = method_option(0.1, "first value of both K")
    k_init_relative: bool = method_option(True, "k_init is in units of the first batch's sigma")
    k_unit: str = method_option(
        "absolute",
        "K are shifts as in the paper, or multiples of each bio-batch's sigma, which they then keep up with",
        choices=("absolute", "sigma"),
    )
    alpha: float | None = method_option(
        None, "ascent step of K; unset: theta's current learning rate", kind=float
    )
    alpha_scale: float = method_option(1.0, "factor on the ascent step")
    ascent_steps: int = method_option(1, "ascent steps per batch")
    k_bound: float = method_option(0.5, "bound on |K| / sigma; inf is the paper's text")
    reuse_noise: bool = method_option(False, "phase 2 repeats phase 1's noise instead of drawing afresh")
    noise_shape: str = method_option(
        "batch", "one draw per bio-batch, or per image", choices=("batch", "image")
    )
    prob: float = method_option(1.0, "probability that a batch is perturbed")
    two_forward: bool = method_option(False, "run the backbone again for phase 1, as Algorithm 1 is written")
    reduce: str = method_option("mean", "over clean and shifted features in Eq. 13", choices=("mean", "sum"))
    js_weight: float = method_option(1.0, "weight of R_JS (Eq. 13)")
    js_detach_clean: bool = method_option(False, "R_JS moves only the shifted side")
    detach_stats: bool = method_option(False, "no gradient through mu and sigma in phase 2")
    eps: float = method_option(1e-6, "guard inside the root of sigma (Eq. 1)")
    clamp_sigma: bool = method_option(False, "keep sigma + Delta_sigma at 0 or above")
    before_relu: bool = method_option(False, "shift before the ReLU that ends the stage, not after it")
    soft_arc: str = method_option("dense", "ArcFace on CutMix labels", choices=("dense", "two_term"))
    stats_over: str = method_option(
        "group",
        "statistics and noise per bio-batch, or over the mixed batch",
        choices=("group", "batch"),
    )
    pooled_path: bool = method_option(
        True, "at res4 shift pooled features instead of the map; equal, and cheaper"
    )

    def __post_init__(self) -> None:
        cancels = "none or layernorm: a batch norm between insertion point and heads cancels the shift"
        require(self.neck in ("none", "layernorm"), "abra_neck", cancels, self.neck)
        check_choices(self, "abra_")
        require(
            0 < len(self.at) == len(set(self.at)),
            "abra_at",
            "distinct insertion points, at least one",
            self.at,
        )
        need = "ce, arc or both, and js if wanted: js alone gives neither phase a label to learn from"
        require(bool({"ce", "arc"} & set(self.terms)), "abra_terms", need, " ".join(self.terms))
        require(0 <= self.lam <= 1, "abra_lam", "a weight in [0, 1]", self.lam)
        require(self.scale > 0, "abra_scale", "positive", self.scale)
        require(0 <= self.margin <= 3.1415, "abra_margin", "an angle in radians, 0 to pi", self.margin)
        require(self.k_init >= 0, "abra_k_init", "0 or more", self.k_init)
        require(self.alpha is None or self.alpha >= 0, "abra_alpha", "0 or more", self.alpha)
        require(self.alpha_scale >= 0, "abra_alpha_scale", "0 or more", self.alpha_scale)
        require(
            self.ascent_steps >= 1,
            "abra_ascent_steps",
            "1 or more (for no ascent: --abra_alpha 0)",
            self.ascent_steps,
        )
        require(self.k_bound > 0, "abra_k_bound", "positive, or inf", self.k_bound)
        require(0 <= self.prob <= 1, "abra_prob", "a probability", self.prob)
        require(self.js_weight >= 0, "abra_js_weight", "0 or more", self.js_weight)
        require(self.eps > 0, "abra_eps", "positive", self.eps)

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
