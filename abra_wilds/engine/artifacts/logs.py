"""What a run writes while it goes: log.txt, one csv per split, averages kept on the device."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from abra_wilds.config.run import TrainConfig
from abra_wilds.dist import all_gather, is_main, world
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.results.files import atomic_write, refusals_named
from abra_wilds.types import Batch, Diverged, StepOutput, Target

EVERY = slice(None)  # every row of a batch


def no_bar(config: TrainConfig) -> bool | None:
    """Tqdm's `disable` for --progress_bar; None shows the bar at a terminal. One process alone shows it."""
    if not is_main():
        return True
    return None if config.progress_bar is None else not config.progress_bar


class TextLog:
    """Lines for the terminal and for log.txt, of the main process alone."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, text: str) -> None:
        """Write a line to both; a progress bar stays below it."""
        if not is_main():
            return
        tqdm.write(text, file=sys.stdout)
        # A path may have bytes that are no text.
        with (
            refusals_named(self.path),
            open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(text + "\n")


class CsvLog:
    """A csv with a header, as WILDS' BatchLogger writes it; a row with new columns widens the file.

    The main process alone writes it.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; the first one also writes the header."""
        if not is_main():
            return
        columns = self._columns()
        new = [name for name in row if name not in columns]
        if new:
            self._rewrite([*columns, *new], self._rows())
        with refusals_named(self.path), open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, [*columns, *new]).writerow(row)

    def replace(self, row: Mapping[str, Any]) -> None:
        """Write an epoch's one row, in place of an earlier one and of what a kill cut short."""
        if not is_main():
            return
        others = [other for other in self._rows() if int(other["epoch"]) != row["epoch"]]
        columns = dict.fromkeys([*self._columns(), *row])
        self._rewrite(list(columns), sorted([*others, row], key=lambda each: int(each["epoch"])))

    def row(self, epoch: int) -> dict[str, str]:
        """The last row of an epoch; empty if there is none."""
        return next((row for row in reversed(self._rows()) if int(row["epoch"]) == epoch), {})

    def keep_through(self, epoch: int) -> None:
        """Drop the rows of later epochs, and what a kill cut short: a resumed run writes them again."""
        if not is_main():
            return
        columns = self._columns()
        if columns:
            self._rewrite(columns, [row for row in self._rows() if int(row["epoch"]) <= epoch])
        else:
            self.path.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        """The lines that are complete."""
        return [
            line for line in self.path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")
        ]

    def _columns(self) -> list[str]:
        """The header, read alone: a long run appends to a long file."""
        if not self.path.exists():
            return []
        with open(self.path, encoding="utf-8") as file:
            first = file.readline()
        return next(csv.reader([first])) if first.endswith("\n") else []

    def _rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self._lines())) if self.path.exists() else []

    def _rewrite(self, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
        with atomic_write(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


class Meter:
    """Image-weighted averages since the last reading, kept on the device so that a step never waits for it.

    Group columns are named as WILDS names them: loss_group:3, acc_group:3, count_group:3.
    """

    def __init__(self, n_groups: int, device: torch.device, by_group: bool):
        self.n_groups, self.device, self.by_group = n_groups, device, by_group
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, int] = {}
        self.groups = torch.zeros(3, self.n_groups, device=self.device)  # loss, correct, count

    @torch.no_grad()
    def update(self, out: StepOutput, batch: Batch, rows: Tensor | slice = EVERY) -> None:
        """Add a step's loss and logs, and the cross-entropy and accuracy of its clean logits if it has any.

        Args:
            out: of the step.
            batch: on the device.
            rows: those that were learned from.
        """
        target = batch.target[rows]
        self._add({"objective": out.loss.detach(), **out.logs}, len(target.y))
        if out.logits is not None:
            self.add_predictions(out.logits[rows], target, batch.g[rows])

    @torch.no_grad()
    def add_predictions(self, logits: Tensor, target: Target, g: Tensor) -> None:
        """Add the cross-entropy and accuracy of logits (N, O)."""
        losses = cross_entropies(logits.detach(), target)  # (N,)
        right = (logits.argmax(1) == target.y).to(losses.dtype)  # (N,)
        self._add({"loss_avg": losses.mean(), "acc_avg": right.mean()}, len(right))
        if self.by_group:
            self.groups.index_add_(
                1, g, torch.stack([losses, right, torch.ones_like(right)]).to(self.groups.dtype)
            )

    def _add(self, values: Mapping[str, Tensor], n: int) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + n * value
            self.weights[name] = self.weights.get(name, 0) + n

    def merge(self) -> None:
        """Count what the meters of all processes have seen; the host waits for it."""
        if world() == 1:
            return
        sums = {name: torch.as_tensor(total).cpu() for name, total in self.sums.items()}
        parts = all_gather((sums, self.weights, self.groups.cpu()))
        self.reset()
        for part, weights, groups in parts:
            for name, total in part.items():
                self.sums[name] = self.sums.get(name, 0.0) + total
                self.weights[name] = self.weights.get(name, 0) + weights[name]
            self.groups += groups.to(self.device)

    def read(self) -> dict[str, float]:
        """The averages by column name, which the host waits for; empty groups have no loss or accuracy."""
        row = {name: float(total) / self.weights[name] for name, total in self.sums.items()}
        row["count"] = self.weights.get("objective", self.weights.get("acc_avg", 0))
        if self.by_group and "acc_avg" in self.weights:
            loss, right, count = self.groups.tolist()
            for i, n in enumerate(count):
                row[f"loss_group:{i}"] = loss[i] / n if n else float("nan")
                row[f"acc_group:{i}"] = right[i] / n if n else float("nan")
                row[f"count_group:{i}"] = n
        return row


class DivergenceCheck:
    """Remembers the losses since the last check, and stops the run at the first that is not finite."""

    def __init__(self, group_name: Any):
        self.group_name = group_name
        self.steps: list[tuple[int, float, list[int], Tensor, dict[str, Tensor]]] = []

    def note(self, step: int, lr: float, groups: list[int], out: StepOutput) -> None:
        """Remember a step: its number, rate, bio-batches and losses, without reading them."""
        losses = {k: v for k, v in out.logs.items() if k.startswith("L_")}
        self.steps.append((step, lr, groups, out.loss.detach(), losses))

    def check(self, kept: str) -> None:
        """Raise at the first loss that is not finite; forget the others.

        Args:
            kept: what is left of the run, for the message.

        Raises:
            Diverged: with step, bio-batches, rate and losses.
        """
        steps, self.steps = self.steps, []
        if not steps or bool(torch.isfinite(torch.stack([s[3] for s in steps])).all()):
            return
        step, lr, groups, loss, losses = next(s for s in steps if not bool(torch.isfinite(s[3])))
        named = "; ".join(self.group_name(g) for g in groups[:3]) + (" and others" if len(groups) > 3 else "")
        terms = "".join(f", {name} = {float(value):.4g}" for name, value in losses.items())
        raise Diverged(
            f"the loss became {float(loss)} at step {step} (learning rate {lr:.3g}, "
            f"bio-batch {named}{terms}); "
            f"{kept}; start again in another --log_dir, or with --overwrite, and lower --lr or clip with "
            "--max_grad_norm"
        )
