"""Is a picture there more than once? Told by the SHA-256 of its file, and whether its copies have different labels."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A study's attributes name so many files, and so many images of each: all follow from its arrays.
MOST_FILES = 5
MOST_IMAGES = 5


def copies_of(ids: Sequence[str], sha256: Sequence[str], label: NDArray[np.int32]) -> dict[str, Any] | None:
    """Images that are the same file, counted, with a few examples, in plain JSON; None where there are none.

    Args:
        ids, sha256, label: Of each image; a label of −1 is unknown, and contradicts none.
    Returns:
        files: How many files are there more than once, under different ids.
        images: How many images these are.
        contradicting: How many of the files have two labels or more.
        examples: Ids of a few of them, a list a file, those with contradicting labels first.
    """
    groups = _groups(sha256)
    if not groups:
        return None
    odd = [each for each in groups if _contradicts(label, each)]
    first = [*odd, *(each for each in groups if not _contradicts(label, each))][:MOST_FILES]
    return {
        "files": len(groups),
        "images": sum(map(len, groups)),
        "contradicting": len(odd),
        "examples": [[ids[image] for image in group[:MOST_IMAGES]] for group in first],
    }


def counted_once(sha256: Sequence[str], label: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which images to count, (image,), so that each labelled picture counts once: one with two labels has no true
    class, and does not count."""
    count = label >= 0
    for group in _groups(sha256):
        labelled = [image for image in group if label[image] >= 0]
        count[labelled if _contradicts(label, group) else labelled[1:]] = False
    return count


def _groups(sha256: Sequence[str]) -> list[list[int]]:
    """Images with the same file, of each file that there are several of, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for image, content in enumerate(sha256):
        found[content].append(image)
    return [images for images in found.values() if len(images) > 1]


def _contradicts(label: NDArray[np.int32], group: Sequence[int]) -> bool:
    return len({int(label[image]) for image in group} - {-1}) > 1
