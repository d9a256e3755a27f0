"""The public names: what they are called, what they take, and that their types are known."""

import ast
import inspect
from pathlib import Path

import abra_wilds
from abra_wilds.types import Batch, Target

PACKAGE = Path(abra_wilds.__file__).parent

# name -> its parameters; whoever changes one changes what people have written.
NAMES = {
    # train
    "fit": "config",
    "run_config": "algorithm preset **values",
    "RunConfig": None,
    "Screen": "sites config notes",
    # use
    "load_model": "source device *revision *flags",
    "Model": "stored device flags",
    "predict": "module images *batch_size",
    "adapted": "module images *prior *batch_size",
    # parts
    "BatchShift": "channels start relative bound *momentum *in_sigma *eps",
    "abra_loss": "features y classifier arc_weight shift *alpha *bio_batch *tail "
    "*lam *margin *scale *js_weight",
    "PlateBatchSampler": "bio_batch batch_size seed *rank *world",
    "Batch": "x target g metadata rows groups views context cropped",
    "Target": "y y_b w",
    "channel_stats": "X eps",
    "restyle": "x mu sigma d_mu d_sigma",
    "js_divergence": "p_logits q_logits",
    "arcface_logits": "features weight Y margin scale",
    # methods
    "METHODS": None,
    "get_method": "name",
    "build_net": "name in_channels pretrained new_stem",
    "DataInfo": "n_classes in_channels n_groups train_groups classes channels cell_lines",
    "StepContext": "lr log epoch progress",
    "StepOutput": "loss logits logs fresh_optimizer",
}


def parameters(call):
    """Names of a call's parameters; * before those by name alone, ** before any others."""
    mark = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return " ".join(mark.get(p.kind, "") + n for n, p in inspect.signature(call).parameters.items())


def test_the_public_names_and_what_they_take_are_these():
    assert abra_wilds.__all__ == ["__version__", *NAMES]
    found = {name: getattr(abra_wilds, name) for name in NAMES}
    assert {name: parameters(found[name]) for name, own in NAMES.items() if own is not None} == {
        name: own for name, own in NAMES.items() if own is not None
    }
    assert parameters(Batch.of) == "x y bio_batch" and parameters(Target.of) == "y n"
    assert parameters(found["Model"].predict) == "self images *tta *known"
    assert parameters(found["BatchShift"].forward) == "self x bio_batch"
    assert parameters(found["PlateBatchSampler"].set_epoch) == "self epoch"


def test_type_checkers_find_every_public_name_where_it_is_resolved():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    homes = {a.asname: n.module for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert homes == abra_wilds._HOMES and (PACKAGE / "py.typed").exists()


def test_every_public_name_is_documented_with_what_it_takes():
    for name, own in NAMES.items():
        doc = getattr(abra_wilds, name).__doc__
        assert doc, name
        if own and " " in own and name not in ("run_config", "build_net"):
            assert "Args:" in doc or "Attributes:" in doc, name


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(abra_wilds, "trainer")
