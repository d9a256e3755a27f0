"""Models on the Hub of Hugging Face, or on a server like it (HF_ENDPOINT)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abra_wilds.errors import InputError

FILES = ("model.safetensors", "config.json", "README.md")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text can be the name of a repository, OWNER/NAME."""
    return HUB_ID.fullmatch(text) is not None


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of a model of the Hub, downloaded where it is not in the cache of huggingface_hub.

    Raises:
        InputError: if it cannot be had.
    """
    from huggingface_hub import snapshot_download

    with refused(f"the model {name} could not be fetched from the Hub", "give a folder of this machine"):
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), endpoint=endpoint))


def pushed(folder: Path, name: str, private: bool = False, token: str | None = None) -> str:
    """Upload a model's folder to a repository of the Hub, which is made where it is not there.

    Returns:
        The address of the commit.

    Raises:
        InputError: if the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    if not is_hub_id(name):
        raise InputError(f"a repository of the Hub is called OWNER/NAME; got {name!r}")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with refused(f"the model could not be uploaded as {name}", "log in by `hf auth login`"):
        api.create_repo(name, private=private, exist_ok=True)
        found = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Upload a model of abra_wilds",
        )
    return str(found.commit_url)


@contextmanager
def refused(what: str, instead: str) -> Iterator[None]:
    """Inside, whatever huggingface_hub raises ends in one sentence.

    Raises:
        InputError: with the first line of its reason.
    """
    try:
        yield
    # What it raises where the Hub cannot be reached belongs to the package it speaks HTTP by, and changes.
    except Exception as fault:
        reason = next(iter(str(fault).strip().splitlines()), type(fault).__name__).rstrip(".")
        raise InputError(f"{what} ({reason}); check the network, or {instead}") from fault
