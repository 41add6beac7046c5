"""Importance against whole forward passes, in float64, and what must hold whatever the model."""

import pytest
import torch
from torch.testing import assert_close

from precompute.base import base_pass
from precompute.importance import importance, z_distances
from precompute.metrics import cosine_distance, jensen_shannon
from tests import reference
from tests.models import ARCHITECTURES, small_vit, some_pixels

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
with_classifier = pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if "no_classifier" not in a])


@every_architecture
def test_every_metric_of_every_head_equals_a_forward_with_that_head_zeroed(architecture):
    vit = small_vit(architecture)
    pixels = some_pixels(vit)
    plain = reference.forward(vit, pixels)
    target = torch.tensor([3, 5]) if vit.num_classes else None
    fast = importance(vit, base_pass(vit, pixels), target, chunk=4)
    patches = range(vit.num_prefix_tokens, vit.num_tokens)
    for layer in range(vit.num_layers):
        for head in range(vit.num_heads):
            slow = reference.forward(vit, pixels, {(layer, head): reference.everything(vit)})
            for image in range(2):
                z, z_pruned = plain.z[layer][image], slow.z[layer][image]
                patch = sum(reference.distance(z[p], z_pruned[p]) for p in patches) / len(patches)
                assert fast.patch_distance[image, layer, head] == pytest.approx(patch, abs=1e-10)
                if vit.has_cls:
                    cls = reference.distance(z[0], z_pruned[0])
                    assert fast.cls_distance[image, layer, head] == pytest.approx(cls, abs=1e-10)
                if vit.num_classes:
                    p, p_pruned = plain.logits[image].softmax(0), slow.logits[image].softmax(0)
                    drop = (p - p_pruned)[target[image]]
                    assert fast.probability[image, layer, head] == pytest.approx(drop.item(), abs=1e-10)
                    jsd = reference.divergence(p, p_pruned)
                    assert fast.jsd[image, layer, head] == pytest.approx(jsd, abs=1e-10)
                    assert fast.pruned_probability[image, layer, head] == pytest.approx(
                        p_pruned[target[image]].item(), abs=1e-10
                    )
                    best = p_pruned.topk(5)
                    assert fast.top_class[image, layer, head].tolist() == best.indices.tolist()
                    assert_close(fast.top_probability[image, layer, head], best.values, rtol=0, atol=1e-10)


def test_what_a_model_does_not_have_is_left_out_and_not_made_up():
    vit = small_vit("map_pooled_no_classifier")
    result = importance(vit, base_pass(vit, some_pixels(vit)), None, chunk=4)
    assert result.probability is result.jsd is result.cls_distance is result.top_class is None
    assert result.patch_distance.shape == (2, vit.num_layers, vit.num_heads)
    assert importance(vit, base_pass(vit, some_pixels(vit)), None, chunk=4).patch_distance.isfinite().all()
    averaged = small_vit("average_pooled_with_class_token")
    result = importance(averaged, base_pass(averaged, some_pixels(averaged)), torch.tensor([0, 1]), chunk=4)
    assert result.cls_distance is None
    assert result.jsd is not None


@with_classifier
def test_metrics_stay_in_their_ranges(architecture):
    vit = small_vit(architecture)
    result = importance(vit, base_pass(vit, some_pixels(vit, 4)), torch.tensor([0, 1, 2, 3]), chunk=8)
    assert (result.probability.abs() <= 1).all()
    assert ((result.jsd >= 0) & (result.jsd <= 1)).all()
    assert ((result.patch_distance >= 0) & (result.patch_distance <= 2)).all()
    assert (result.jsd > 0).any()


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_the_chunk_changes_no_result(chunk):
    vit = small_vit("plain")
    base, target = base_pass(vit, some_pixels(vit, 3)), torch.tensor([0, 1, 2])
    whole = importance(vit, base, target, chunk=9)
    part = importance(vit, base, target, chunk=chunk)
    assert_close(part.probability, whole.probability, rtol=0, atol=1e-14)
    assert_close(part.jsd, whole.jsd, rtol=0, atol=1e-14)


def test_divergence_is_zero_for_equal_one_for_disjoint_and_in_bits():
    p, q = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon(p, q) == pytest.approx(1)
    half = torch.tensor([0.5, 0.5])
    assert jensen_shannon(half, torch.tensor([1.0, 0.0])) == pytest.approx(
        reference.divergence(half, torch.tensor([1.0, 0.0]))
    )


def test_a_zero_vector_is_at_distance_0_from_zero_and_1_from_anything_else():
    zero, one = torch.zeros(3), torch.tensor([1.0, 0.0, 0.0])
    assert cosine_distance(zero, zero) == 0
    assert cosine_distance(zero, one) == cosine_distance(one, zero) == 1
    assert cosine_distance(one, -one) == 2
    assert cosine_distance(one, 5 * one) == 0


def test_registers_count_neither_as_cls_nor_as_patches():
    vit = small_vit("registers_layerscale")
    z = torch.randn(1, vit.num_tokens, vit.embed_dim, dtype=torch.float64)
    moved = z.clone()
    moved[:, 1:5] *= -1
    distance = z_distances(vit, z, moved)
    assert distance.cls == pytest.approx(0)
    assert distance.patch == pytest.approx(0)
