"""A new table beside the screen.yaml of training is predicted as one alone."""

import shutil

import pandas as pd
import pytest

from abra_wilds.__main__ import main
from tests import runs
from tests.analysis.answers.test_predict_screen import line, predict, tables

pytestmark = pytest.mark.usefixtures("tiny")


def test_a_new_table_may_lie_beside_the_settings_of_training(trained, fresh, tmp_path, capsys):
    """Its labels, splits and groups need not be there; a flag that names a missing column is refused."""
    folder = shutil.copytree(fresh[0], tmp_path / "screen")
    text = "label_column: Metadata_Phenotype\nkeep_together: Metadata_Frame\n"
    (folder / "screen.yaml").write_text(text + "split: [leave_one_out=old, by=Old]\n")
    assert predict(trained / "model", folder, tmp_path / "beside") == 0
    runs.assert_says(capsys.readouterr().out, "has no column Metadata_Phenotype, which screen.yaml names")
    assert predict(trained / "model", fresh[0], tmp_path / "alone") == 0
    for a, b in zip(tables(tmp_path / "beside"), tables(tmp_path / "alone"), strict=True):
        pd.testing.assert_frame_equal(a, b)
    argv = line(trained / "model", folder, tmp_path / "asked", "--label_column", "Metadata_Phenotype")
    runs.assert_says(runs.sentence(capsys, main, argv), "--label_column got Metadata_Phenotype")
