"""The opened model is the model."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch.testing import assert_close

from precompute.base import base_pass
from precompute.errors import UnsupportedModelError
from precompute.model import ViT
from tests import reference
from tests.models import ARCHITECTURES, SMALL, small_vit, some_pixels

EXACT = {"rtol": 0, "atol": 1e-12}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@every_architecture
def test_walking_the_layers_gives_the_models_own_attention_z_and_logits(architecture):
    vit = small_vit(architecture)
    pixels = some_pixels(vit)
    truth = reference.forward(vit, pixels)
    attn = []
    base = base_pass(vit, pixels, lambda layer: attn.append(layer.attn))
    assert_close(base.logits, truth.logits, **EXACT)
    for layer in range(vit.num_layers):
        assert_close(attn[layer], truth.attn[layer], **EXACT)
        assert_close(base.z[layer], truth.z[layer], **EXACT)
        assert_close(attn[layer].sum(-1), torch.ones_like(attn[layer][..., 0]), **EXACT)


@every_architecture
def test_the_last_block_for_the_tokens_that_are_read_gives_the_same_logits(architecture):
    vit = small_vit(architecture)
    pixels = some_pixels(vit)
    resid = base_pass(vit, pixels).resid[vit.num_layers - 1]
    with torch.inference_mode():
        assert_close(vit.read_out(vit.last_block(resid)), vit.model(vit.normalised(pixels)), **EXACT)


@every_architecture
def test_heads_and_the_output_bias_add_up_to_z(architecture):
    vit = small_vit(architecture)
    base = base_pass(vit, some_pixels(vit))
    with torch.inference_mode():
        for layer in range(vit.num_layers):
            bias = vit.model.blocks[layer].attn.proj.bias
            assert_close(vit.head_output(layer, base.context[layer]).sum(1) + bias, base.z[layer], **EXACT)


def test_reading_a_model_leaves_its_hooks_flags_and_mode_as_they_were():
    vit = small_vit("plain")
    state = {name: tensor.clone() for name, tensor in vit.model.state_dict().items()}
    base_pass(vit, some_pixels(vit))
    assert all(block.attn.fused_attn for block in vit.model.blocks)
    assert not any(module._forward_hooks for module in vit.model.modules())
    assert not vit.model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in vit.model.state_dict().items())


def test_prefix_tokens_and_pooling_are_read_off_the_model():
    assert small_vit("plain").prefix_tokens == ["CLS"]
    assert small_vit("distilled").prefix_tokens == ["CLS", "distillation"]
    assert small_vit("registers_layerscale").prefix_tokens == ["CLS"] + [f"register {i}" for i in (1, 2, 3, 4)]
    assert small_vit("map_pooled_no_classifier").prefix_tokens == []
    assert not small_vit("average_pooled_with_class_token").has_cls
    assert small_vit("rectangular").grid == (3, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"block_fn": ResPostBlock, "init_values": 1e-5}, "ResPostBlock"),
        ({"scale_attn_norm": True}, "before W_O"),
        ({"attn_layer": "diff"}, "DiffAttention"),
    ],
)
def test_a_block_whose_heads_cannot_be_told_apart_is_refused(changes, reason):
    model = VisionTransformer(**(SMALL | changes)).eval()
    with pytest.raises(UnsupportedModelError, match=reason):
        ViT(model, "odd")


def test_another_architecture_and_a_model_in_training_are_refused():
    with pytest.raises(UnsupportedModelError, match="is a ResNet"):
        ViT(timm.create_model("resnet10t").eval(), "resnet10t")
    with pytest.raises(UnsupportedModelError, match="training mode"):
        ViT(VisionTransformer(**SMALL), "plain")


def test_pixels_of_another_size_are_refused_with_the_right_one():
    with pytest.raises(ValueError, match=r"takes uint8 \(image, 32, 32, 3\)"):
        small_vit("plain").normalised(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
