"""`abra-wilds`: doctor's report, and refusals in one sentence."""

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


@pytest.mark.parametrize("name", ["pandas", "scipy"])
def test_doctor_says_what_to_fix_and_fails(capsys, monkeypatch, name):
    def version(package, real=doctor.version):
        if package == name:
            raise doctor.PackageNotFoundError(name)
        return real(package)

    monkeypatch.setattr(doctor, "version", version)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert f"pip install {name}" in shown and "1 to fix" in shown


@pytest.mark.parametrize(("minor", "fix"), [(10, "use Python 3.11 or newer"), (11, None)])
def test_doctor_asks_for_the_python_that_setup_asks_for(monkeypatch, minor, fix):
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, minor, 0)))
    assert [finding.fix for finding in doctor.check_python()] == [fix]
    assert "python_requires = >=3.11\n" in (runs.REPOSITORY / "setup.cfg").read_text()


@pytest.mark.parametrize("package", ["torch", "yaml"])
def test_doctor_works_where_a_package_is_missing(package):
    program = f"import sys; sys.modules[{package!r}] = None\n"
    program += "from abra_wilds.__main__ import main; main(['doctor'])"
    done = runs.process("-c", program)
    assert "Traceback" not in done.stderr and "python" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "JOB"),
        (["fetch"], "dataset"),
        (["doctor", "--more"], "--more"),
        (["simulate"], "required"),
        (["simulate", "ROOT", "--layout", "tiles"], "tiles"),
        (["simulate", "ROOT", "--batch_effect", "-1"], "batch_effect"),
        (["simulate", "ROOT", "--classes", "1"], "classes"),
    ],
)
def test_a_bad_command_is_refused_in_one_sentence(capsys, tmp_path, argv, said):
    argv = [str(tmp_path / "out") if a == "ROOT" else a for a in argv]
    assert said in runs.sentence(capsys, main, argv)
    assert not (tmp_path / "out").exists()
