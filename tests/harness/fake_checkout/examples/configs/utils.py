"""Fill in what the command line left open."""

from configs.algorithm import algorithm_defaults
from configs.data_loader import loader_defaults
from configs.datasets import dataset_defaults, split_defaults
from configs.model import model_defaults
from configs.scheduler import scheduler_defaults

REQUIRED = """split_scheme train_loader uniform_over_groups batch_size eval_loader model loss_function
    val_metric val_metric_decreasing n_epochs optimizer lr weight_decay"""


def populate_defaults(config):
    """A configuration without gaps; what was given on the command line stays."""
    only_for_groups = ("n_groups_per_batch", "distinct_groups")
    given = [name for name in only_for_groups if getattr(config, name) is not None]
    assert not config.use_unlabeled_y, "rxrx1 has no unlabeled data"
    if config.load_featurizer_only and config.pretrained_model_path is None:
        raise ValueError("--load_featurizer_only needs --pretrained_model_path")

    populate_config(config, dataset_defaults[config.dataset])
    populate_config(config, split_defaults.get(config.dataset, {}).get(config.split_scheme))
    populate_config(config, algorithm_defaults[config.algorithm])
    populate_config(config, loader_defaults)
    populate_config(config, model_defaults[config.model] if config.model else None)
    populate_config(config, scheduler_defaults[config.scheduler] if config.scheduler else None)

    config.no_group_logging = bool(config.no_group_logging) or config.groupby_fields is None
    for name in REQUIRED.split():
        assert getattr(config, name) is not None, f"--{name} has no default here; give it"
    if given and config.train_loader == "standard":
        raise ValueError(f"--{given[0]} means nothing to a standard loader; give --train_loader group")
    return config


def populate_config(config, template, force_compatibility=False):
    """Take from a template what config lacks; dictionaries are filled up key by key."""
    for name, default in (template or {}).items():
        nested = isinstance(default, dict)
        held = vars(config)[name] if nested else vars(config)
        for key, value in default.items() if nested else [(name, default)]:
            if held.get(key) is None:
                held[key] = value
            elif held[key] != value and force_compatibility:
                raise ValueError(f"{name} must be {default}")
    return config
