"""What others named: cells that a spreadsheet would compute, names that leave a folder."""

import csv
import io
import re

import pytest

from abra_wilds.board.figures.style import new_figure, save_figure
from abra_wilds.data.datasets.layouts import read_wells
from abra_wilds.data.datasets.metadata import read_metadata
from abra_wilds.errors import InputError
from abra_wilds.results.files import csv_text
from tests import runs
from tests.fuzz.parsers import HEADER, ROWS, WELLS

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(1)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_table_begins_as_a_formula_does(text):
    found = csv_text([{text: text, "number": -1.5, "none": None}, {text: "a,b", "number": 2, "none": ""}])
    header, first, second = csv.reader(io.StringIO(found, newline=""))
    shown = "'" + text.replace("\r", " ")
    assert header[0] == first[0] == shown and first[1:] == ["-1.5", ""]
    assert second == ["a,b", "2", ""]


def test_the_values_of_a_figure_hold_no_formula_either(tmp_path):
    rows = [{"bio_batch": "=cmd()", "shift": -0.5}, {"bio_batch": "HEPG2-01", "shift": 1.0}]
    paths = save_figure(new_figure("t", 2, 2, simulated=False), rows, tmp_path, "figure_8")
    assert paths[2].read_text() == "bio_batch,shift\n'=cmd(),-0.5\nHEPG2-01,1.0\n"


def test_only_one_place_writes_tables_for_people():
    """Logs and the simulator write numbers and names of their own."""
    own = {"results/files.py", "engine/artifacts/logs.py", "simulate/formats.py"}
    package = runs.REPOSITORY / "abra_wilds"
    writes = re.compile(r"csv\.(writer|DictWriter)|\.to_csv\(")
    found = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if writes.search(p.read_text())}
    assert found == own


NAMES = ["../x", "/etc", "a/b", "a\\b", "..", ".", "a\x1bb", "x" * 101]


def table(header, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", ["experiment", "well"])
def test_a_name_in_metadata_that_is_no_name_of_a_folder_is_refused(tmp_path, name, column):
    rows = [list(row) for row in ROWS]
    rows[3][HEADER.index(column)] = name
    (tmp_path / "metadata.csv").write_text(table(HEADER, rows), newline="")
    with pytest.raises(InputError) as fault:
        read_metadata(tmp_path / "metadata.csv")
    assert f"column {column} " in str(fault.value) and "line 5" in str(fault.value)


@pytest.mark.parametrize("name", ["../x", "a/b", "x" * 101])
def test_so_it_is_in_the_tables_of_the_competition(tmp_path, name):
    for file, kind in (("train", "treatment"), ("test", "treatment")):
        (tmp_path / f"{file}.csv").write_text(table(WELLS, [("RPE-01", 1, "B02", "sirna_1", kind)]))
        controls = [(name, 1, "B03", "sirna_2", "positive_control")]
        (tmp_path / f"{file}_controls.csv").write_text(table(WELLS, controls))
    with pytest.raises(InputError, match="a name that folders can have"):
        read_wells(tmp_path)
