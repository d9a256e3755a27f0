"""Guards matter: with one taken out of a copy of the package, a test that passes with it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


class Guard(NamedTuple):
    """Text in a file of the package, what stands there once it is removed, and the test that then fails."""

    file: str
    text: str
    without: str
    test: str


GUARDS = {
    "lock of a run's folder": Guard(
        "engine/artifacts/folder.py",
        "if not stack.enter_context(hold(path / LOCK)):",
        "if False:",
        "engine/artifacts/test_one_writer.py::test_a_living_run_keeps_its_folder_and_a_killed_one_frees_it_at_once",
    ),
    "resuming without the last model": Guard(
        "engine/artifacts/folder.py",
        'if found and not folder.model("last").exists():',
        "if False:",
        "engine/artifacts/test_one_writer.py::test_resuming_without_the_last_model_is_refused_and_changes_nothing[last]",
    ),
    "resuming with other settings": Guard(
        "engine/artifacts/folder.py",
        "if not differing:",
        "if True:",
        "engine/artifacts/test_resume.py::test_resuming_with_other_settings_is_refused_and_named",
    ),
    "tensors and numbers alone in a checkpoint": Guard(
        "engine/artifacts/checkpoint.py",
        "weights_only=True",
        "weights_only=False",
        "engine/artifacts/test_checkpoint.py::test_code_in_a_checkpoint_is_refused_and_does_not_run",
    ),
    "a checkpoint whole or not there": Guard(
        "results/files.py",
        "path, temporary):\n            yield temporary\n",
        "path, temporary):\n            yield path\n            return\n",
        "engine/artifacts/test_lost.py::test_a_checkpoint_that_the_disk_cannot_hold_is_named_and_the_one_before_stays",
    ),
    "a loss that is not finite": Guard(
        "engine/artifacts/logs.py",
        "if not steps or bool(torch.isfinite(torch.stack([s[3] for s in steps])).all()):",
        "if True:",
        "engine/artifacts/test_logs.py::test_a_loss_lost_in_the_first_epoch_leaves_no_checkpoint[2]",
    ),
    "predictions in dataset order": Guard(
        "engine/evaluation/evaluate.py",
        "y_pred[batch.rows] = found.argmax(1)",
        "y_pred[(y_pred < 0).nonzero()[: len(found), 0]] = found.argmax(1)",
        "engine/evaluation/test_evaluate.py::test_the_grouped_loader_gives_the_predictions_of_the_standard_one",
    ),
    "predictions of the split's size": Guard(
        "board/bundle/archives.py",
        "if len(lines) != n:",
        "if False:",
        "board/bundle/test_verify.py::test_every_fault_is_listed_at_once",
    ),
    "predictions in another order": Guard(
        "board/bundle/verify.py",
        "if order:",
        "if False:",
        "board/bundle/test_verify.py::test_predictions_in_another_order_than_the_data_sets_are_found_out",
    ),
    "predictions that their record is about": Guard(
        "board/bundle/build.py",
        "if sha256(path) != r.predictions_sha256:",
        "if False:",
        "board/bundle/test_bundle_refusals.py::"
        "test_what_the_leaderboard_would_refuse_is_one_sentence[changed predictions]",
    ),
    "records of finished runs alone": Guard(
        "results/finished.py",
        "if unfinished(run.config, [e.record for e in own]):",
        "if False:",
        "board/test_finished.py::test_tables_figures_reports_and_bundles_refuse_an_unfinished_run",
    ),
    "an experiment that trains and tests": Guard(
        "data/datasets/splits.py",
        "if both:",
        "if False:",
        "data/datasets/test_splits.py::test_an_experiment_that_trains_and_tests_is_refused",
    ),
    "equal pixels in train and test": Guard(
        "data/datasets/validate.py",
        "if trained and others:",
        "if False:",
        "data/datasets/test_plates.py::test_equal_pixels_in_train_and_test_are_found_by_validate",
    ),
    "images that changed after their pack": Guard(
        "data/reading/packed.py",
        "if len(changed):",
        "if False:",
        "data/reading/test_pack_again.py::test_a_pack_of_other_tables_or_images_is_not_read_"
        "until_the_command_that_is_named_has_run[an older image]",
    ),
    "a truncated image": Guard(
        "data/reading/images.py",
        "ImageFile.LOAD_TRUNCATED_IMAGES = False",
        "pass",
        "data/reading/test_loaders.py::test_a_truncated_image_is_refused_even_where_another_library_allowed_it",
    ),
    "statistics of an adaptation": Guard(
        "tta/bn_state.py",
        "m.running_mean, m.running_var = mean, var",
        "pass",
        "tta/test_adapters.py::test_the_method_is_left_bit_for_bit_and_in_evaluation_mode",
    ),
    "keys that are there twice": Guard(
        "config/files.py",
        "if key in seen:",
        "if False:",
        "config/test_settings_files.py::test_what_is_no_mapping_of_names_that_are_there_once_is_refused",
    ),
    "names that lead out of the folder": Guard(
        "data/datasets/metadata.py",
        "and not UNSAFE.search(text)",
        "",
        "test_untrusted.py::test_a_name_in_metadata_that_is_no_name_of_a_folder_is_refused",
    ),
    "members that lead out of the folder": Guard(
        "fetch/unpack.py",
        "inside(name, archive)\n",
        "pass\n",
        "fetch/test_unpack.py::test_a_climbing_linking_or_damaged_archive_is_refused",
    ),
    "wrong bytes of a download": Guard(
        "fetch/download.py",
        "if wanted not in (None, found):",
        "if False:",
        "fetch/test_fetch.py::"
        "test_wrong_bytes_leave_nothing_in_place_and_the_way_by_hand_is_said[another archive]",
    ),
    "cells that begin as formulas": Guard(
        "results/files.py",
        """("'" if value.startswith(FORMULA) else "") + """,
        "",
        "test_untrusted.py::test_no_cell_of_a_table_begins_as_a_formula_does",
    ),
    "markup in names": Guard(
        "board/report/page.py",
        "autoescape=True",
        "autoescape=False",
        "board/report/test_report_markup.py::test_names_in_records_are_escaped",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository's packages and tests."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("abra_wilds", "leaderboard", "examples", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(folder, *tests):
    """The exit code of pytest, 1 where a test failed, and what it printed; it ends at the first failure."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    named = [f"tests/{test}" for test in tests]
    done = subprocess.run(
        [*command, *named], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_with_every_guard_in_place_their_tests_pass(copy):
    code, shown = run_tests(copy, *(guard.test for guard in GUARDS.values()))
    assert code == 0 and "skipped" not in shown, shown


@pytest.mark.parametrize("name", GUARDS)
def test_without_the_guard_its_test_fails(copy, name):
    file, text, without, test = GUARDS[name]
    path = copy / "abra_wilds" / file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(text) == 1
    path.write_text(whole.replace(text, without), encoding="utf-8")
    try:
        code, shown = run_tests(copy, test)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert code == 1 and "1 failed" in shown, shown
