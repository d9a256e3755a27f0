"""Archives and lists of checksums, as data sets are published."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile


def tar(members, mode="w:gz"):
    """The bytes of a tar archive of {name: bytes, or a TarInfo}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, body in members.items():
            info = body if isinstance(body, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = 0 if isinstance(body, tarfile.TarInfo) else len(body)
            archive.addfile(info, None if isinstance(body, tarfile.TarInfo) else io.BytesIO(body))
    return out.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    """The bytes of a zip archive of {name: bytes} or {ZipInfo: bytes}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def read_tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sums_of(files):
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items()).encode()


def with_sums(files):
    return {**files, "SHA256SUMS": sums_of(files)}


def split(body, n):
    step = -(-len(body) // n)
    return [body[k : k + step] for k in range(0, len(body), step)]


def layouts(files):
    """The same data set as it may be published: an archive without or with a folder, parts, a zip, files."""
    inside = {f"rxrx1_v1.0/{name}": body for name, body in files.items()}
    parts = split(tar(inside), 3)
    return {
        "archive": {"archive.tar.gz": tar(files)},
        "archive of a folder": {"data/rxrx1_v1.0.tar.gz": tar(inside)},
        "no release file": {"x.tar.gz": tar({n: b for n, b in files.items() if "RELEASE" not in n})},
        "parts": {f"rxrx1.tar.gz.part-{k:03}": part for k, part in enumerate(parts)},
        "zip": {"rxrx1.zip": zipped(files)},
        "files": inside,
        "files at the top": {"README.md": b"card", **files},
    }
