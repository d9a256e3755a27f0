"""The configurations in abra_wilds/recipes: each can be run, and the controls differ in what they say."""

import pytest

from abra_wilds.recipes.flags import parse
from tests import runs

FOLDER = runs.REPOSITORY / "abra_wilds" / "recipes"
FILES = sorted(FOLDER.rglob("*.yaml"))
CONTROLS = sorted((FOLDER / "controls").glob("c?_*.yaml"))


def read(name):
    return parse(["--config", str(FOLDER / name)])


def differing(a, b):
    """Names of the settings in which two runs differ."""
    x, y = a.values(), b.values()
    return {name for name in x.keys() | y.keys() if x.get(name) != y.get(name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_a_run_and_every_setting_in_it_counts(path):
    config = parse(["--config", str(path)])
    given = [line.split(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()]
    assert {"algorithm", "preset"} < set(given)
    assert all(config.origin[name] == "config file" for name in given if name not in ("algorithm", "preset"))


def test_there_are_seven_controls():
    assert [path.stem[:2] for path in CONTROLS] == [f"c{i}" for i in range(1, 8)]


def test_each_control_differs_from_the_next_in_one_part():
    c1, c2, c3, c4, c5, c6, c7 = (parse(["--config", str(path)]) for path in CONTROLS)
    assert differing(c1, c2) == {"mix"}
    assert c3.data.mix == c2.data.mix and c3.method.prob == 0
    assert not {"train_loader", "uniform_over_groups", "lr", "batch_size", "transform"} & differing(c2, c3)
    assert differing(c3, c4) == {"train_loader", "mix", "uniform_over_groups"}
    assert differing(c4, c5) == {"abra_prob", "abra_terms", "abra_alpha"}
    assert differing(c5, c6) == {"abra_terms"} and "js" not in c6.method.terms
    assert differing(c5, c7) == {"abra_alpha"} and c5.method.alpha == 0
    assert {c.eval.bn_stats for c in (c1, c2, c3, c4, c5, c6, c7)} == {"precise"}


def test_recipes_of_wu_et_al_have_their_published_numbers():
    for config in (read("erm_cutmix.yaml"), read("iid_lite.yaml")):
        o, d = config.optim, config.data
        assert (o.optimizer, o.lr, o.weight_decay, o.warmup_epochs) == ("Adam", 1.5e-4, 1e-5, 0)
        assert (d.batch_size, o.gradient_accumulation_steps, o.accumulate) == (24, 2, "sum")
        assert (d.train_loader, d.mix, d.cutmix_alpha, d.cutmix_prob) == ("standard", "cutmix_any", 1, 1)
        assert (d.transform, config.model.new_stem) == ("iid", True)
        m = config.method
        assert (m.k, m.margin, m.scale, m.width, m.bn_momentum) == (0.15, 0.5, 30, 1024, 0.05)
        assert o.n_epochs - getattr(m, "pretrain_epochs", 0) == 150


def test_adapted_rows_adapt_to_plates_and_to_batches():
    adabn, batch = read("adabn.yaml"), read("test_time_bn.yaml")
    assert (adabn.algorithm, adabn.data.train_loader, adabn.data.bio_batch) == ("ERM", "plate", "plate")
    assert (adabn.eval.tta, batch.eval.tta, batch.algorithm) == ("plate_bn", "batch_bn", "ERM")
