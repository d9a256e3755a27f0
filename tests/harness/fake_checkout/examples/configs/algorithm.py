"""Settings that an algorithm implies."""

_standard = {"train_loader": "standard", "eval_loader": "standard"}
_by_group = {"uniform_over_groups": True, "distinct_groups": True}
_group = {"train_loader": "group", "eval_loader": "standard", **_by_group}

algorithm_defaults = {
    "ERM": {**_standard, "uniform_over_groups": False, "randaugment_n": 2},
    "groupDRO": {**_standard, **_by_group, "group_dro_step_size": 0.01},
    "deepCORAL": {
        **_group,
        "coral_penalty_weight": 1.0,
        "randaugment_n": 2,
        "additional_train_transform": "randaugment",
    },
    "IRM": {**_group, "irm_lambda": 100.0, "irm_penalty_anneal_iters": 500},
}
