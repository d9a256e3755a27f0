"""Small published data sets, and a server of them on loopback that is given up soon."""

from __future__ import annotations

import socket

import pandas as pd
import pytest

from abra_wilds.fetch import download
from tests.data.datasets.published import read_tree, tar, with_sums, zipped
from tests.fetch.http_server import serving


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(download, "WAIT", 0.01)


@pytest.fixture
def nobody(quick):
    """The address of a server that is not there."""
    with socket.socket() as bound:  # so that nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(scope="session")
def wilds_files(sim_root):
    """{path: bytes} of a corner of the tiny RxRx1-WILDS: 32 images."""
    folder = sim_root / "rxrx1_v1.0"
    rows = pd.read_csv(folder / "metadata.csv")
    rows = rows[(rows["plate"] == 1) & rows["well"].isin(["B02", "B03"]) & (rows["cell_type"] < "I")]
    rows = rows.assign(sirna_id=pd.factorize(rows["sirna_id"])[0])
    names = "images/" + rows["experiment"] + "/Plate1/" + rows["well"] + "_s" + rows["site"].astype(str)
    images = {f"{name}.png": (folder / f"{name}.png").read_bytes() for name in names}
    return {"metadata.csv": rows.to_csv(index=False).encode(), "RELEASE_v1.0.txt": b"", **images}


@pytest.fixture(scope="session")
def wilds_archive(wilds_files):
    return tar({f"./{name}": body for name, body in wilds_files.items()})


@pytest.fixture(scope="session")
def six_archives(six_root):
    """The two archives of a small six-channel screen, as the publisher has them."""
    files = {f"rxrx1/{n}": b for n, b in read_tree(six_root / "rxrx1").items() if n != "SIMULATED.json"}
    tables = {name: body for name, body in files.items() if name.endswith("metadata.csv")}
    images = {name: body for name, body in files.items() if name.endswith(".png")}
    return {"rxrx1-metadata.zip": zipped(tables), "rxrx1-images.zip": zipped(images)}


@pytest.fixture
def site(wilds_archive, monkeypatch, quick):
    with serving(with_sums({"README.md": b"card", "rxrx1_v1.0.tar.gz": wilds_archive})) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site
