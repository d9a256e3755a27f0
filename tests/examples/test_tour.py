"""The notebook: it runs from its first cell to its last, and is kept without what it printed."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.runs import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "tour.ipynb"


def test_the_tour_is_kept_without_outputs_and_its_cells_are_python():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    for source in code:
        compile(source, NOTEBOOK.name, "exec")


@pytest.mark.slow
def test_the_tour_runs_on_a_screen_of_a_few_wells(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("ABRA_WILDS_TOUR", "tiny")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    tour = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(tour, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in tour.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 3  # wells, plates, embeddings
    table = next(out["data"]["text/plain"] for out in outputs if out.output_type == "execute_result")
    certified = pd.read_csv(tmp_path / "tour" / "eb_bn" / "certificates.csv")
    assert len(certified) == 4 and all(name in table for name in certified["bio_batch"])
    assert (tmp_path / "tour" / "eb_bn" / "answers.html").is_file()
