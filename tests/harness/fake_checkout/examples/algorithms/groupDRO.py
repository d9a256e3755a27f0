"""Group distributionally robust optimisation."""

import torch
from algorithms.single_model_algorithm import SingleModelAlgorithm
from models.initializer import initialize_model


class GroupDRO(SingleModelAlgorithm):
    """The groups' losses under weights that grow with them; a group without images counts as loss 0."""

    def __init__(self, config, d_out, grouper, loss, metric, n_train_steps, is_group_in_train):
        assert config.uniform_over_groups, "groupDRO draws its groups equally often"
        super().__init__(config, initialize_model(config, d_out), grouper, loss, metric, n_train_steps)
        self.logged_fields += ["group_weight"]
        present = is_group_in_train.float()
        self.group_weights = (present / present.sum()).to(self.device)
        self.group_weights_step_size = float(config.group_dro_step_size)

    def group_losses(self, results):
        """One loss for each group."""
        triple = results["y_pred"], results["y_true"], results["g"]
        return self.loss.compute_group_wise(*triple, self.grouper.n_groups, return_dict=False)[0]

    def process_batch(self, batch, unlabeled_batch=None):
        return {**super().process_batch(batch), "group_weight": self.group_weights}

    def objective(self, results):
        return self.group_losses(results) @ self.group_weights

    def _update(self, results, should_step=True):
        growth = torch.exp(self.group_weights_step_size * self.group_losses(results).detach())
        grown = self.group_weights * growth
        self.group_weights = results["group_weight"] = grown / grown.sum()
        super()._update(results, should_step)
