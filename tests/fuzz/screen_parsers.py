"""Tables, maps, settings, patterns and columns of screens of one's own: inputs that are nearly right."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from abra_wilds.config.files import screen_config
from abra_wilds.data.screens.found import proposed, settings_text, summary
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import WELLS, small_rows
from tests.fuzz.inputs import WORDS, as_table, changed, damaged

ROWS = small_rows(("a", "b", "c"), 1)
SPLIT = ["test=0.3", "val=0.3"]
SETTINGS = {
    "label_column": "Metadata_Drug",
    "split": SPLIT,
    "channels": ["Nuclei=DNA"],
    "image_root": ["/old=/new"],
    "controls": ["negative=DMSO"],
    "control_column": "Metadata_Drug",
    "least_per_class": 1,
    "platemap": None,
}


def opened(path: Path, **flags: Any) -> None:
    """A screen as training, prediction and `screen init` open it."""
    screen = Screen.open(path, **flags)
    assert settings_text(proposed(screen)) and summary(screen)
    screen.dataset(labelled=False)
    dataset = Screen.open(path, **{"label_column": "Metadata_Drug", "split": SPLIT, **flags}).dataset()
    grouper = dataset.grouper(["experiment", "plate"])
    assert len(dataset.digest()) == 64
    assert grouper.group_str(int(grouper.metadata_to_group(dataset.metadata_array)[0])).startswith(
        "experiment"
    )


def run_table(body: bytes, folder: Path) -> None:
    """A LoadData table."""
    path = folder / "load_data.csv"
    path.write_bytes(body)
    opened(path)


def run_parquet(body: bytes, folder: Path) -> None:
    """The same as parquet."""
    path = folder / "load_data.parquet"
    path.write_bytes(body)
    opened(path)


def parquet() -> bytes:
    """A table as parquet."""
    file = io.BytesIO()
    ROWS.to_parquet(file)
    return file.getvalue()


MAP = pd.DataFrame(
    [{"plate": f"{b}_000", "well": w, "drug": d} for b in ("a", "b", "c") for w, d in WELLS.items()]
)


def run_map(body: bytes, folder: Path) -> None:
    """A platemap of a table that is right."""
    (folder / "map.csv").write_bytes(body)
    ROWS.to_csv(folder / "load_data.csv", index=False)
    opened(folder / "load_data.csv", platemap=str(folder / "map.csv"))


def run_settings(body: bytes, folder: Path) -> None:
    """A screen.yaml beside a table that is right."""
    (folder / "screen.yaml").write_bytes(body)
    ROWS.to_csv(folder / "load_data.csv", index=False)
    screen_config(folder / "load_data.csv")
    Screen.open(folder / "load_data.csv").dataset(labelled=False)


@st.composite
def settings_yaml(draw: Any) -> bytes:
    """JSON is YAML."""
    body = json.dumps(draw(changed(SETTINGS, WORDS))).encode("utf-8", "surrogatepass")
    return draw(damaged(body)) if draw(st.integers(0, 3)) == 0 else body


PARTS = st.sampled_from(
    [
        *("(?P<well>..)", "(?P<channel>.)", "(?P<site>.)", "(?P<plate>P.)/", "_", r"\.png", ".*"),
        *("(?P<row>.)", "(?P<col>.+)", "(?P<plane>.)", "(", ")", "[", "(?P<well>.+)", "(?P<a b>.)"),
    ]
)
PATTERN = st.one_of(
    st.just("(?P<plate>P.)/(?P<well>..)_(?P<channel>.).png"),
    st.lists(PARTS, min_size=1, max_size=6).map("".join),
    WORDS,
)


def run_pattern(given: tuple[str, list[str]], folder: Path) -> None:
    """A pattern over a folder of images."""
    pattern, names = given
    for name in ("P1/A1_1.png", "P1/A1_2.png", *names):
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        except (OSError, ValueError):
            continue
    if not pattern:
        raise InputError("no pattern")
    Screen.open(folder, pattern=pattern).dataset(labelled=False)


NAMES = st.lists(st.sampled_from(["P2/A1_1.png", "P2/A1_2.png", "P1/B1_1.png", "A1_1.png", "x"]), max_size=4)
INDEX = b"""<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5"><Plates><Plate><PlateID>P</PlateID></Plate>
</Plates><Images><Image><ChannelID>1</ChannelID><ChannelName>DNA</ChannelName></Image></Images>
<Maps><Map><Entry ChannelID="2"><ChannelName>ER</ChannelName></Entry></Map></Maps></EvaluationInputData>"""


def run_index(body: bytes, folder: Path) -> None:
    """An index of Harmony beside images."""
    (folder / "P1").mkdir()
    (folder / "P1" / "Index.idx.xml").write_bytes(body)
    for channel in (1, 2):
        (folder / "P1" / f"r01c01f01p01-ch{channel}sk1fk1fl1.png").touch()
    Screen.open(folder).dataset(labelled=False)


SCREENS = {
    "index of Harmony": (st.one_of(st.just(INDEX), damaged(INDEX)), run_index),
    "screen table": (as_table(tuple(ROWS), ROWS.to_numpy().tolist()), run_table),
    "screen parquet": (st.one_of(st.just(parquet()), damaged(parquet())), run_parquet),
    "platemap": (as_table(tuple(MAP), MAP.to_numpy().tolist()), run_map),
    "screen.yaml": (settings_yaml(), run_settings),
    "screen pattern": (st.tuples(PATTERN, NAMES), run_pattern),
}
