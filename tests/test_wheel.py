"""The package as users install it: a wheel, away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import abra_wilds
from abra_wilds.board.extra import BOARD_PACKAGES
from tests import runs

TINY = (
    *("--model", "timm:test_resnet", "--pretrained", "false", "--n_epochs", "1", "--device", "cpu"),
    *("--loader_kwargs", "num_workers=0", "--progress_bar", "false"),
)


PIP = (sys.executable, "-m", "pip", "--quiet")


def tracked() -> list[str]:
    """The names of what git tracks."""
    return subprocess.check_output(["git", "ls-files", "-z"], cwd=runs.REPOSITORY, text=True).split("\0")[:-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built without a network of what git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        source, copied = runs.REPOSITORY / name, folder / "source" / name
        if name.split("/")[0] not in ("examples", "leaderboard") and source.is_file():
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(source.read_bytes())
    flags = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*PIP, "wheel", *flags, "-w", folder / "dist", folder / "source"], check=True)
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder of the installed wheel."""
    site = wheel.parent.with_name("site")
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"abra_wilds-{abra_wilds.__version__}.dist-info/"
    ours = {name for name in tracked() if name.startswith("abra_wilds/") and not name.endswith(".md")}
    assert {name for name in names if not name.startswith(about)} == ours
    kinds = {Path(name).suffix or Path(name).name for name in ours}
    assert kinds == {".py", ".pyi", ".typed", ".yaml", ".json", ".j2"}
    assert f"{about}licenses/LICENSE" in names


@pytest.mark.slow
def test_twine_finds_nothing_in_the_wheel(wheel):
    pytest.importorskip("twine")
    done = runs.process("-m", "twine", "check", "--strict", wheel)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_installed_wheel_does_every_step_from_images_to_tables(installed, tmp_path):
    for package in BOARD_PACKAGES:  # of an extra, so that nothing here may import them
        (tmp_path / "absent" / package).mkdir(parents=True)
        (tmp_path / "absent" / package / "__init__.py").write_text(
            f"raise ModuleNotFoundError(name={package!r})"
        )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (installed, tmp_path / "absent")))}

    def job(*words: object) -> str:
        done = runs.process("-m", "abra_wilds", *words, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import abra_wilds; print(abra_wilds.__file__)"
    found = subprocess.check_output([sys.executable, "-c", where], cwd=tmp_path, env=env, text=True)
    assert Path(found.strip()).is_relative_to(installed)
    job("simulate", "simulated", "--replicates", 2, "--image_size", 32)
    rows = {"ERM": ("--algorithm", "ERM"), "AdaBN": ("--config", "adabn", "--tta_min", 4)}
    for name, recipe in rows.items():
        for seed in range(3):
            where = ("--root_dir", "simulated", "--seed", seed, "--log_dir", f"runs/{name}/seed{seed}")
            job("train", *recipe, *where, *TINY)
    job("predict", "runs/ERM/seed0/rxrx1_seed:0_epoch:best_model.pth", "--tta", "batch_bn", "--split", "test")
    job("bundle", "runs/ERM", "--out", "erm.zip")
    job("verify", "erm.zip", "--root_dir", "simulated")
    job("tables", "runs", "--out", "tables", "--backbone", "timm:test_resnet")
    page = (tmp_path / "tables" / "table_3.md").read_text()
    assert "SIMULATED" in page and all(f"| {tta}" in page for tta in ("batch_bn", "plate_bn_min4"))
