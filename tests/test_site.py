"""The pages of docs/ as a site: every link and every page of the navigation exists."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.runs import REPOSITORY


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "methods/abra.html", "reference/configuration.html", "reference/api.html"):
        assert (tmp_path / "site" / page).is_file()
    api = (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")
    assert 'id="abra_wilds.engine.fit.fit"' in api
