"""Which device a process has."""

from __future__ import annotations

import os

import torch

from abra_wilds.dist import local_rank, local_world, world
from abra_wilds.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device of --device; an index alone is the CPU where there is no CUDA, as WILDS has it.

    A CUDA device becomes the current one, which torch's pinning thread and its test for bf16 take. Of several
    processes each has the device of its number on its machine; one that is shown a single device has that.

    Raises:
        InputError: for a device that is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps and world() == 1 else "cpu"
    if (name == "mps" and not mps) or (name.startswith("cuda") and not cuda):
        raise InputError(f"--device {name} finds no such device that this torch can use; give auto or cpu")
    if name in ("cpu", "mps") or not cuda:
        return torch.device("mps" if name == "mps" else "cpu")
    n, k = torch.cuda.device_count(), int(name.removeprefix("cuda").removeprefix(":") or 0)
    if world() > 1:
        k = 0 if n == 1 and "CUDA_VISIBLE_DEVICES" in os.environ else local_rank()
        if k >= n:
            raise InputError(
                f"{local_world()} processes on a machine of {n} CUDA devices would have to share them; start "
                "one for each device, or give --device cpu"
            )
    if k >= n:
        raise InputError(f"--device {name} does not exist; there are {n} CUDA devices, from 0")
    torch.cuda.set_device(k)
    return torch.device("cuda", k)
