"""The inputs of the pattern maps."""

import numpy as np
import pytest
import torch

from precompute.patterns import cls_vector, packed, top_mask, unpacked


@pytest.mark.parametrize("side", [3, 4, 14])
def test_the_mask_has_exactly_one_percent_rounded_up_also_when_all_values_are_equal(side):
    patches = side * side
    wanted = int(np.ceil(0.01 * patches**2))
    assert top_mask(torch.rand(2, 3, patches, patches)).sum(dim=(-2, -1)).unique().tolist() == [wanted]
    equal = top_mask(torch.full((patches, patches), 0.5))
    assert equal.flatten().nonzero().flatten().tolist() == list(range(wanted)), "ties go to the first"


def test_the_mask_is_a_stable_sort_of_each_matrix():
    attn = torch.randint(0, 6, (4, 16, 16)).float()
    order = attn.flatten(-2).sort(dim=-1, descending=True, stable=True).indices[..., :3]
    for mask, first in zip(top_mask(attn), order, strict=True):
        assert sorted(first.tolist()) == mask.flatten().nonzero().flatten().tolist()


def test_a_matrix_with_a_nan_has_no_ones_and_spoils_no_other():
    attn = torch.rand(2, 16, 16)
    attn[0, 3, 4] = torch.nan
    assert top_mask(attn).sum(dim=(-2, -1)).tolist() == [0, 3]


def test_packed_bits_are_numpys():
    mask = torch.rand(2, 7, 7) > 0.5
    expected = np.packbits(mask.flatten(-2).numpy(), axis=-1)
    assert np.array_equal(packed(mask).numpy(), expected)


def test_the_cls_vector_is_the_first_row_and_column_without_the_other_prefix_tokens():
    attn = torch.arange(36.0).reshape(6, 6)
    assert cls_vector(attn, num_prefix_tokens=2).tolist() == [0, 2, 3, 4, 5, 12, 18, 24, 30]
    assert len(cls_vector(torch.eye(10), num_prefix_tokens=1)) == 2 * 9 + 1


@pytest.mark.parametrize("patches", [5, 6, 64])
def test_unpacked_masks_are_those_that_were_packed(patches):
    mask = torch.rand(4, patches, patches) > 0.8
    assert np.array_equal(unpacked(packed(mask).numpy(), patches), mask)


def test_masks_of_another_number_of_patches_are_refused():
    with pytest.raises(ValueError, match=r"masks are \(2, 4\); masks of 64 patches are \(mask, 512\) bytes"):
        unpacked(np.zeros((2, 4), dtype=np.uint8), 64)
