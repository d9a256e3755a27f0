"""What is known of a model's batch norms before a new bio-batch comes: components, and how posteriors err."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from abra_wilds.errors import InputError
from abra_wilds.functional.effects import Effects
from abra_wilds.tta.certificate import Calibration
from abra_wilds.tta.mix import Reliability


@dataclass(frozen=True)
class Components:
    """Components of a model's batch norms, measured on its training images with its running statistics.

    Attributes:
        group: what a bio-batch is, "plate" or "experiment".
        pi: (O,) class frequencies in training.
        usual: spread of the class mix over training bio-batches, from `mix_spread`.
        means: name of a batch norm -> effects of images' channel means.
        variances: the same of images' channel variances.
        unadapted: how posteriors without adaptation err on new bio-batches.
        adapted: how those err that lie half way to the first adaptation's.
        measured_on: the split that says so.
        calibration: what adapted predictions of new bio-batches are worth; None until it is known.
    """

    group: str
    pi: Tensor
    usual: float
    means: Mapping[str, Effects]
    variances: Mapping[str, Effects]
    unadapted: Reliability
    adapted: Reliability
    measured_on: str
    calibration: Calibration | None = None

    def line(self) -> str:
        """What they are, for the log."""
        return (
            f"Components of {len(self.means)} batch norms: class mixes of training {self.group}s spread by "
            f"{self.usual:.3f}; posteriors of {self.measured_on} show {self.unadapted.slope:.2f} of a "
            f"deviation, after adaptation {self.adapted.slope:.2f}"
        )

    def to(self, device: Any) -> Components:
        """The same with tensors on a device."""

        def moved(effects: Mapping[str, Effects]) -> dict[str, Effects]:
            return {
                k: Effects(*(getattr(v, f.name).to(device) for f in fields(v))) for k, v in effects.items()
            }

        return replace(self, pi=self.pi.to(device), means=moved(self.means), variances=moved(self.variances))

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and texts, as `torch.load(weights_only=True)` reads them."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Components:
        """The components of a `state`.

        Raises:
            InputError: if it is none.
        """
        try:
            effects = {
                key: {name: Effects(**parts) for name, parts in state[key].items()}
                for key in ("means", "variances")
            }
            errors: dict[str, Any] = {key: Reliability(**state[key]) for key in ("unadapted", "adapted")}
            if state["calibration"] is not None:
                errors["calibration"] = Calibration(**state["calibration"])
            return Components(**{**state, **effects, **errors})
        except (KeyError, TypeError, AttributeError) as fault:
            raise InputError(
                f"components of batch norm have other contents ({fault}); fit them anew"
            ) from None
