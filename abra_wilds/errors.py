"""How a run is refused or lost; torch-free, so that `abra-wilds doctor` starts without it."""


class InputError(ValueError):
    """Something given cannot be used; the message is one sentence: what came, what is allowed, what to do."""


class RunAborted(RuntimeError):
    """A run cannot go on; the message is one sentence."""


class Diverged(RunAborted):
    """Training met a loss that is not finite; the message is one sentence."""


WORKER_KILLED = (
    "a worker process that reads images was killed, as happens when memory or shared memory (/dev/shm) runs "
    "out; give more of it, or start again, a run with --resume, with fewer workers by --loader_kwargs "
    "num_workers=N"
)
