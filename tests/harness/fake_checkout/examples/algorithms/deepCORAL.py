"""Deep CORAL."""

from itertools import combinations

import torch
from algorithms.single_model_algorithm import SingleModelAlgorithm
from models.initializer import initialize_model
from wilds.common.utils import split_into_groups


def moments(features):
    """Mean and covariance over all leading dimensions."""
    rows = features.flatten(0, -2)
    mu = rows.mean(0, keepdim=True)
    centred = rows - mu
    return mu, centred.t() @ centred / (len(rows) - 1)


class DeepCORAL(SingleModelAlgorithm):
    """The mean loss plus coral_penalty_weight times the mean distance of the domains' moments."""

    def __init__(self, config, d_out, grouper, loss, metric, n_train_steps):
        assert config.train_loader == "group" and config.uniform_over_groups and config.distinct_groups
        parts = [part.to(config.device) for part in initialize_model(config, d_out, is_featurizer=True)]
        super().__init__(config, torch.nn.Sequential(*parts), grouper, loss, metric, n_train_steps)
        self.featurizer, self.classifier = parts
        self.penalty_weight = float(config.coral_penalty_weight)
        self.logged_fields += ["penalty"]

    def coral_penalty(self, x, y):
        """Mean squared differences of means and of covariances."""
        return sum((a - b).pow(2).mean() for a, b in zip(moments(x), moments(y), strict=True))

    def get_model_output(self, x, y_true):
        self._features = self.featurizer(x)
        return self.classifier(self._features)

    def process_batch(self, batch, unlabeled_batch=None):
        results = super().process_batch(batch, unlabeled_batch)
        return {**results, "features": vars(self).pop("_features")}

    def objective(self, results):
        mean_penalty = 0.0
        if self.is_training:
            z = results.pop("features")
            _, domains, _ = split_into_groups(results["g"])
            penalties = [self.coral_penalty(z[i], z[j]) for i, j in combinations(domains, 2)]
            mean_penalty = sum(penalties, torch.zeros(1, device=self.device)) / max(len(penalties), 1)
        self.save_metric_for_logging(results, "penalty", mean_penalty)
        risk = self.loss.compute(results["y_pred"], results["y_true"], return_dict=False)
        return risk + mean_penalty * self.penalty_weight
