"""`abra-wilds`: doctor's report, and refusals in one sentence."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from abra_wilds.__main__ import main
from abra_wilds.commands import doctor
from tests import runs


def test_doctor_lists_versions_devices_and_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WILDS_DATA", str(tmp_path))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for name in ("python", "torch", "torchvision", "wilds", "pandas", "scatter", "cores", "rxrx1"):
        assert name in shown
    assert f"abra-wilds simulate {tmp_path}" in shown and shown.endswith("nothing to fix\n")


def test_doctor_finds_the_data(sim_root, capsys, monkeypatch):
    monkeypatch.setenv("WILDS_DATA", str(sim_root))
    assert main(["doctor"]) == 0
    assert f"found in {sim_root / 'rxrx1_v1.0'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "found", "fix"),
    [("pandas", None, "pip install pandas"), ("scipy", None, "pip install scipy")],
)
def test_doctor_says_what_to_fix_and_fails(capsys, monkeypatch, name, found, fix):
    def version(package, real=doctor.version):
        if package == name and found is None:
            raise doctor.PackageNotFoundError(name)
        return found if package == name else real(package)

    monkeypatch.setattr(doctor, "version", version)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert fix in shown and "1 to fix" in shown


@pytest.mark.parametrize(("minor", "fix"), [(10, "use Python 3.11 or newer"), (11, None)])
def test_doctor_asks_for_the_python_that_setup_asks_for(monkeypatch, minor, fix):
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, minor, 0)))
    assert [finding.fix for finding in doctor.check_python()] == [fix]
    assert "python_requires = >=3.11\n" in (runs.REPOSITORY / "setup.cfg").read_text()


@pytest.mark.parametrize("package", ["torch", "yaml"])
def test_doctor_works_where_a_package_is_missing(package):
    program = f"import sys; sys.modules[{package!r}] = None\n"
    program += "from abra_wilds.__main__ import main; main(['doctor'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=runs.REPOSITORY, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "python" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: JOB"),
        (["fetch"], "required: dataset"),
        (["doctor", "--more"], "unrecognized arguments: --more"),
        (["simulate"], "required: "),
        (["simulate", "ROOT", "--layout", "tiles"], "tiles"),
        (["simulate", "ROOT", "--batch_effect", "-1"], "batch_effect"),
        (["simulate", "ROOT", "--classes", "1"], "classes"),
    ],
)
def test_a_bad_command_is_refused_in_one_sentence(capsys, tmp_path, argv, said):
    argv = [str(tmp_path / "out") if a == "ROOT" else a for a in argv]
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and said in shown.err
    assert not (tmp_path / "out").exists()
