"""The pages of docs/ as a site: it builds strictly, fits narrow windows, and axe finds nothing serious."""

from __future__ import annotations

import pytest

from tests import runs
from tests.browsers import browser, needs_chromium, serious

__all__ = ["browser"]
pytestmark = pytest.mark.slow
MAIN = ("index", "quickstart", "tour", "claims", "adaptation", "leaderboard")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    pytest.importorskip("mkdocs")
    site = tmp_path_factory.mktemp("built") / "site"
    done = runs.process("-m", "mkdocs", "build", "--strict", "--site-dir", site)
    assert done.returncode == 0, done.stderr
    return site


def test_the_site_has_the_pages_that_are_made(site):
    for page in ("index", "methods/abra", "reference/configuration", "reference/api", "tour"):
        assert (site / f"{page}.html").is_file()
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert 'id="abra_wilds.engine.fit.fit"' in api


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", MAIN)
def test_a_page_scrolls_down_only_and_axe_finds_nothing_serious(site, browser, name, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 840})
    page = context.new_page()
    page.goto((site / f"{name}.html").as_uri(), wait_until="load")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_timeout(500)  # for colours, which fade
    assert serious(page) == []
    context.close()
