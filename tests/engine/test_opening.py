"""The first lines of a run."""

import shutil

from abra_wilds import run_config
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.fit import opening
from abra_wilds.engine.setup import prepare
from tests import runs


def test_the_log_says_whether_images_come_from_files_or_from_which_pack(sim_root, tmp_path):
    root = runs.small_root(sim_root, tmp_path / "root")
    config = run_config("ERM", **runs.settings(root, tmp_path, "ERM"))

    def second_line():
        return opening(config, prepare(config), Progress()).splitlines()[1]

    assert second_line().startswith("images from files: train 64, ")
    folder = pack(from_files("rxrx1", root))
    assert second_line().startswith(f"images from {folder}: train 64, ")
    shutil.rmtree(folder)
    assert second_line().startswith("images from files: ")
