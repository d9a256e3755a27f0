"""What is known of a model's batch norms before a new bio-batch comes: components, and how posteriors err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abra_wilds.errors import InputError
from abra_wilds.functional.effects import Effects
from abra_wilds.tta.evidence import Calibration
from abra_wilds.tta.mix import Reliability

NORMS = ("means", "variances", "inside")  # what each batch norm has of its own


@dataclass(frozen=True)
class Components:
    """Components of a model's batch norms, measured on its training images with its running statistics.

    Attributes:
        group: what a bio-batch is, "plate" or "experiment".
        pi: (O,) class frequencies in training.
        usual: spread of the class mix over training bio-batches, from `mix_spread`.
        means: name of a batch norm -> effects of images' channel means.
        variances: the same of images' channel variances.
        inside: name of a batch norm -> (C,) mean of images' channel variances.
        unadapted: how posteriors without adaptation err on new bio-batches.
        adapted: how those err that lie half way to the first adaptation's.
        diversity: how the diversity of images errs on them.
        measured_on: the split that says so.
        calibration: what adapted predictions of new bio-batches are worth; None until it is known.
    """

    group: str
    pi: Tensor
    usual: float
    means: Mapping[str, Effects]
    variances: Mapping[str, Effects]
    inside: Mapping[str, Tensor]
    unadapted: Reliability
    adapted: Reliability
    diversity: Reliability
    measured_on: str
    calibration: Calibration | None = None

    @cached_property
    def early(self) -> Sequence[str]:
        """The half of the batch norms that classes move least, in units of tau_b."""
        return self._by_classes[: (len(self.means) + 1) // 2]

    @cached_property
    def late(self) -> Sequence[str]:
        """The other half."""
        return self._by_classes[(len(self.means) + 1) // 2 :]

    @cached_property
    def _by_classes(self) -> Sequence[str]:
        def moved_by_classes(name: str) -> float:
            effects = self.means[name]
            return float((effects.spread_of_mix(self.pi) / effects.between.clamp_min(1e-12)).mean())

        return sorted(self.means, key=moved_by_classes)

    def line(self) -> str:
        """What they are, for the log."""
        return (
            f"Components of {len(self.means)} batch norms: class mixes of training {self.group}s spread by "
            f"{self.usual:.3f}; posteriors of {self.measured_on} show {self.unadapted.slope:.2f} of a "
            f"deviation, after adaptation {self.adapted.slope:.2f}"
        )

    def to(self, device: Any) -> Components:
        """The same with tensors on a device, or on the host where it has no double precision (MPS)."""
        device = torch.device(device)
        device = torch.device("cpu") if device.type == "mps" else device

        def moved(effects: Mapping[str, Effects]) -> dict[str, Effects]:
            return {
                k: Effects(*(getattr(v, f.name).to(device) for f in fields(v))) for k, v in effects.items()
            }

        return replace(
            self,
            pi=self.pi.to(device),
            means=moved(self.means),
            variances=moved(self.variances),
            inside={name: mean.to(device) for name, mean in self.inside.items()},
        )

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and texts, as `torch.load(weights_only=True)` reads them; norms in float32."""
        return {k: _in(torch.float32, v) if k in NORMS else v for k, v in asdict(self).items()}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Components:
        """The components of a `state`.

        Raises:
            InputError: if it is none.
        """
        try:
            norms = {key: _in(torch.float64, state[key]) for key in NORMS}
            for key in ("means", "variances"):
                norms[key] = {name: Effects(**parts) for name, parts in norms[key].items()}
            judged = ("unadapted", "adapted", "diversity")
            errors: dict[str, Any] = {key: Reliability(**state[key]) for key in judged}
            if state["calibration"] is not None:
                errors["calibration"] = Calibration(**state["calibration"])
            return Components(**{**state, **norms, **errors})
        except (KeyError, TypeError, AttributeError) as fault:
            raise InputError(
                f"components of batch norm have other contents ({fault}); fit them again"
            ) from None


def _in(dtype: torch.dtype, parts: Any) -> Any:
    """The tensors of nested mappings in another precision."""
    return parts.to(dtype) if isinstance(parts, Tensor) else {k: _in(dtype, v) for k, v in parts.items()}
