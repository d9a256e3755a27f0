"""Optimisers by name."""

from torch.optim import SGD, Adam
from transformers import AdamW


def initialize_optimizer(config, model):
    """SGD or Adam over what is trained, AdamW over everything."""
    options = {"lr": config.lr, **config.optimizer_kwargs}
    if config.optimizer == "AdamW":
        decayed = {"params": list(model.parameters()), "weight_decay": config.weight_decay}
        # Biases and norms of text models go without decay; a ResNet leaves that group empty.
        return AdamW([decayed, {"params": [], "weight_decay": 0.0}], **options)
    kinds = {"SGD": SGD, "Adam": Adam}
    if config.optimizer not in kinds:
        raise ValueError(f"no optimizer {config.optimizer}; one of AdamW, {', '.join(kinds)}")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return kinds[config.optimizer](trained, weight_decay=config.weight_decay, **options)
