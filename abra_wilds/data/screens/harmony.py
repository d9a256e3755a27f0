"""What Harmony writes beside the images of an Opera Phenix or Operetta: names of channels, and the plate's.

Element names are those of its exports from version 4 to 7: older ones describe the channel in every `Image`,
newer ones in an `Entry` of `Maps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from abra_wilds.errors import InputError

FILES = ("Index.idx.xml", "Index.ref.xml", "Index.xml")
KEPT = ("PlateID", "ChannelID", "ChannelName")
MOST_DEEP = 64


@dataclass
class Index:
    """What an index says.

    Attributes:
        path: of the file.
        plate: its name or barcode, "" where there is none.
        channels: number of each channel, without leading zeros -> its name.
    """

    path: Path
    plate: str = ""
    channels: dict[str, str] = field(default_factory=dict)

    def name_of(self, number: str) -> str:
        """The name of a channel; its number where it has none, or another has the same."""
        name = self.channels.get(number, number)
        return name if list(self.channels.values()).count(name) == 1 else number


def read_index(folder: Path) -> Index | None:
    """The index of the images of a folder; None where there is none.

    Raises:
        InputError: if it is no XML, or has a document type, whose entities could hold anything.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    reader = _Reader(Index(path))
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except (OSError, ValueError, LookupError, expat.ExpatError) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise InputError(
            f"{path} cannot be read as an index of Harmony ({reason}); restore it, or take it away: channels "
            "then go by number"
        ) from None
    return reader.index


class _Reader:
    """Reads an index element by element; of a file of any length little is held."""

    def __init__(self, index: Index):
        self.index = index
        self.path: list[str] = []
        self.text: list[str] = []
        self.said: dict[str, str] = {}  # of the Image or Entry that is open
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text.append

    def doctype(self, *_: Any) -> None:
        """Refuse a document type."""
        raise ValueError("it has a document type")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.path.append(name.rpartition("}")[2])
        if len(self.path) > MOST_DEEP:
            raise ValueError("its elements are nested too deeply")
        self.text.clear()
        if self.path[-1] in ("Image", "Entry"):
            self.said = {name: text for name, text in attributes.items() if name == "ChannelID"}

    def end(self, _: str) -> None:
        """An element ends."""
        name, text = self.path.pop(), "".join(self.text).strip()
        self.text.clear()
        if name in KEPT and text:
            self.said[name] = text
        if name == "PlateID" and self.path[-1:] == ["Plate"]:
            self.index.plate = self.index.plate or text
        if name in ("Image", "Entry") and {"ChannelID", "ChannelName"} <= self.said.keys():
            number = self.said["ChannelID"].lstrip("0") or "0"
            self.index.channels.setdefault(number, self.said["ChannelName"])
