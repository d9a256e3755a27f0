"""Invariant risk minimisation."""

import torch
from algorithms.single_model_algorithm import SingleModelAlgorithm
from models.initializer import initialize_model
from optimizer import initialize_optimizer
from wilds.common.utils import split_into_groups


class IRM(SingleModelAlgorithm):
    """Mean loss of the domains plus irm_lambda (1 before the annealing) times their mean penalty."""

    def __init__(self, config, d_out, grouper, loss, metric, n_train_steps):
        assert config.train_loader == "group" and config.uniform_over_groups and config.distinct_groups
        net = initialize_model(config, d_out).to(config.device)
        super().__init__(config, net, grouper, loss, metric, n_train_steps)
        self.config, self.update_count = config, 0
        self.irm_lambda, self.irm_penalty_anneal_iters = config.irm_lambda, config.irm_penalty_anneal_iters
        self.scale = torch.ones((), device=self.device, requires_grad=True)
        self.logged_fields += ["penalty"]

    def irm_penalty(self, losses):
        """Product of the gradients by the scale on even and on odd positions."""
        halves = (losses[start::2].mean() for start in (0, 1))
        even, odd = (torch.autograd.grad(half, self.scale, create_graph=True)[0] for half in halves)
        return even * odd

    def objective(self, results):
        _, domains, _ = split_into_groups(results["g"])
        risk, sum_of_penalties = 0.0, 0.0
        for rows in domains:
            logits, y = self.scale * results["y_pred"][rows], results["y_true"][rows]
            losses, _ = self.loss.compute_flattened(logits, y, return_dict=False)
            risk = risk + losses.mean()
            if self.is_training:
                sum_of_penalties = sum_of_penalties + self.irm_penalty(losses)
        risk, mean_penalty = risk / len(domains), sum_of_penalties / len(domains)
        self.save_metric_for_logging(results, "penalty", mean_penalty)
        annealed = self.update_count >= self.irm_penalty_anneal_iters
        return risk + mean_penalty * (self.irm_lambda if annealed else 1.0)

    def _update(self, results, should_step=True):
        if self.irm_penalty_anneal_iters == self.update_count:
            # As in the original, the scheduler keeps the old optimiser: from now on, the rate is config.lr.
            config, net = self.config, self.model
            self.optimizer = initialize_optimizer(config, net)
        super()._update(results, should_step)
        self.update_count += 1
