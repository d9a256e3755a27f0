"""How a run is refused or lost; torch-free, so that `abra-wilds doctor` starts without it."""


class InputError(ValueError):
    """Something given cannot be used; the message is one sentence: what came, what is allowed, what to do."""


class RunAborted(RuntimeError):
    """A run cannot go on; the message is one sentence."""


class Stopped(KeyboardInterrupt):
    """A signal asked a run to end, and it did so after a step; the message is one sentence.

    Attributes:
        number: of the signal.
        code: with which the command ends, 128 and the number, as a shell has it.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number, self.code = int(number), 128 + int(number)


class Diverged(RunAborted):
    """Training met a loss that is not finite; the message is one sentence."""


WORKER_KILLED = (
    "a worker process that reads images was killed, as happens when memory or shared memory (/dev/shm) runs "
    "out; give more of it, or start again, a run with --resume, with fewer workers by --loader_kwargs "
    "num_workers=N"
)
