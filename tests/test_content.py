"""Content relevance and the AUC of the object, against pairs and loops written out in float64."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.testing import assert_close

from precompute.content import Agreement, object_auc, received

PATCHES = 2 * 5  # of a rectangular grid


def random_attention(*shape, seed=0, prefix=1, sharp=2.0):
    """Attention between patches, float64 (*shape, query, key), the prefix tokens dropped."""
    generator = torch.Generator().manual_seed(seed)
    tokens = PATCHES + prefix
    scores = sharp * torch.randn(*shape, tokens, tokens, generator=generator, dtype=torch.float64)
    return scores.softmax(dim=-1)[..., prefix:, prefix:]


def relevance(images):
    """Of one layer, from (image, head, query, key)."""
    agreement = Agreement(*images.shape[1:3])
    for attn in images:
        agreement.add(attn)
    return agreement.relevance()


def relevance_by_pairs(images):
    """One head's, from (image, query, key): 1 − mean of NumPy's correlation over every pair."""
    flat = images.flatten(1).numpy()
    return 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(flat, 2)])


# ---- content relevance


@pytest.mark.parametrize("fixed", [0.0, 0.5, 0.9])
def test_relevance_is_one_minus_the_mean_correlation_over_pairs(fixed):
    images = (1 - fixed) * random_attention(7, 3) + fixed * random_attention(1, 3, seed=1)
    wanted = [relevance_by_pairs(images[:, head]) for head in range(3)]
    assert_close(relevance(images), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10)


def test_the_same_attention_on_every_image_is_agnostic_whatever_its_scale():
    one = random_attention(1, 2)
    scales = torch.tensor([1.0, 0.5, 1e-3, 0.2], dtype=torch.float64)[:, None, None, None]
    assert_close(relevance(one * scales), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (relevance(one.expand(50, -1, -1, -1)) >= 0).all()


def test_unrelated_attention_is_relevant():
    images, numbers = 40, PATCHES**2
    pairs = images * (images - 1) / 2
    deviation = 1 / np.sqrt(numbers * pairs)  # of a mean of correlations that are 0 but for chance
    assert_close(relevance(random_attention(images, 4)), torch.ones(4).double(), rtol=0, atol=5 * deviation)


def test_two_opposed_images_reach_two():
    one = random_attention(1, 1)
    assert_close(relevance(torch.cat([one, one.max() - one])), torch.tensor([2.0]).double())


def test_the_order_of_the_images_changes_nothing():
    images = random_attention(30, 2) + random_attention(1, 2, seed=1)
    assert_close(relevance(images.flip(0)), relevance(images), rtol=0, atol=1e-12)


def test_the_number_of_images_moves_the_score_by_chance_only():
    # Half of the variance is the same on every image: correlation 1/2, among 4 images as among 200.
    generator = torch.Generator().manual_seed(0)
    fixed, own = (torch.randn(n, 1, 40, 40, generator=generator, dtype=torch.float64) for n in (1, 200))
    images = fixed + own
    assert relevance(images).item() == pytest.approx(0.5, abs=0.02)
    by_four = [relevance(images[i : i + 4]).item() for i in range(0, 200, 4)]
    assert np.mean(by_four) == pytest.approx(0.5, abs=0.02)


def test_one_image_of_strong_contrast_does_not_decide():
    alike, other = random_attention(1, 1).expand(9, -1, -1, -1), random_attention(1, 1, seed=5)
    unlike = 1 - np.corrcoef(alike[0].flatten(), other.flatten())[0, 1]
    for contrast in (1, 1000):  # one pair in five has the other image in it
        assert relevance(torch.cat([alike, contrast * other])).item() == pytest.approx(unlike / 5, abs=1e-12)


def test_images_of_constant_attention_are_not_counted():
    images = random_attention(6, 2)
    images[[1, 4], 0] = 1 / 11
    images[2, 0] = 0
    assert_close(relevance(images)[0], relevance(images[[0, 3, 5]])[0])
    assert_close(relevance(images)[1], relevance(images[:, 1:])[0])


def test_attention_that_differs_by_rounding_to_float16_only_counts_as_constant():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5, 1, PATCHES, PATCHES, generator=generator, dtype=torch.float64)
    for level in (1 / 197, 0.25 * (1 + 2**-11), 2**-12.5, 1.5 * 2**-24):
        rounded = (level * (1 + 1e-5 * noise)).half()
        assert rounded.unique().numel() <= 2
        assert relevance(rounded).isnan().all()
        three_levels = rounded.double()
        highest = rounded.max().double()
        three_levels[..., 0, 0] = highest + 1.1 * (highest * 2**-10).clamp(min=2**-24)
        assert relevance(three_levels).isfinite().all()


def test_fewer_than_two_counted_images_have_no_score():
    images = random_attention(3, 2)
    images[1:, 0] = 0.1
    images[0, 1, 2, 3] = torch.nan  # such an image is not counted either
    found = relevance(images)
    assert found[0].isnan() and found[1].isfinite()
    assert_close(found[1], relevance(images[1:, 1:])[0])
    assert relevance(random_attention(1, 50)).isnan().all()
    assert Agreement(2, PATCHES).relevance().isnan().all()


def test_the_callers_attention_is_left_as_it_was():
    images = random_attention(2, 1)
    before = images.clone()
    relevance(images)
    assert torch.equal(images, before)


def test_single_precision_attention_is_summed_in_double():
    images = random_attention(20, 2).float()
    assert_close(relevance(images), relevance(images.double()), rtol=0, atol=1e-12)


def test_attention_with_its_prefix_tokens_left_in_is_refused():
    with pytest.raises(ValueError, match="drop the prefix tokens"):
        Agreement(3, PATCHES).add(random_attention(3, prefix=0).new_zeros(3, PATCHES + 1, PATCHES + 1))


# ---- attention received


def test_received_is_the_mean_of_each_column():
    attn = torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.25, 0.25], [0.25, 0.25, 0.5]])
    assert_close(received(attn), torch.tensor([0.25, 0.25, 0.25], dtype=torch.float64))
    assert received(random_attention(2, 3)).shape == (2, 3, PATCHES)


def test_a_patch_that_looks_at_cls_adds_little_to_what_is_received():
    attn = torch.tensor([[1e-6, 0.0], [0.4, 0.6]], dtype=torch.float64)
    assert_close(received(attn), torch.tensor([0.2 + 5e-7, 0.3], dtype=torch.float64))


# ---- AUC of the object


def auc_by_loops(mass, share):
    """Every pair of an object pixel and a background pixel."""
    won = pairs = 0.0
    for i, j in itertools.product(range(len(mass)), repeat=2):
        weight = share[i] * (1 - share[j])
        won += weight * (1.0 if mass[i] > mass[j] else 0.5 if mass[i] == mass[j] else 0.0)
        pairs += weight
    return won / pairs


def masses_and_share(ties):
    """float64 (image, head, patch) and (patch,); shares in 256ths, as of 16 × 16 pixels, add up without rounding."""
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(3, 4, PATCHES, generator=generator, dtype=torch.float64)
    share = torch.randint(0, 257, (PATCHES,), generator=generator).double() / 256
    share[:3] = torch.tensor([0.0, 1.0, 1.0])
    return (mass * 3).floor() if ties else mass, share


@pytest.mark.parametrize("ties", [False, True])
def test_auc_equals_the_loop_over_all_pairs_exactly(ties):
    mass, share = masses_and_share(ties)
    wanted = [[auc_by_loops(m.tolist(), share.tolist()) for m in image] for image in mass]
    assert object_auc(mass, share).tolist() == wanted


@pytest.mark.parametrize("ties", [False, True])
def test_auc_equals_scikit_learns_with_the_shares_as_weights(ties):
    mass, share = masses_and_share(ties)
    truth = np.repeat([1, 0], PATCHES)
    weight = np.concatenate([share, 1 - share])
    for found, m in zip(object_auc(mass, share).flatten(), mass.flatten(0, -2), strict=True):
        assert found.item() == pytest.approx(roc_auc_score(truth, np.tile(m, 2), sample_weight=weight), abs=1e-12)


def test_attention_on_the_object_alone_scores_one_and_off_it_zero():
    share = torch.tensor([0.0, 1, 1, 0, 0])
    assert object_auc(share, share) == 1
    assert object_auc(-share, share) == 0
    assert object_auc(torch.full((5,), 0.2), share) == 0.5


def test_half_covered_patches_keep_the_best_score_below_one():
    # 1 + ½ object and 1 + ½ background; the half patch ties with itself: 1 − ½ · ¼ / 2.25.
    share = torch.tensor([1.0, 0.5, 0.0])
    assert object_auc(share, share).item() == pytest.approx(1 - 0.125 / 2.25)


def test_auc_depends_on_the_order_of_the_attention_alone():
    mass, share = masses_and_share(ties=False)
    assert torch.equal(object_auc((5 * mass).exp(), share), object_auc(mass, share))


def test_every_image_is_compared_with_its_own_mask():
    mass, share = masses_and_share(ties=True)
    shares = torch.stack([share, share.flip(0), share.roll(1)])
    one_by_one = torch.stack([object_auc(m, s) for m, s in zip(mass, shares, strict=True)])
    assert torch.equal(object_auc(mass, shares[:, None]), one_by_one)


def test_there_is_no_auc_without_an_object_a_background_a_mask_or_attention():
    mass, share = masses_and_share(ties=False)
    for shares in (torch.zeros(PATCHES), torch.ones(PATCHES), torch.full((PATCHES,), torch.nan)):
        assert object_auc(mass, shares).isnan().all()
    mass[1, 2, 3] = torch.nan
    assert object_auc(mass, share).isnan().nonzero().tolist() == [[1, 2]]


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="drop the prefix tokens"):
        object_auc(torch.rand(2, 11), torch.rand(10))
    with pytest.raises(ValueError, match="0 to 255; give the share"):
        object_auc(torch.rand(2), torch.tensor([0, 255.0]))
