"""What is put in place of a last layer."""

from torch.nn import Identity  # noqa: F401
