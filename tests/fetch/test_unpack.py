"""Archives: parts in their order, and no member outside the folder."""

from __future__ import annotations

import tarfile
import zipfile

import pytest

from abra_wilds.errors import InputError
from abra_wilds.fetch.unpack import archives, unpack
from tests.data.datasets.published import read_tree, tar, zipped

FILES = {"top/metadata.csv": b"a,b\n", "top/images/1.png": bytes(range(256)) * 40, "top/empty": b""}


def special(name, kind, target="metadata.csv"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return {name: info}


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return {info: "metadata.csv"}


@pytest.mark.parametrize(
    ("name", "body", "n_parts"),
    [
        ("x.tar.gz", tar(FILES), 1),
        ("x.tgz", tar(FILES), 3),
        ("x.tar", tar(FILES, "w"), 3),
        ("x.zip", zipped(FILES), 1),
    ],
    ids=("tar.gz", "tgz", "tar", "zip"),
)
def test_an_archive_unpacks_to_its_files_also_in_parts(tmp_path, name, body, n_parts):
    step = -(-len(body) // n_parts)
    parts = [tmp_path / f"{k}" for k in range(n_parts)]
    for k, part in enumerate(parts):
        part.write_bytes(body[k * step : (k + 1) * step])
    unpack(name, parts, tmp_path / "out")
    assert read_tree(tmp_path / "out") == FILES


@pytest.mark.parametrize(
    "suffixes",
    [("00", "01"), ("part-000", "part-001"), ("partaa", "partab"), ("aa", "ab"), ("part9", "part10")],
)
def test_parts_of_an_archive_are_known_and_ordered(suffixes):
    names = [f"d/x.tar.gz.{suffix}" for suffix in suffixes]
    listed = ["README.md", *names[::-1], "d/x.tar.gz.sha256", "y.zip", "y.zip.00"]
    assert archives(listed) == {"d/x.tar.gz": names, "y.zip": ["y.zip"]}


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("x.tar.gz", tar({"../evil": b"x"}), "outside"),
        ("x.tar.gz", tar({"a/../../evil": b"x"}), "outside"),
        ("x.tar.gz", tar({"/evil": b"x"}), "outside"),
        ("x.tar.gz", tar({"..\\evil": b"x"}), "outside"),
        ("x.tar.gz", tar({"C:evil": b"x"}), "outside"),
        ("x.tar.gz", tar(special("evil", tarfile.SYMTYPE, "/etc")), "is a link or a device"),
        ("x.tar.gz", tar(special("evil", tarfile.LNKTYPE)), "is a link or a device"),
        ("x.tar.gz", tar(special("evil", tarfile.FIFOTYPE)), "is a link or a device"),
        ("x.zip", zipped({"../evil": b"x"}), "outside"),
        ("x.zip", zipped({"/evil": b"x"}), "outside"),
        ("x.zip", zipped({"a/../../evil": b"x"}), "outside"),
        ("x.zip", zipped({"..\\evil": b"x"}), "outside"),
        ("x.zip", zipped({"C:evil": b"x"}), "outside"),
        ("x.zip", zipped(zip_link("evil")), "is a link or a device"),
        ("x.tar.gz", tar(FILES)[:-200], "cannot be unpacked"),
        ("x.zip", zipped(FILES)[:-100], "cannot be unpacked"),
        ("x.zip", zipped(FILES, zipfile.ZIP_STORED).replace(b"a,b", b"a,c", 1), "cannot be unpacked"),
        ("x.tar.gz", b"<html>not here</html>", "cannot be unpacked"),
    ],
    ids=map(str, range(18)),  # the bytes hold the time, and would name another test in each process
)
def test_a_climbing_linking_or_damaged_archive_is_refused(tmp_path, name, body, said):
    (tmp_path / "archive").write_bytes(body)
    with pytest.raises(InputError, match=said) as refusal:
        unpack(name, [tmp_path / "archive"], tmp_path / "deep" / "out")
    assert "\n" not in str(refusal.value) and name in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
