"""Any heads, any regions, against whole forward passes in float64; and what each region cannot touch."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from analyses.vocabulary import MODES, Regions
from precompute.base import base_pass
from precompute.importance import importance
from precompute.pruning import prune, region_mask
from tests import reference
from tests.models import ARCHITECTURES, small_vit, some_pixels

WITH_CLS = ["plain", "distilled", "registers_layerscale", "rectangular", "qk_norm"]
PP, CC = Regions.PATCHES_PATCHES, Regions.CLS_CLS
SUBSETS = [Regions(bits) for bits in range(16)]


def check_against_forwards(vit, heads, regions):
    pixels = some_pixels(vit)
    plain = reference.forward(vit, pixels)
    fast = prune(vit, base_pass(vit, pixels), heads, regions)
    for variant, region in enumerate(regions):
        mask = region_mask(vit, region)
        slow = reference.forward(vit, pixels, dict.fromkeys(heads, mask))
        assert_close(fast.logits[variant], slow.logits, rtol=0, atol=1e-10)
        for image, layer in product(range(2), {layer for layer, _ in heads}):
            z, z_pruned = plain.z[layer][image], slow.z[layer][image]
            patches = range(vit.num_prefix_tokens, vit.num_tokens)
            patch = sum(reference.distance(z[p], z_pruned[p]) for p in patches) / len(patches)
            assert fast.distance[layer].patch[variant, image] == pytest.approx(patch, abs=1e-10)
            if vit.has_cls:
                cls = reference.distance(z[0], z_pruned[0])
                assert fast.distance[layer].cls[variant, image] == pytest.approx(cls, abs=1e-10)
        if vit.num_classes:
            jsd = reference.divergence(plain.logits[0].softmax(0), slow.logits[0].softmax(0))
            assert fast.jsd[variant, 0] == pytest.approx(jsd, abs=1e-10)


@pytest.mark.parametrize("architecture", WITH_CLS)
@pytest.mark.parametrize("layer", [0, 2])
def test_all_sixteen_subsets_of_one_head_equal_forwards_with_them_zeroed(architecture, layer):
    check_against_forwards(small_vit(architecture), [(layer, 1)], SUBSETS)


@pytest.mark.parametrize("architecture", WITH_CLS)
def test_a_set_of_heads_over_several_layers_equals_a_forward_with_all_of_them_zeroed(architecture):
    check_against_forwards(
        small_vit(architecture), [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1)], [Regions(each) for each in MODES]
    )


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in WITH_CLS and a != "rms_norm"])
def test_without_cls_the_patches_and_the_whole_head_can_still_be_pruned(architecture):
    check_against_forwards(small_vit(architecture), [(1, 0), (2, 2)], [PP, Regions.ALL])


@pytest.mark.parametrize("architecture", WITH_CLS)
def test_regions_leave_exactly_alone_what_they_do_not_reach(architecture):
    vit = small_vit(architecture)
    base = base_pass(vit, some_pixels(vit))
    last = vit.num_layers - 1
    for layer in range(vit.num_layers):
        pruned = prune(vit, base, [(layer, 0)], [Regions.NONE, PP, CC])
        assert torch.equal(pruned.logits[0], base.logits)
        assert (pruned.jsd[0] == 0).all()
        assert (pruned.distance[layer].cls[0] == 0).all()
        assert (pruned.distance[layer].patch[0] == 0).all()
        assert (pruned.distance[layer].cls[1] == 0).all(), "patches→patches never moves z of CLS"
        assert (pruned.distance[layer].patch[2] == 0).all(), "CLS→CLS never moves z of a patch"
    in_last = prune(vit, base, [(last, 0)], [Regions.NONE, PP, Regions.PATCHES_CLS])
    assert (in_last.jsd == 0).all(), "the head reads no patch of the last block"


def test_pruning_a_whole_head_is_its_importance():
    vit = small_vit("plain")
    base, target = base_pass(vit, some_pixels(vit)), torch.tensor([1, 2])
    table = importance(vit, base, target, chunk=6)
    for layer, head in product(range(vit.num_layers), range(vit.num_heads)):
        pruned = prune(vit, base, [(layer, head)], [Regions.ALL])
        assert_close(pruned.jsd[0], table.jsd[:, layer, head], rtol=0, atol=1e-12)
        assert_close(pruned.distance[layer].cls[0], table.cls_distance[:, layer, head], rtol=0, atol=1e-12)
        after = pruned.logits[0].softmax(-1)[torch.arange(2), target]
        assert_close(after, table.pruned_probability[:, layer, head], rtol=0, atol=1e-12)


def test_registers_go_only_with_the_whole_head():
    vit = small_vit("registers_layerscale")
    every_region = region_mask(vit, Regions.CLS_RELATED) | region_mask(vit, PP)
    assert not every_region[1:5].any()
    assert not every_region[:, 1:5].any()
    assert region_mask(vit, Regions.ALL).all()


def test_wrong_heads_and_undefined_regions_are_refused_with_what_would_be_right():
    vit = small_vit("plain")
    base = base_pass(vit, some_pixels(vit))
    with pytest.raises(ValueError, match="layers 0 to 2 and heads 0 to 2"):
        prune(vit, base, [(3, 0)], [Regions.ALL])
    with pytest.raises(ValueError, match="no heads given"):
        prune(vit, base, [], [Regions.ALL])
    averaged = small_vit("average_pooled")
    with pytest.raises(ValueError, match="no CLS that is read"):
        prune(averaged, base_pass(averaged, some_pixels(averaged)), [(0, 0)], [CC])
