"""The certificate holds for sound models and for no broken one."""

import pytest
import torch

from precompute import certificate as module
from precompute.certificate import certify
from precompute.errors import CertificateError
from precompute.model import ViT
from tests.models import ARCHITECTURES, small_vit, some_pixels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_certified_in_float32_and_left_as_it_was(architecture):
    vit = small_vit(architecture, torch.float32)
    found = certify(vit, some_pixels(vit).numpy())
    assert max(found.attention, found.logits, found.pruning) < 1e-4
    assert found.images == 2
    assert all(block.attn.fused_attn for block in vit.model.blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.model.modules())


@pytest.mark.parametrize(
    ("method", "broken", "claim"),
    [
        ("attention", lambda self, q, k: (q @ k.mT).softmax(-1), "attention times values"),
        ("read_out", lambda self, resid: self.model.head(resid[:, 0]), "logits as they are"),
        (
            "head_output",
            lambda self, layer, context, heads=None: ViT.head_output(self, layer, context.flip(1)),
            "removing a head",
        ),
    ],
)
def test_an_opened_model_that_is_wrong_in_one_place_is_refused_for_that(method, broken, claim):
    wrong = type("Wrong", (ViT,), {method: broken})
    vit = small_vit("plain", torch.float32)
    with pytest.raises(CertificateError, match=claim):
        certify(wrong(vit.model, "wrong"), some_pixels(vit).numpy())


def test_weights_that_give_nan_are_refused():
    vit = small_vit("plain", torch.float32)
    with torch.no_grad():
        vit.model.blocks[1].mlp.fc1.weight[0, 0] = torch.inf
    with pytest.raises(CertificateError, match="NaN or Inf"):
        certify(vit, some_pixels(vit).numpy())


def test_a_failing_hook_leaves_the_model_as_it_was():
    vit = small_vit("plain", torch.float32)

    def fail(module_, args, out):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), module._hooked([vit.model.head], fail):
        vit.model(torch.zeros(1, 3, 32, 32))
    assert not vit.model.head._forward_hooks
