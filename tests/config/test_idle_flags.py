"""A flag that would have no effect is an error, and so are batches with which a method makes no sense."""

from __future__ import annotations

import pytest

from abra_wilds import METHODS, run_config
from abra_wilds.recipes.resolve import all_flags, resolve
from abra_wilds.types import InputError

IDLE = [
    ("ERM", {"n_groups_per_batch": 2}, "--train_loader group"),
    ("ABRA", {"distinct_groups": True}, "--train_loader group"),
    ("ABRA", {"uniform_over_groups": True}, "--train_loader group or standard"),
    ("ERM", {"plate_remainder": "drop"}, "--train_loader plate"),
    ("ERM", {"cutmix_alpha": 0.5}, "a --mix other than none"),
    ("ERM", {"cutmix_prob": 0.5}, "a --mix other than none"),
    ("ERM", {"load_featurizer_only": True}, "--pretrained_model_path"),
    ("ERM", {"eval_splits": ["test"]}, "--evaluate_all_splits false"),
    ("ERM", {"eval_epoch": 3}, "--eval_only"),
    ("ERM", {"warmup_from": 1e-4, "warmup_epochs": 0}, "a warm-up"),
    ("ERM", {"eval_only": True, "resume": True}, "training, not with --eval_only"),
    ("ERM", {"eval_only": True, "dry_run": True}, "training, not with --eval_only"),
    ("ERM", {"eval_only": True, "overwrite": True}, "training, not with --eval_only"),
    ("ERM", {"resume": True, "save_last": False}, "--save_last true"),
    ("ERM", {"pretrained": True, "pretrained_model_path": "w.pth"}, "no --pretrained_model_path"),
    ("ERM", {"optimizer_kwargs": {"lr": 0.5}}, "other than --lr and --weight_decay"),
    ("ABRA", {"abra_terms": ["ce", "js"], "abra_margin": 0.25}, "arc in --abra_terms"),
    ("ABRA", {"abra_terms": ["ce", "js"], "abra_scale": 2.0}, "arc in --abra_terms"),
    ("ABRA", {"abra_terms": ["ce"], "abra_share_arc_weight": True}, "arc in --abra_terms"),
    ("ABRA", {"abra_terms": ["ce"], "abra_halve_arc": True}, "arc in --abra_terms"),
    ("ABRA", {"abra_terms": ["ce"], "abra_lam": 0.5}, "both ce and arc in --abra_terms"),
    ("ABRA", {"abra_terms": ["ce", "arc"], "abra_js_weight": 2.0}, "js in --abra_terms"),
    ("ABRA", {"abra_terms": ["arc"], "abra_js_detach_clean": True}, "js in --abra_terms"),
    ("ABRA", {"mix": "none", "abra_soft_arc": "two_term"}, "--mix cutmix"),
    ("IRMX", {"n_epochs": 0, "lr": 0.1}, "--n_epochs 1 or more"),
    ("SimCLR", {"n_epochs": 0, "weight_decay": 0.0}, "--n_epochs 1 or more"),
    ("ERM", {"pairs_cross": False}, "--train_loader pairs"),
    ("ERM", {"n_controls_per_batch": 3}, "--train_loader controls"),
    ("SimCLR", {"transform": "rxrx1"}, "methods that learn from augmented images"),
    ("ABRA", {"abra_at": ["res2"], "abra_pooled_path": False}, "res4 in --abra_at"),
]


@pytest.mark.parametrize(("name", "given", "needs"), IDLE)
def test_a_flag_that_would_have_no_effect_is_an_error(name, given, needs):
    with pytest.raises(InputError, match="would have no effect here: it works with") as caught:
        run_config(name, **given)
    assert needs in str(caught.value)


def test_the_same_flags_are_accepted_where_they_have_an_effect():
    run_config(
        "ERM", train_loader="group", n_groups_per_batch=2, distinct_groups=False, uniform_over_groups=True
    )
    run_config(
        "ERM", train_loader="plate", plate_remainder="drop", mix="cutmix", cutmix_alpha=0.5, cutmix_prob=0.5
    )
    run_config("ERM", evaluate_all_splits=False, eval_splits=["test"])
    (of_experiments,) = run_config("ERM", also_tta=["eb_bn"], tta_group="experiment").eval.alternatives()
    assert of_experiments.name == "eb_bn_experiment"
    run_config("ERM", eval_only=True, eval_epoch=3)
    run_config("ERM", warmup_from=1e-4, scheduler_kwargs={"num_warmup_steps": 3})


def test_a_recipe_is_accepted_without_its_epochs_over_images():
    config = resolve("IRMX", {"n_epochs": 0}, file={"lr": 0.1, "optimizer": "SGD"})
    assert (config.optim.n_epochs, config.optim.lr) == (0, 0.1)


@pytest.mark.parametrize("name", ["ARM-BN", "CS-ARM-BN"])
def test_a_method_is_adapted_to_the_groups_it_learns_to_be_adapted_to(name):
    with pytest.raises(InputError, match="bio-batches, one experiment each, and --tta plate_bn would adapt"):
        run_config(name, groupby_fields=["experiment"])
    with pytest.raises(InputError, match="make --groupby_fields and --tta_group alike"):
        run_config(name, tta_group="experiment")
    run_config(name, groupby_fields=["experiment"], tta_group="experiment")
    run_config(name, groupby_fields=["cell_type"], tta="none")


def test_two_warmups_are_one_too_many():
    with pytest.raises(InputError, match="both set the warm-up; give one"):
        run_config("ERM", warmup_epochs=1.0, scheduler_kwargs={"num_warmup_steps": 3})


@pytest.mark.parametrize("name", METHODS)
def test_another_methods_flag_is_refused_and_its_owner_named(name):
    others = {n: s for n, s in all_flags().settings.items() if s.section in METHODS.keys() - {name}}
    assert others
    for flag, setting in others.items():
        with pytest.raises(InputError, match=f"--{flag} belongs to {setting.section} .* on {name}"):
            run_config(name, **{flag: setting.default})


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("IRM", {"train_loader": "standard"}, "IRM needs --train_loader group; got standard"),
        ("deepCORAL", {"train_loader": "plate"}, "deepCORAL needs --train_loader group; got plate"),
        ("IRM", {"mix": "cutmix_any"}, "IRM needs --mix none or cutmix; got cutmix_any"),
        ("BYOL", {"mix": "cutmix"}, "BYOL needs --mix none; got cutmix"),
        ("groupDRO", {"uniform_over_groups": False}, "groupDRO needs --uniform_over_groups true; got false"),
        ("deepCORAL", {"n_groups_per_batch": 1}, "compares at least 2 bio-batches per batch"),
        ("IRM", {"batch_size": 8, "n_groups_per_batch": 8}, "needs at least 2 images of each bio-batch"),
    ],
)
def test_batches_with_which_a_method_makes_no_sense_are_refused(name, given, said):
    with pytest.raises(InputError, match=said):
        run_config(name, **given)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("AdvBayes", {"n_epochs": 10}, "AdvBayes begins after its first 10 epochs (--advbayes_pre_epochs)"),
        ("IID-lite", {"n_epochs": 7}, "IID-lite begins after its first 10 epochs (--iid_lite_pretrain"),
        ("DINOv2", {"n_epochs": 0}, "--n_epochs 0 trains no backbone, so the fresh first convolution"),
        ("IRMX", {"n_epochs": 0, "new_stem": True}, "add --new_stem false"),
    ],
)
def test_a_run_that_ends_before_its_method_begins_is_refused(name, given, said):
    first = {"AdvBayes": "advbayes_pre_epochs", "IID-lite": "iid_lite_pretrain_epochs"}
    given = {"warmup_epochs": 0, **({first[name]: 10} if name in first else {}), **given}
    with pytest.raises(InputError) as caught:
        run_config(name, **given)
    assert said in str(caught.value)


def test_the_same_lengths_are_accepted_where_something_is_trained():
    run_config("AdvBayes", warmup_epochs=0, advbayes_pre_epochs=10, n_epochs=11)
    run_config("AdvBayes", warmup_epochs=0, n_epochs=5, advbayes_c=0.0)
    run_config("DINOv2", warmup_epochs=0, n_epochs=0, new_stem=False)
    run_config("SimCLR", warmup_epochs=0, n_epochs=0, pretrained=False)
    run_config("SimCLR", warmup_epochs=0, n_epochs=0, pretrained_model_path="w.pth")
