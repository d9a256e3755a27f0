"""The algorithm that a configuration asks for."""

import math

from algorithms.deepCORAL import DeepCORAL
from algorithms.ERM import ERM
from algorithms.groupDRO import GroupDRO
from algorithms.IRM import IRM
from configs.supported import algo_log_metrics
from losses import initialize_loss
from wilds.common.utils import get_counts


def initialize_algorithm(config, datasets, train_grouper, unlabeled_dataset=None):
    """An algorithm with its network, optimiser and scheduler."""
    classes = {"ERM": ERM, "groupDRO": GroupDRO, "deepCORAL": DeepCORAL, "IRM": IRM}
    subset, loader = datasets["train"]["dataset"], datasets["train"]["loader"]
    if config.algorithm not in classes:
        raise ValueError(f"the stand-in has no algorithm {config.algorithm}")
    given = {"config": config, "grouper": train_grouper, "d_out": infer_d_out(subset, config)}
    given["loss"] = initialize_loss(config.loss_function, config)
    given["metric"] = algo_log_metrics[config.algo_log_metric]
    given["n_train_steps"] = config.n_epochs * math.ceil(len(loader) / config.gradient_accumulation_steps)
    if config.algorithm == "groupDRO":
        groups = train_grouper.metadata_to_group(subset.metadata_array)
        given["is_group_in_train"] = get_counts(groups, train_grouper.n_groups) > 0
    return classes[config.algorithm](**given)


def infer_d_out(train_dataset, config):
    """How many outputs the network needs: one for each class."""
    return train_dataset.n_classes
