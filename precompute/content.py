"""Does a head's attention depend on the picture, and does it follow the object?

Two numbers. Content relevance compares a head's patch attention between images: 0 where every image gets the same,
1 where one image's attention says nothing about another's. Object AUC compares attention with a mask of the object on
one image. Sec. 6.3.1 names both kinds of head, content-agnostic and content-relevant, but by eye only.

Decided here: two images are compared by Pearson's correlation of all their attention values. It does not change with
the scale, so an image that looks much at CLS, or that has sharp attention, counts as much as any other; a share of
variance would be decided by the few sharpest images, and the overlap of binarised matrices by which of many nearly
equal values happen to reach the strongest 1 %. The mean is over pairs of different images, so it does not depend on
how many images there are. Attention is never renormalised after the prefix tokens are dropped.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from precompute.unit import Arrays, Attrs, Part, Unit, side_by_side

# Two neighbouring float16 numbers differ by at most this share of the larger, or by this much below 2⁻¹⁴.
FLOAT16_STEP, FLOAT16_LEAST = 2.0**-10, 2.0**-24


class Agreement:
    """How alike the heads of one layer attend on different images, an image at a time.

    With c the matrix of an image, centred and of unit norm, the correlation of images i and j is c_i · c_j, and its
    mean over all pairs i ≠ j of m images is (‖Σ c‖² − m) / (m (m − 1)): one float64 matrix a head is all that is kept.
    """

    def __init__(self, num_heads: int, num_patches: int, device: torch.device | str = "cpu") -> None:
        self._sum = torch.zeros(num_heads, num_patches, num_patches, dtype=torch.float64, device=device)
        self._images = torch.zeros(num_heads, dtype=torch.int64, device=device)

    def add(self, attn: Tensor) -> None:
        """Take in one image.

        A head whose attention is constant up to float16's rounding (at most two neighbouring float16 numbers) has
        nothing to correlate on this image, and one with a NaN neither: the image is not counted for that head.

        Args:
            attn: Attention between patches, (head, query, key), prefix tokens dropped, not renormalised.
        Raises:
            ValueError: attn has other heads or patches than were announced.
        """
        if attn.shape != self._sum.shape:
            raise ValueError(
                f"attn is {tuple(attn.shape)} but this layer has (head, query, key) = {tuple(self._sum.shape)}; "
                "drop the prefix tokens, and add one image at a time"
            )
        highest, lowest = attn.amax(dim=(-2, -1)).double(), attn.amin(dim=(-2, -1)).double()
        rounding = (highest * FLOAT16_STEP).clamp(min=FLOAT16_LEAST)
        counted = (highest - lowest) > rounding  # never true of NaN
        centred = attn.double() - attn.mean(dim=(-2, -1), keepdim=True, dtype=torch.float64)
        centred /= torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
        self._sum += centred.where(counted[:, None, None], 0.0)
        self._images += counted

    @property
    def sums(self) -> tuple[Tensor, Tensor]:
        """What has been taken in: the sum of matrices, float64 (head, query, key), and the images, int64 (head,)."""
        return self._sum, self._images

    def merge(self, sum_: Tensor, images: Tensor) -> None:
        """Take in the `sums` of other images."""
        self._sum += sum_
        self._images += images

    def relevance(self) -> Tensor:
        """Content relevance of each head, float64 (head,): 1 − the mean correlation over all pairs of images.

        0: the same attention on every image, up to scale (content-agnostic). 1: unrelated between images
        (content-relevant). Up to 1 + 1/(m − 1) if the m images' attentions are opposed. NaN: fewer than two images
        were counted.
        """
        m = self._images.double()
        correlation = (self._sum.square().sum(dim=(-2, -1)) - m) / (m * (m - 1))
        return (1 - correlation).clamp(min=0).where(m >= 2, torch.nan)  # rounding alone goes below 0


def received(attn: Tensor) -> Tensor:
    """Attention that each patch receives: the mean over queries of its column, float64 (…, key).

    Rows are not renormalised: a patch that looks mostly at CLS has little to say about where patches look, and its
    small rest is not blown up.

    Args:
        attn: Attention between patches, (…, query, key), prefix tokens dropped.
    """
    return attn.mean(dim=-2, dtype=torch.float64)


def object_auc(mass: Tensor, share: Tensor) -> Tensor:
    """How well attention tells object from background: area under the ROC curve, float64 (…).

    The probability that a pixel of the object has more attention than one of the background, both drawn at random,
    ties counted half (Mann-Whitney). A pixel has the attention of its patch, so a patch that is object by a share s
    counts s as object and 1 − s as background, and ties with itself. 0.5: attention does not tell them apart.
    1: every patch of the object has more than every other, which only masks that follow the patches' edges can reach.
    Below 0.5: attention avoids the object. NaN: there is no object, or nothing else, or a NaN in mass or share.

    Args:
        mass: Attention paid to each patch, (…, patch), on any scale.
        share: Share of each patch that is object, (…, patch), 0 to 1; it is broadcast to mass.
    Raises:
        ValueError: The two differ in patches, or a share is outside 0 to 1.
    """
    if mass.shape[-1] != share.shape[-1]:
        raise ValueError(f"mass has {mass.shape[-1]} patches but share has {share.shape[-1]}; drop the prefix tokens")
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"share goes from {share.min():g} to {share.max():g}; give the share of each patch, 0 to 1")
    value, order = mass.double().sort(dim=-1)
    inside = share.to(value).expand_as(value).gather(-1, order)
    outside = torch.nn.functional.pad((1 - inside).cumsum(dim=-1), (1, 0))  # background among the k lowest patches
    lower, not_higher = torch.searchsorted(value, value), torch.searchsorted(value, value, right=True)
    beaten = (outside.gather(-1, lower) + outside.gather(-1, not_higher)) / 2
    auc = (inside * beaten).sum(dim=-1) / (inside.sum(dim=-1) * outside[..., -1])
    return auc.where(~value.isnan().any(dim=-1), torch.nan)


def of_unit(unit: Unit) -> Arrays:
    """How far each head follows the object on some images, float32 (image, layer, head); NaN without a mask.

    Beside object_auc and cls_object_auc, `object` itself: the share of each patch that is object, (image, patch).
    """
    images, layers = list(unit.images), unit.study.sizes["layer"]
    share = np.full((len(images), unit.num_patches), np.nan, np.float32) if unit.masks is None else unit.masks[images]
    patch_auc, cls_auc = np.full((2, len(images), layers, unit.heads), np.nan, dtype=np.float32)
    masked = np.flatnonzero(np.isfinite(share).all(axis=1))

    def see(number: int) -> None:
        """Score all heads on an image."""
        inside = torch.from_numpy(share[number])
        for several in unit.layer_blocks():
            attn = unit.attention(images[number], several)
            at, patches = slice(several.start, several.stop), slice(unit.num_prefix_tokens, None)
            patch_auc[number, at] = object_auc(received(attn[..., patches, patches]), inside)
            if unit.has_cls:
                cls_auc[number, at] = object_auc(attn[..., 0, patches], inside)

    for done, _ in enumerate(side_by_side(see, masked.tolist())):
        unit.progress(done + 1, len(masked))
    arrays = {"object": share, "object_auc": patch_auc}
    return arrays | ({"cls_object_auc": cls_auc} if unit.has_cls else {})


def join(unit: Unit, parts: Iterable[Part]) -> tuple[Arrays, Attrs]:
    """The arrays of all images, and what a map has that never looks at the picture."""
    pieces = [part.arrays for part in parts]
    arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return arrays, {"masks": {"centre_auc": centre_auc(arrays["object"], unit.grid)}}


def centre_auc(share: np.ndarray, grid: tuple[int, int]) -> float | None:
    """The mean AUC of what never looks at a picture: the nearer to the centre, the more. None without an object.

    Args:
        share: Share of each patch that is object, (image, patch); NaN rows are not counted.
    """
    share = share[np.isfinite(share).all(axis=1)]
    y, x = np.indices(grid) - (np.array(grid)[:, None, None] - 1) / 2  # halves are exact, so equal distances are ties
    nearness = np.broadcast_to(-(y**2 + x**2).ravel(), share.shape).copy()
    found = object_auc(torch.from_numpy(nearness), torch.from_numpy(share))
    found = found[~found.isnan()]
    return float(found.mean()) if len(found) else None
