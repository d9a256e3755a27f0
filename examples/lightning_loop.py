"""The loop of `own_loop.py` as a LightningModule: the same network, plates and numbers of epochs.

pip install 'abra-wilds[lightning]'; python examples/lightning_loop.py --epochs 8    # seconds on a CPU
"""

from __future__ import annotations

import torch
from own_loop import LR, Classifier, flags, plate_loader, show_new_plates, simulated_plates
from torch import Tensor

from abra_wilds import abra_loss
from abra_wilds.compat.imports import torchvision_importable

torchvision_importable()  # lightning imports it
try:
    import lightning
except ModuleNotFoundError:
    raise SystemExit(
        "lightning_loop.py needs the package lightning; run `pip install 'abra-wilds[lightning]'`"
    ) from None


class LitClassifier(lightning.LightningModule):
    """A Classifier that learns by ABRA."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Classifier()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """ABRA's loss; K ascends by the optimiser's current rate."""
        x, y, plate = batch
        net, rate = self.net, self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        out = abra_loss(net.trunk(x), y, net.head, net.arc_weight, net.shift, alpha=rate, bio_batch=plate)
        self.log_dict({"loss": out.loss, **out.logs}, prog_bar=True)
        return out.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), LR)


if __name__ == "__main__":
    lightning.seed_everything(0)
    known, new = simulated_plates()
    module = LitClassifier()
    trainer = lightning.Trainer(
        max_epochs=flags().epochs,
        accelerator="cpu",
        use_distributed_sampler=False,  # PlateBatchSampler shares batches out itself
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, plate_loader(known))
    show_new_plates(module.net, new)
