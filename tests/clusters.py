"""A Slurm that is not there: an srun, and an sbatch that keeps the script it gets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def stand_in(folder: Path, patch: Any) -> Path:
    """Put the commands on the PATH of a pytest MonkeyPatch; returns where the script will be."""
    programs, kept = folder / "bin", folder / "job.sh"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    (programs / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {kept}\necho Submitted batch job 42\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    patch.setenv("PATH", str(programs), prepend=os.pathsep)
    return kept
