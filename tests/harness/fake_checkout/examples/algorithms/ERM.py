"""Empirical risk minimisation."""

from algorithms.single_model_algorithm import SingleModelAlgorithm
from models.initializer import initialize_model


class ERM(SingleModelAlgorithm):
    """The mean loss."""

    def __init__(self, config, d_out, grouper, loss, metric, n_train_steps):
        super().__init__(config, initialize_model(config, d_out), grouper, loss, metric, n_train_steps)

    def objective(self, results):
        return self.loss.compute(results["y_pred"], results["y_true"], return_dict=False)
