"""Learning rates over time."""

from torch.optim.lr_scheduler import StepLR


def initialize_scheduler(config, optimizer, n_train_steps):
    """A scheduler by name; None without a name."""
    name, options = config.scheduler, config.scheduler_kwargs
    if name is None:
        return None
    if name == "StepLR":
        scheduler = StepLR(optimizer, **options)
    elif name == "linear_schedule_with_warmup":
        from transformers import get_linear_schedule_with_warmup as make
    elif name == "cosine_schedule_with_warmup":
        from transformers import get_cosine_schedule_with_warmup as make
    else:
        raise ValueError(f"no scheduler {name}")
    if name != "StepLR":
        scheduler = make(optimizer, num_training_steps=n_train_steps, **options)
    scheduler.step_every_batch, scheduler.use_metric = name != "StepLR", False
    return scheduler


def step_scheduler(scheduler, metric=None):
    """One step; none of these schedulers looks at a metric."""
    scheduler.step()
