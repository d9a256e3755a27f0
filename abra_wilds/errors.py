"""How a run is refused or lost; torch-free, so that `abra-wilds doctor` starts without it."""


class InputError(ValueError):
    """Something given cannot be used; the message is one sentence: what came, what is allowed, what to do."""


class Lost(RuntimeError):
    """A run cannot go on; the message is one sentence."""


class Diverged(Lost):
    """Training met a loss that is not finite; the message is one sentence."""
