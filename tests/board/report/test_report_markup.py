"""Names that are markup are shown in a report as text."""

import json
import shutil

import pandas as pd
import pytest

from abra_wilds.board.report.page import report
from abra_wilds.results.runs import find_runs
from tests.board.report.report_boards import make_logs

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def logs(screen, tmp_path_factory):
    return make_logs(screen, tmp_path_factory.mktemp("markup"))


def test_names_in_records_are_escaped(logs, tmp_path):
    copy = shutil.copytree(logs, tmp_path / "logs")
    for path in copy.rglob("results.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        changes = {"acc_by_cell": {MARKUP: 0.5}, "backbone": MARKUP, "commit": MARKUP}
        path.write_text("".join(json.dumps({**one, **changes}) + "\n" for one in records))
    page = report(find_runs(copy))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_names_of_classes_in_metadata_are_escaped(logs, screen, tmp_path):
    root = shutil.copytree(screen.root, tmp_path / "root")
    (path,) = root.rglob("metadata.csv")
    rows = pd.read_csv(path)
    rows["sirna"] = MARKUP + rows["sirna_id"].astype(str)
    rows.to_csv(path, index=False)
    page = report(find_runs(logs), root)
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
