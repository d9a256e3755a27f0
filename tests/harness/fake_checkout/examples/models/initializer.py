"""Networks of torchvision with a last layer of our own."""

import torchvision
from models.layers import Identity
from torch import nn
from utils import load


def initialize_model(config, d_out, is_featurizer=False):
    """A network with d_out outputs, or its (featurizer, classifier)."""
    if config.model not in ("resnet18", "resnet50"):
        raise ValueError(f"the stand-in has no model {config.model}")
    apart = is_featurizer or config.load_featurizer_only
    net = getattr(torchvision.models, config.model)(**config.model_kwargs)
    width = net.fc.in_features
    net.d_out = width if apart else d_out
    net.fc = Identity(width) if apart else nn.Linear(width, d_out)
    parts = (net, nn.Linear(width, d_out)) if apart else (net,)
    whole = nn.Sequential(*parts) if apart else net
    path = config.pretrained_model_path
    if path is not None:
        load(net if config.load_featurizer_only else whole, path, device=config.device)
    for module in parts if is_featurizer else (whole,):
        module.needs_y = False
    return parts if is_featurizer else whole
