"""Adaptation by torch's own training mode, from copies, without a line of `abra_wilds.tta`."""

import copy

import torch

from abra_wilds.nets.staged import BATCH_NORMS


def norms_of(method):
    """Its batch norms."""
    return [m for m in method.modules() if isinstance(m, BATCH_NORMS)]


def in_training_mode(method, x):
    """Logits of images by batch norms in training mode."""
    twin = copy.deepcopy(method)
    for m in norms_of(twin):
        m.train()
    with torch.no_grad():
        return twin.predict(x)


def with_statistics_of(method, x):
    """A copy in evaluation mode whose running statistics are those of its inputs when it is shown x."""
    twin, inputs = copy.deepcopy(method), {}
    hooks = [m.register_forward_pre_hook(lambda m, a: inputs.update({m: a[0]})) for m in norms_of(twin)]
    for m in norms_of(twin):
        m.train()
    with torch.no_grad():
        twin.predict(x)
    for m, seen in inputs.items():
        m.running_var, m.running_mean = torch.var_mean(seen, (0, 2, 3), correction=0)
    for hook in hooks:
        hook.remove()
    return twin.eval()
