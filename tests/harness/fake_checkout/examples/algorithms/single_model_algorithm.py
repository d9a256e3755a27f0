"""Algorithms with one network and one optimiser."""

from algorithms.group_algorithm import GroupAlgorithm
from optimizer import initialize_optimizer
from scheduler import initialize_scheduler
from torch import nn
from utils import move_to


class SingleModelAlgorithm(GroupAlgorithm):
    """Subclasses give the objective. An optimiser that they have set beforehand stays."""

    def __init__(self, config, model, grouper, loss, metric, n_train_steps):
        self.loss, self.metric, self.batch_idx = loss, metric, 0
        self.optimizer = getattr(self, "optimizer", None) or initialize_optimizer(config, model)
        for name in ("max_grad_norm", "gradient_accumulation_steps"):
            setattr(self, name, getattr(config, name))
        metrics = [loss] if metric is None else [loss, metric]
        schedule = (
            [initialize_scheduler(config, self.optimizer, n_train_steps)],
            [config.scheduler_metric_name],
        )
        super().__init__(config.device, grouper, metrics, ["objective"], *schedule, config.no_group_logging)
        self.model = (nn.DataParallel(model) if config.use_data_parallel else model).to(config.device)

    def get_model_output(self, x, y_true):
        """Outputs; a network that needs labels gets them in training."""
        if self.model.needs_y:
            return self.model(x, y_true if self.training else None)
        return self.model(x)

    def process_batch(self, batch, unlabeled_batch=None):
        """Forward pass; returns what objective and log need."""
        assert unlabeled_batch is None, "the stand-in has no unlabeled data"
        x, y_true, metadata = batch
        g = self.grouper.metadata_to_group(metadata)
        x, y_true, g = move_to([x, y_true, g], self.device)
        y_pred = self.get_model_output(x, y_true)
        return {"g": g, "y_true": y_true, "y_pred": y_pred, "metadata": metadata}

    def objective(self, results):
        """The number to be minimised."""
        raise NotImplementedError

    def evaluate(self, batch):
        """A batch without an update."""
        assert not self.is_training
        found = self.process_batch(batch)
        found["objective"] = self.objective(found).item()
        self.update_log(found)
        return self.sanitize_dict(found)

    def update(self, batch, unlabeled_batch=None, is_epoch_end=False):
        """A batch with an update, which takes effect where a group of batches or the epoch ends."""
        assert self.is_training
        found = self.process_batch(batch, unlabeled_batch)
        complete = (self.batch_idx + 1) % self.gradient_accumulation_steps == 0
        self._update(found, should_step=complete or is_epoch_end)
        self.update_log(found)
        self.batch_idx = 0 if is_epoch_end else self.batch_idx + 1
        return self.sanitize_dict(found)

    def _update(self, results, should_step=False):
        """Gradients are summed, not averaged, over the batches of a step."""
        total = self.objective(results)
        total.backward()
        results["objective"] = total.item()
        if not should_step:
            return
        if self.max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.step_schedulers(is_epoch=False, metrics=self.log_dict, log_access=False)
        self.model.zero_grad()

    def save_metric_for_logging(self, results, metric, value):
        """Put a number, or a tensor of one, among the results."""
        results[metric] = value.item() if hasattr(value, "item") else value
