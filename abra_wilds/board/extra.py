"""The packages that figures and reports need, and nothing else does."""

from __future__ import annotations

from importlib import import_module

from abra_wilds.errors import InputError

BOARD_PACKAGES = ("matplotlib", "jinja2")


def check_board_packages(what: str) -> None:
    """Raise unless the extra `board` is installed.

    Args:
        what: needs it, as a message begins.

    Raises:
        InputError: with how to install it.
    """
    for name in BOARD_PACKAGES:
        try:
            import_module(name)
        except ModuleNotFoundError as fault:
            if fault.name != name:
                raise
            raise InputError(
                f"{what} need the package {name}, which is not installed; "
                "run `pip install 'abra-wilds[board]'`"
            ) from None
