"""What every method declares and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from abra_wilds.config.fields import Options
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.nets.staged import NO_TAPS, StagedNet, Taps
from abra_wilds.types import Batch, BatchPlan, DataInfo, HeadPhase, StepContext, StepOutput, ViewPlan


@dataclass(frozen=True)
class MethodConfig(Options):
    """Hyper-parameters of a method, whose name stands before theirs; this one has none of its own."""

    def idle(self, mix: str) -> dict[str, str]:
        """Flags that would have no effect with these values and this --mix, and what they need."""
        return {}

    def check_loader(self, train_loader: str) -> None:
        """Raise where these values make no sense with the batches of a training loader.

        Raises:
            InputError: with what to give instead.
        """

    def first_epochs(self) -> dict[str, int]:
        """Flags of epochs that come before what the method is named for, which a run must outlast."""
        return {}


class Method(nn.Module):
    """A way to train a classifier that should survive new bio-batches.

    A subclass gives three declarations and `forward`; it knows nothing of optimisers, devices, loaders or
    logs. What most methods leave as it is stands below `predict`.

    Attributes:
        name: as tables print it and as --algorithm takes it.
        plan: the batches it wants.
        preset: where its defaults come from, "paper" or "wilds" (see presets.py).
        backbone: the --model that it wants unless another is given; None leaves it to the default.
        plain_forward: whether the batch norms that `predict` uses see whole batches in training, of images as
            the transform makes them: neither one bio-batch at a time nor views nor perturbed features.
        Config: frozen dataclass of its hyper-parameters, its alone; the fields become flags.
        idle_parameters: whether there are steps that leave parameters in training without a gradient, which
            several processes would wait for.
        context: what the engine says about the current step.
    """

    name: ClassVar[str]
    plan: ClassVar[BatchPlan] = BatchPlan()
    preset: ClassVar[str] = "wilds"
    backbone: ClassVar[str | None] = None
    plain_forward: ClassVar[bool] = True
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    idle_parameters: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "Config" in vars(cls):
            cls.Config.prefix = f"{cls.name.lower().replace('-', '_')}_"

    def __init__(self, net: StagedNet, info: DataInfo, cfg: Any):
        super().__init__()
        self.net = net
        self.info = info
        self.cfg = cfg
        self.head = nn.Linear(net.d_feat, info.n_classes)
        self.context = StepContext()

    @property
    def schedule_lost(self) -> bool:
        """Whether the learning rate stays at its base from the coming step on."""
        return False

    @property
    def scalable(self) -> bool:
        """Whether it may learn from a scaled loss, as --amp fp16 makes it.

        False where it differentiates the backbone itself, unscaled, or reads gradients of the engine's.
        """
        return True

    def forward(self, batch: Batch) -> StepOutput:
        """Everything that is differentiated; a training step, which may move the method's own state."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Average-pooled features, (N, D), float32 or better, of standardised images (N, C_in, H, W)."""
        return self.tapped_features(x, NO_TAPS)

    def tapped_features(self, x: Tensor, taps: Taps) -> Tensor:
        """`features` of maps that pass through functions on their way; see `StagedNet`."""
        return at_least_fp32(self.net(x, taps=taps)).mean((2, 3))

    def embed(self, x: Tensor) -> Tensor:
        """What `classify` reads of standardised images (N, C_in, H, W): (N, D), features after any neck."""
        return self.features(x)

    def classify(self, f: Tensor) -> Tensor:
        """Class logits, (N, O), of what `embed` gives (N, D), in full precision."""
        with full_precision(f.device.type):
            logits: Tensor = self.head(f)
            return logits

    def predict(self, x: Tensor) -> Tensor:
        """Class logits, (N, O), of standardised images (N, C_in, H, W)."""
        return self.classify(self.embed(x))

    def after_step(self) -> None:
        """Called once after each optimiser step; most methods need nothing."""

    def remark(self, logs: Mapping[str, float]) -> str | None:
        """A sentence for the run's log on the averages of an epoch's last steps, if there is one to say."""
        return None

    def parameter_groups(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """The parameters that are trained, with factors on the learning rate; together each of them once."""
        return [(self.parameters(), 1.0)]

    def view_plan(self) -> ViewPlan | None:
        """The augmented views that `forward` reads from `Batch.views`; None for none."""
        return None

    def head_phase(self) -> HeadPhase | None:
        """How the classifier is trained on frozen features after the last epoch; None for not at all."""
        return None

    def head_step(self, head: nn.Linear, batch: Batch) -> StepOutput:
        """The loss of a classifier in the head phase; mean cross-entropy unless a method says otherwise.

        Args:
            head: the classifier in training.
            batch: x holds features, (N, D).
        """
        with full_precision(batch.x.device.type):
            logits = head(batch.x)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)
