"""Settings that a scheduler implies."""

scheduler_defaults = {
    f"{shape}_schedule_with_warmup": {"scheduler_kwargs": {"num_warmup_steps": 0}}
    for shape in ("linear", "cosine")
} | {"StepLR": {"scheduler_kwargs": {"step_size": 1}}}
