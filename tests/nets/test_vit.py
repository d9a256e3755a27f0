"""Transformers in five stages: tokens are timm's own, sizes, masks, and what is refused."""

import pytest
import torch

from abra_wilds.nets.backbones import build_net, timm_package
from abra_wilds.nets.vit import staged_vit
from abra_wilds.types import InputError
from tests.helpers import tiny_net

timm = timm_package()


def pair(name, in_channels=3):
    """(timm's network, ours with the same weights), in eval mode."""
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, in_chans=in_channels, dynamic_img_size=True).eval()
    torch.manual_seed(0)
    return whole, build_net(f"timm:{name}", in_channels, pretrained=False).eval()


def image(H, W, in_channels=3):
    return torch.randn(2, in_channels, H, W, generator=torch.Generator().manual_seed(1))


# test_vit3 has a register and no class token; its features are pooled by attention, which is left out.
@pytest.mark.parametrize(
    "name, size, prefix, class_token",
    [
        ("test_vit", (32, 80), 1, True),
        ("vit_tiny_patch16_224", (64, 64), 1, True),
        ("test_vit3", (48, 48), 1, False),
    ],
)
def test_tokens_are_those_of_timm_with_the_class_token_first(name, size, prefix, class_token):
    whole, net = pair(name, in_channels=6)
    x = image(*size, 6)
    with torch.no_grad():
        tokens, ours = whole.forward_features(x), net(x)
    assert torch.equal(ours, tokens.transpose(1, 2)[..., None])
    assert torch.allclose(ours.mean((2, 3)), tokens.mean(1))
    assert net.class_token is class_token
    assert net.stages["stem"].prefix_tokens == prefix == whole.num_prefix_tokens
    assert ours.shape[2] == prefix + size[0] * size[1] // 256
    if class_token:
        assert torch.equal(ours[:, :, 0, 0], whole.pool(tokens, "token"))


def test_a_network_of_convolutions_has_no_class_token():
    assert tiny_net().class_token is False


def test_blocks_are_shared_out_in_order_and_no_weight_is_left_outside_them():
    whole, net = pair("vit_tiny_patch16_224")
    assert [len(net.stages[f"res{k}"].blocks) for k in range(1, 5)] == [3, 3, 3, 3]
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in whole.parameters())
    assert {n.split(".")[1] for n, _ in net.named_parameters()} == {"stem", "res1", "res2", "res3", "res4"}
    norms = [n for n, _ in net.named_parameters() if ".norm." in n and "blocks" not in n]
    assert norms == ["stages.res4.norm.weight", "stages.res4.norm.bias"]


@pytest.mark.parametrize("size", [(256, 200), (200, 256), (8, 8)])
def test_an_image_that_the_patch_does_not_divide_is_refused_with_a_size_that_fits(size):
    _, net = pair("test_vit")
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]} .*16 x 16") as refusal:
        net(image(*size))
    H, W = str(refusal.value).split("--target_resolution ")[1].split(",")[0].split()
    with torch.no_grad():
        net(image(int(H), int(W)))


def test_dinov2s_patches_of_14_do_not_fit_256_pixels_and_do_fit_252():
    with torch.device("meta"):
        net = build_net("timm:vit_small_patch14_dinov2", 6, pretrained=False)
        assert net(torch.empty(1, 6, 252, 252)).shape == (1, 384, 1 + 18 * 18, 1)
        with pytest.raises(InputError, match="--target_resolution 252 252"):
            net(torch.empty(1, 6, 256, 256))


def test_masked_patches_say_nothing_of_their_pixels_and_the_others_stay_as_they_were():
    _, net = pair("test_vit")
    stem, x = net.stages["stem"], image(32, 48)
    mask = torch.tensor([[[True, False, False], [False, True, False]], [[False] * 3] * 2])
    token = torch.randn(64)
    changed = x.clone()
    changed[0, :, :16, :16] = 7.0
    with torch.no_grad():
        masked, plain = stem(x, mask, token), stem(x)
        assert torch.equal(masked, stem(changed, mask, token))
        positions = stem.vit.patch_embed(x)
    hidden = torch.cat([torch.zeros(2, 1, dtype=torch.bool), mask.flatten(1)], 1)
    same = (masked == plain).all(1)[..., 0]
    assert torch.equal(same, ~hidden)
    difference = (masked - plain)[0, :, 1, 0]  # the first patch, on top of one and the same position
    assert torch.allclose(difference, token - positions[0, 0, 0], atol=1e-6)


def test_the_mask_token_learns_from_masked_patches():
    _, net = pair("test_vit")
    token = torch.zeros(64, requires_grad=True)
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = True
    tokens = net.stages["stem"](image(32, 32), mask, token)
    net(tokens, after="stem")[:, :3].sum().backward()
    assert token.grad.abs().sum() > 0


def test_a_transformer_of_few_blocks_is_refused():
    flags = {"depth": 3, "embed_dim": 16, "num_heads": 2, "dynamic_img_size": True}
    vit = timm.models.vision_transformer.VisionTransformer(**flags)
    with pytest.raises(InputError, match="3 blocks"):
        staged_vit(vit)
