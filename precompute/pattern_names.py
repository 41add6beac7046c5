"""What shape has a head's attention? A score for each pattern of the paper (Fig. 13, Sec. 6.3.1), and the name.

The paper names its 13 patterns by eye and gives no formula; these are ours. A score is a share of the attention as it
is: prefix tokens are dropped and rows are not renormalised. A head whose boundary patches attend to CLS (Fig. 14) has
next to nothing left in those rows, and renormalising would turn that into full rows of noise; and a head that gives
nine tenths to CLS should not be named after the rest. Uniform attention scores 0 in all patterns, on every grid.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analyses.vocabulary import CLS_PATTERNS, PATCH_PATTERNS
from precompute.content import Agreement
from precompute.unit import Arrays, Attrs, Part, Unit, side_by_side

# A name needs this score. On a 14×14 grid noise reaches 0.03 and attention that only blurs with distance 0.12; on
# DeiT-tiny's photos diagonals, columns and blocks are plain to the eye from about here.
THRESHOLD = 0.15
# CLS looks at few patches as far as some get more than this many times their even share: CLS rows of exponential
# noise then score 0.05.
FEW = 3
# Numbers in one block of heads, 1 MiB in float32: the dozen passes over it stay in the processor's cache.
BLOCK = 1 << 18
# Grids of which the tensors that follow from the grid alone are kept; a study has one.
GRIDS = 4


def patch_scores(attn: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far a head has each of `PATCH_PATTERNS`, 0 to 1, (…, pattern).

    0 where the grid has no room for a pattern. A matrix with a NaN has NaN in all scores.

    Args:
        attn: Attention between patches, (…, query, key), prefix tokens dropped, not renormalised.
        grid: Patches as (rows, columns).
    Raises:
        ValueError: attn is not between the patches of the grid.
    """
    patches = grid[0] * grid[1]
    if attn.shape[-2:] != (patches, patches):
        raise ValueError(
            f"attn is {tuple(attn.shape[-2:])} but a {grid[0]}×{grid[1]} grid has {patches} patches; "
            "drop the prefix tokens from attn first"
        )
    heads = attn.reshape(-1, patches, patches)
    blocks = heads.split(max(1, BLOCK // patches**2))
    scores = [torch.cat([_offset_scores(a, grid), _vertical(a), _block(a, grid)], dim=-1) for a in blocks]
    found = torch.cat(scores).clamp(0, 1)  # rounding may step over
    found[heads.sum(dim=(-2, -1)).isnan()] = torch.nan
    return found.reshape(*attn.shape[:-2], len(PATCH_PATTERNS))


def cls_scores(attn: Tensor, num_prefix_tokens: int) -> Tensor:
    """How far a head has each of `CLS_PATTERNS`, 0 to 1, (…, pattern), from the whole (…, query, key) with CLS at 0.

    CLS→CLS and patches→CLS are the attention to CLS, of itself and of the mean patch, above 1/tokens and stretched to
    end at 1. CLS→few patches is what patches get from CLS above three times their even share: of k equal targets among
    P patches, the share 1 − 3k/P. Registers and distillation tokens are neither CLS nor patches.
    """
    even = 1 / attn.shape[-1]
    to_cls = torch.stack([attn[..., 0, 0], attn[..., num_prefix_tokens:, 0].mean(dim=-1)], dim=-1)
    from_cls = attn[..., 0, num_prefix_tokens:]
    few = (from_cls - FEW * from_cls.mean(dim=-1, keepdim=True)).clamp(min=0).sum(dim=-1, keepdim=True)
    return torch.cat([(to_cls - even) / (1 - even), few], dim=-1).clamp(0, 1)


def names(scores: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Index of the highest score, int8 (…), from (…, pattern); −1 = mixed: none reaches the threshold, or one is NaN.

    Of equal scores the first is taken.
    """
    highest, index = scores.max(dim=-1)
    return torch.where(highest >= threshold, index, -1).to(torch.int8)


def _offset_scores(attn: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patterns A–K of (head, query, key): the attention that patches pay to those at fixed places, (head, 11).

    (Σ attn at the targets − what uniform attention would put there) / the most there can be, where a query spreads its
    own attention between patches uniformly, and only queries that have a target count.
    """
    on_grid = attn.unflatten(-1, grid).unflatten(-3, grid)  # (head, y, x, y of key, x of key)
    row = on_grid.diagonal(dim1=-4, dim2=-2).sum(dim=-1)  # within rows: (head, x, x of key)
    columns = {
        aside: on_grid.diagonal(offset=aside, dim1=-3, dim2=-1).sum(dim=-1)  # (head, y, y of key)
        for aside in (-1, 0, 1)
        if abs(aside) < grid[1]
    }
    beside = torch.stack(list(columns.values())).sum(dim=0)  # the same column and the next ones
    middle = [(grid[1] - 1) // 2] if grid[1] % 2 else []  # a patch there is its own mirror image
    mirrored = row.flip(-1).diagonal(dim1=-2, dim2=-1)
    masses = [
        _diagonal(row, 0),
        _diagonal(row, -1),
        _diagonal(row, 1),
        _diagonal(columns[0], -1),
        _diagonal(columns[0], 1),
        beside.tril(-2).sum(dim=(-2, -1)),
        beside.triu(2).sum(dim=(-2, -1)),
        mirrored.sum(dim=-1) - mirrored[..., middle].sum(dim=-1),
        row.tril(-2).sum(dim=(-2, -1)),
        row.triu(2).sum(dim=(-2, -1)),
    ]
    targets = _targets(grid).to(attn)  # (query, pattern)
    share = targets / len(targets)
    most = ((targets > 0) * (1 - share)).sum(dim=0)
    scores = (torch.stack(masses, dim=-1) - attn.sum(dim=-1) @ share).clamp(min=0) / most.clamp(min=math.ulp(1))
    above, below = scores[:, 5:6], scores[:, 6:7]
    both = 2 * torch.minimum(above, below)  # the part that the two sides have in common
    return torch.cat([scores[:, :7], both, scores[:, 7:]], dim=-1)


def _diagonal(square: Tensor, offset: int) -> Tensor:
    """Sum of a diagonal of (…, from, to); 0 if the square is too small for it."""
    if abs(offset) >= square.shape[-1]:
        return torch.zeros_like(square[..., 0, 0])
    return square.diagonal(offset=offset, dim1=-2, dim2=-1).sum(dim=-1)


@lru_cache(maxsize=GRIDS)
def _targets(grid: tuple[int, int]) -> Tensor:
    """How many targets each patch has, (query, pattern), of A–G and I–K."""
    rows, columns = grid
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    left, right, above, below = x, columns - 1 - x, y, rows - 1 - y
    beside = 1 + (left > 0).long() + (right > 0).long()
    counts = [
        torch.ones_like(x),
        left.clamp(max=1),
        right.clamp(max=1),
        above.clamp(max=1),
        below.clamp(max=1),
        (above - 1).clamp(min=0) * beside,
        (below - 1).clamp(min=0) * beside,
        (left != right).long(),
        (left - 1).clamp(min=0),
        (right - 1).clamp(min=0),
    ]
    return torch.stack(counts, dim=-1)


def _vertical(attn: Tensor) -> Tensor:
    """Pattern L of (head, query, key): attention to the targets that all sources share, (head, 1).

    Σ max(min(attn, mean source) − even share, 0) / queries. All sources on the same k of P patches: 1 − k/P; one of B
    equal blocks each: 0, as the mean source then is even.
    """
    source = attn.mean(dim=-2, keepdim=True)  # (head, 1, key)
    shared = torch.minimum(attn, source) - source.mean(dim=-1, keepdim=True)
    return shared.clamp(min=0).sum(dim=-1).mean(dim=-1, keepdim=True)


def _block(attn: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pattern M of (head, query, key): mutual attention of patches that attend alike and lie apart, (head, 1).

    Mutual attention is √(attn · attnᵀ), 0 if one of the two does not look. A pair counts in full if it has twice what
    its distance and its patches' popularity explain, and nothing if it has no more than that: so a head that only
    blurs with distance has next to none. Likeness is the correlation of the two patches' √attn, if positive, each key's
    mean taken off: in a region with a border, patches see the same others.
    """
    root = attn.clamp(min=0).sqrt()
    mutual = root * root.mT
    source = attn.mean(dim=-2).clamp(min=0).sqrt()
    popular = source[:, :, None] * source[:, None, :]
    explained = torch.maximum(_mean_by_offset(mutual, grid), popular)
    own = F.normalize(root - root.mean(dim=-2, keepdim=True), dim=-1)
    likeness = (own @ own.mT).clamp(min=0) * _apart(grid).to(attn)
    pairs = torch.minimum(mutual, 2 * (mutual - explained).clamp(min=0)) * likeness
    return pairs.sum(dim=-1).mean(dim=-1, keepdim=True)


def _mean_by_offset(mutual: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each pair's mean over all pairs at the same offset (dy, dx), from symmetric (head, query, key).

    Fold lays each query's picture of its keys so that the query is in the centre; unfold takes the sums apart again.
    """
    canvas = (2 * grid[0] - 1, 2 * grid[1] - 1)
    by_offset = F.fold(mutual.flip(-1), canvas, grid) / _pairs_by_offset(grid).to(mutual)
    return F.unfold(by_offset, grid).flip(-1)


@lru_cache(maxsize=GRIDS)
def _pairs_by_offset(grid: tuple[int, int]) -> Tensor:
    """How many pairs of patches are at each offset, on the canvas of `_mean_by_offset`: (1, 1, dy, dx)."""
    patches = grid[0] * grid[1]
    return F.fold(torch.ones(1, patches, patches), (2 * grid[0] - 1, 2 * grid[1] - 1), grid)


@lru_cache(maxsize=GRIDS)
def _apart(grid: tuple[int, int]) -> Tensor:
    """Whether patches are neither the same nor next to each other, also diagonally, bool (query, key)."""
    rows, columns = grid
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    return torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs()) > 1


def of_unit(unit: Unit) -> Arrays:
    """Scores and names of some layers on some images, and the sums that content relevance is made of.

    Returns:
        pattern_score, float32 (image, layer, head, pattern), and pattern_name, int8 (image, layer, head); the same of
        cls_pattern; and for `join` the agreement of the images: its sum, float64 (layer, head, query, key), and images.
    """
    images, lead = list(unit.images), (len(unit.images), len(unit.layers), unit.heads)
    scores, cls_scored = torch.empty(*lead, len(PATCH_PATTERNS)), torch.empty(*lead, len(CLS_PATTERNS))
    agreements = [Agreement(unit.heads, unit.num_patches) for _ in unit.layers]
    for several in unit.layer_blocks():
        at = slice(several.start - unit.layers[0], several.stop - unit.layers[0])

        def see(number: int, at: slice = at, several: range = several) -> Tensor:
            """Score the heads of some layers on an image; returns their attention between patches, by layer."""
            attn = unit.attention(images[number], several)
            between = attn[..., unit.num_prefix_tokens :, unit.num_prefix_tokens :]
            scores[number, at] = patch_scores(between, unit.grid)
            if unit.has_cls:
                cls_scored[number, at] = cls_scores(attn, unit.num_prefix_tokens)
            return between

        for number, between in enumerate(side_by_side(see, range(len(images)))):
            for agreement, of_layer in zip(agreements[at], between, strict=True):
                agreement.add(of_layer)
            unit.progress(at.start * len(images) + (number + 1) * len(several), len(unit.layers) * len(images))
    arrays = {
        "pattern_score": scores.numpy(),
        "pattern_name": names(scores).numpy(),
        "agreement": np.stack([agreement.sums[0].numpy() for agreement in agreements]),
        "agreeing": np.stack([agreement.sums[1].numpy() for agreement in agreements]),
    }
    if unit.has_cls:
        arrays |= {"cls_pattern_score": cls_scored.numpy(), "cls_pattern_name": names(cls_scored).numpy()}
    return arrays


def join(unit: Unit, parts: Iterable[Part]) -> tuple[Arrays, Attrs]:
    """Scores and names of all layers on all images, the names of patterns, and each head's content relevance."""
    sizes = unit.study.sizes
    lead = (sizes["image"], sizes["layer"], sizes["head"])
    agreements = [Agreement(unit.heads, unit.num_patches) for _ in range(sizes["layer"])]
    kinds = {"pattern": PATCH_PATTERNS} | ({"cls_pattern": CLS_PATTERNS} if unit.has_cls else {})
    arrays: Arrays = {}
    for kind, patterns in kinds.items():
        arrays[kind] = np.array(patterns, dtype=object)
        arrays[f"{kind}_score"] = np.empty((*lead, len(patterns)), np.float32)
        arrays[f"{kind}_name"] = np.empty(lead, np.int8)
    for part in parts:
        where = (slice(part.images.start, part.images.stop), slice(part.layers.start, part.layers.stop))
        for kind in kinds:
            for name in (f"{kind}_score", f"{kind}_name"):
                arrays[name][where] = part.arrays[name]
        for at, layer in enumerate(part.layers):
            agreements[layer].merge(*(torch.from_numpy(part.arrays[name][at]) for name in ("agreement", "agreeing")))
    arrays["content_relevance"] = torch.stack([each.relevance() for each in agreements]).float().numpy()
    facts = {"threshold": THRESHOLD, "mixed": _share_of_mixed(arrays["pattern_name"])}
    facts |= {"cls_mixed": _share_of_mixed(arrays["cls_pattern_name"])} if unit.has_cls else {}
    return arrays, {"patterns": facts}


def _share_of_mixed(names: np.ndarray) -> float:
    return round(float((names < 0).mean()), 6)
