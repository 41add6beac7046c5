"""Probabilities are computed only where a head's outputs are classes, and of one logit as its sigmoid."""

import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from timm.models.vision_transformer import VisionTransformer

from analyses.vocabulary import NAMED_CLASSES
from precompute import analysis
from precompute.base import base_pass
from precompute.certificate import certify
from precompute.configuration import Configuration
from precompute.errors import ModelError
from precompute.importance import importance
from precompute.model import ViT
from precompute.names import supported_names
from precompute.outputs import (
    Outputs,
    named_classes,
    outputs_as_said,
    outputs_of_file,
    outputs_of_timm,
    subset_of,
)
from store.schema import SCHEMA
from tests import reference
from tests.models import SMALL, some_pixels


def of_file(outputs, own=1000, bias=None, configuration=None):
    return outputs_of_file("a_vit", outputs, architectures_own=own, bias=bias, configuration=configuration)[0]


def test_of_all_of_timms_weights_the_number_of_outputs_tells_classes_from_embeddings():
    """Against a second rule, by what the names say: CLIP's towers embed unless they were fine-tuned."""
    seen = {"classes": 0, "embedding": 0, "none": 0}
    for name in supported_names():
        for tagged, cfg in get_arch_pretrained_cfgs(name).items():
            outputs = outputs_of_timm(tagged, cfg.num_classes)
            joint = "_clip_" in name and "_ft_" not in tagged
            kind = "none" if not cfg.num_classes else "embedding" if joint else "classes"
            assert outputs.are_classes == (kind == "classes"), tagged
            assert ("embedding" in outputs.why) == (kind == "embedding"), tagged
            seen[kind] += 1
    assert min(seen.values()) > 50 and sum(seen.values()) > 270  # the walk has met all three


def test_the_sets_of_classes_that_can_be_named_are_timms_and_are_known_by_their_size():
    for which in NAMED_CLASSES:
        names, wnids = named_classes(which)
        assert len(names) == len(wnids) and subset_of(len(names)) == which
    assert named_classes("imagenet-1k")[0][0].startswith("tench")
    assert subset_of(999) is None and subset_of(0) is None


def test_of_a_file_a_configuration_decides_and_otherwise_what_is_known():
    assert of_file(5).kind == "classes"
    assert of_file(0).why == "a_vit has no classifier"
    multi = Configuration(class_names=("a", "b"), one_class=False, not_classes="config.json says so")
    assert of_file(5, configuration=multi) == Outputs(
        "other", f"the outputs are no classes of which one is true: {multi.not_classes}"
    )
    assert (
        of_file(512, own=512, configuration=Configuration(class_names=("a",) * 512, one_class=True)).kind == "classes"
    )
    assert of_file(1).kind == "other" and "measured value" in of_file(1).why
    assert of_file(1, configuration=Configuration(class_names=("no", "yes"), one_class=True)).kind == "logit"
    # CLIP's projection has no bias, so timm's is 0; a classifier that was trained in its place has one.
    assert of_file(512, own=512, bias=torch.zeros(512)).kind == "other"
    assert of_file(512, own=512, bias=torch.ones(512)).kind == "classes"
    assert of_file(10, own=512, bias=torch.zeros(10)).kind == "classes"


def test_what_a_person_says_is_believed_if_it_can_be():
    assert outputs_as_said("auto", 5, None, "a_vit") is None
    assert outputs_as_said("other", 5, None, "a_vit").kind == "other"
    assert outputs_as_said("classes", 512, None, "a_vit").kind == "classes"
    assert outputs_as_said("auto", 512, 512, "a_vit").kind == "classes"
    assert outputs_as_said("auto", 1, 2, "a_vit").kind == "logit"
    for said, outputs, names, message in (
        ("auto", 5, 4, "--classes names 4 classes; a_vit here has 5"),
        ("auto", 1, 3, r"here has 2 \(one logit stands for two\)"),
        ("classes", 0, None, "has no classifier"),
        ("other", 5, 5, "exclude each other"),
    ):
        with pytest.raises(ModelError, match=message):
            outputs_as_said(said, outputs, names, "a_vit")


def one_logit(outputs):
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | {"num_classes": 1})).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return ViT(model, "one", outputs)


def test_the_probability_of_one_logit_is_its_sigmoid_with_every_head_removed_in_turn():
    vit = one_logit(Outputs("logit", "two names"))
    pixels = some_pixels(vit, 3)
    base = base_pass(vit, pixels)
    found = importance(vit, base, torch.tensor([1, 1, 0]), chunk=2)
    x = reference.forward(vit, pixels).logits[:, 0]
    sign = torch.tensor([1, 1, -1])  # P(class 0) is the sigmoid of -x
    for layer in range(vit.num_layers):
        for head in range(vit.num_heads):
            without = reference.forward(vit, pixels, {(layer, head): reference.everything(vit)}).logits[:, 0]
            by_hand = (sign * x).sigmoid() - (sign * without).sigmoid()
            assert torch.allclose(found.probability[:, layer, head].double(), by_hand, atol=1e-12)
    assert found.probability.abs().max() > 1e-3  # of one logit alone a softmax is 1, and nothing would matter
    assert vit.num_classes == 2 and base.logits.shape == (3, 2)
    assert certify(vit, pixels.numpy()).logits < 1e-12


@pytest.mark.parametrize("count", [1, 7])
def test_outputs_that_are_no_classes_have_no_probability_and_say_why(count):
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | {"num_classes": count})).eval()
    vit = ViT(model, "embeds", Outputs("other", "an embedding"))
    assert vit.num_classes == 0
    assert analysis.metrics_of(vit) == ("cls_distance", "patch_distance")
    assert set(analysis.left_out(vit).values()) == {"an embedding"}
    pixels = some_pixels(vit, 2)
    label = torch.full((2,), -1, dtype=torch.int32).numpy()
    arrays = analysis.of_batch(vit, pixels.numpy(), label, 2, SCHEMA.keys() - {"attention"})
    assert not {"logits", "probability", "target", "pruned_probability"} & arrays.keys()
    assert certify(vit, pixels.numpy()).pruning < 1e-4  # the outputs are compared as they are


def test_random_clip_towers_have_no_classes_of_their_embedding():
    name = "vit_xsmall_patch16_clip_224"
    with torch.device("meta"):
        outputs = timm.create_model(name, depth=1).num_classes
    assert outputs_of_timm(name, outputs).kind == "other"
