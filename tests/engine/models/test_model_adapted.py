"""A model on the images of one plate: every adaptation as its adapter, whatever hands the images over."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from abra_wilds import Model, load_model
from abra_wilds.config.evaluation import TTA
from abra_wilds.data.augment.transforms import augment
from abra_wilds.engine.models.opened import opened
from abra_wilds.errors import InputError
from abra_wilds.tta import own_mix
from abra_wilds.tta.adapters import make_adapter


@pytest.fixture(scope="module")
def model(tiny, trained):
    return load_model(trained / "model", "cpu")


def by_hand(model, e, images, known):
    """The adapter of the package on the passes of the plate as this file makes them."""
    x = augment(images, "none")
    cuts = {"batch_bn": [range(8), range(8, 16)], "tent": [range(16)]}.get(e.tta)
    if e.tta == "controls_bn":
        first = [i for i in range(16) if known[i] >= 0]
        others = [i for i in range(16) if known[i] < 0]
        cuts = [first, others[:7], others[7:]]
    if e.tta in ("lame", "label_shift"):
        cuts = [range(8), range(8, 16)]
    cuts = [list(c) for c in cuts or [range(16)]]
    adapter, out = make_adapter(e, model.components), torch.zeros(16, 9)
    groups = [[c] for c in cuts] if e.tta == "batch_bn" else [cuts]
    for group in groups:
        logits = adapter(model.method, iter([x[c] for c in group]), [known[c] for c in group])
        for c, z in zip(group, logits, strict=True):
            out[c] = z.detach()
    return out


@pytest.mark.parametrize("tta", [name for name in TTA if name != "none"])
def test_every_adaptation_predicts_a_plate_as_its_adapter_does(model, plate, tta):
    images, known = plate
    text = f"{tta},min={2 if tta == 'controls_bn' else 8}"
    before = {k: v.clone() for k, v in model.method.state_dict().items() if isinstance(v, torch.Tensor)}
    found = model.predict(images, tta=text, known=known)
    torch.testing.assert_close(found, by_hand(model, model.evaluation(text), images, known))
    if tta not in ("lame", "label_shift", "sar"):  # which may leave a plate as it is
        assert not torch.allclose(found, model.predict(images))
    assert all(torch.equal(model.method.state_dict()[k], v) for k, v in before.items())


def test_whatever_hands_images_over_predictions_are_the_same(model, plate):
    images, _ = plate
    wanted = model.predict(images)
    labelled = DataLoader(TensorDataset(images, torch.zeros(16)), batch_size=5)
    for given in (images.numpy(), DataLoader(images, batch_size=3), labelled, [images[:9], images[9:]]):
        torch.testing.assert_close(model.predict(given), wanted)
    torch.testing.assert_close(model.predict(labelled, tta="plate_bn"), model.predict(images, tta="plate_bn"))


def test_the_depth_of_images_does_not_matter_and_sixteen_bits_survive(model, plate):
    images, _ = plate
    deep = (images.numpy().astype(np.uint16) * 257 + 300).clip(max=65535).astype(np.uint16)
    floats = torch.from_numpy(deep.astype(np.float32))
    torch.testing.assert_close(model.predict(deep), model.predict(floats))
    torch.testing.assert_close(model.predict(deep, tta="plate_bn"), model.predict(floats, tta="plate_bn"))


def test_features_are_what_the_classifier_reads_with_the_plates_statistics(model, plate, monkeypatch):
    # What eb_bn makes of the other images' mix comes after the classifier; features do not show it.
    monkeypatch.setattr(own_mix, "BY_MIX", 0.0)
    monkeypatch.setattr(own_mix, "BY_NEIGHBOURS", 0.0)
    images, known = plate
    for tta in ("none", "plate_bn", "eb_bn"):
        features = model.embed(images, tta=tta, known=known)
        logits = model.method.classify(features)
        torch.testing.assert_close(logits, model.predict(images, tta=tta, known=known))


@pytest.mark.parametrize(
    ("tta", "said"),
    [
        ("plate_bn,min=17", "needs 17 images of a bio-batch together"),
        ("controls_bn", "needs 16 images of a bio-batch together, or of its controls"),
        ("nothing", "--tta must be one of"),
        ("eb_bn,group=experiment", "components of one plate each, and --tta eb_bn needs those of one exp"),
        ("plate_bn,prior=3", "plate_bn,prior=3 has prior=, which has no effect"),
    ],
)
def test_an_adaptation_that_cannot_be_is_one_sentence(model, plate, tta, said):
    with pytest.raises(InputError, match=said):
        model.predict(plate[0], tta=tta)


def test_eb_bn_of_a_model_without_components_says_how_to_get_them(model, plate, trained):
    from dataclasses import replace

    bare = Model(replace(opened(trained / "model"), components=None), "cpu")
    with pytest.raises(InputError, match=r"no components of batch norms.*abra-wilds components CHECKPOINT"):
        bare.predict(plate[0], tta="eb_bn")


def test_embeddings_by_what_corrects_predictions_are_refused(model, plate):
    with pytest.raises(InputError, match="lame learns or corrects predictions"):
        model.embed(plate[0], tta="lame")


def test_no_image_at_all_is_refused(model):
    with pytest.raises(InputError, match="there is no image"):
        model.predict([])
