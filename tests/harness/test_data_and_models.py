"""Six-channel images and networks of timm's inside a checkout, which knows neither."""

from importlib import import_module

import pytest

from abra_wilds.__main__ import main
from abra_wilds.errors import InputError
from abra_wilds.harness.register import registered
from abra_wilds.nets import backbones
from tests import runs
from tests.harness.inside import files, line
from tests.runs import assert_says, names_in


@pytest.fixture(autouse=True)
def any_network(tiny, monkeypatch):
    """Whatever network is asked for, a tiny one is built; nothing is downloaded."""
    monkeypatch.setattr(backbones, "timm_net", runs.tiny_backbone)


@pytest.mark.parametrize("name", ["ABRA", "abra:ERM"])
def test_a_method_trains_on_six_channels_and_is_evaluated_again(checkout, six_root, tmp_path, name):
    log_dir = tmp_path / "run"
    argv = line(checkout.path, six_root, log_dir, name, dataset="rxrx1_6ch", n_epochs=1)
    assert main(argv) == 0
    assert names_in(log_dir) == files("rxrx1_6ch")
    (first,) = runs.rows_of(log_dir / "val_eval.csv")
    assert main([*argv, "--eval_only"]) == 0
    assert runs.rows_of(log_dir / "val_eval.csv") == [first, first]


def test_an_algorithm_of_the_checkouts_own_is_refused_on_six_channels(checkout, six_root, tmp_path, refusal):
    argv = line(checkout.path, six_root, tmp_path / "run", "ERM", dataset="rxrx1_6ch")
    assert_says(refusal(argv), "--algorithm ERM", "rxrx1_6ch", "abra:ERM")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv", [["-d", "rxrx1_6ch", "--algorithm", "ERM", "-h"], ["-d", "rxrx1_6ch"]])
def test_help_on_six_channels_is_the_checkouts(checkout, argv):
    with registered(checkout) as harness:
        assert harness.arguments(argv) == argv


def test_a_network_of_timms_is_trained_under_its_name(checkout, root, tmp_path):
    argv = line(checkout.path, root, tmp_path / "run", "ABRA", model="timm:any_net", n_epochs=1)
    assert main(argv) == 0
    assert names_in(tmp_path / "run") == files()
    assert "timm:any_net" in (tmp_path / "run" / "log.txt").read_text()


def test_a_name_of_timms_is_known_to_the_checkout_for_its_own_run_alone(checkout):
    def known():
        tables = import_module("configs.supported").models, import_module("configs.model").model_defaults
        return [name for table in tables for name in table]

    with registered(checkout) as harness:
        before = known()
        asked = ["--algorithm", "ABRA", "--model", "timm:any_net"]
        for _ in range(2):
            harness.arguments(asked)
            assert known().count("timm:any_net") == 2
        own = ["--algorithm", "ERM", "--model", "timm:any_net"]
        assert harness.arguments(own) == own and known() == before
        with pytest.raises(InputError, match=r"--model .*'vgg'"):
            harness.arguments(["--algorithm", "ABRA", "--model", "vgg"])
        assert known() == before


def test_an_algorithm_of_the_checkouts_own_has_no_network_of_timms(checkout, root, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line(checkout.path, root, tmp_path / "run", "ERM", model="timm:any_net", warmup_epochs=None))
    assert ended.value.code == 2 and "timm:any_net" in capsys.readouterr().err
