"""How is an analysis cut into units of at most a minute, and in which order do those come?

The cut depends on the sizes of the study alone, so that a run that is resumed finds the pieces that it began.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analyses.analysis import Analysis
from workers.prepare import UNIT_SECONDS


@dataclass(frozen=True)
class Piece:
    """One unit of an analysis that is cut into several."""

    analysis: Analysis
    images: range
    layers: range
    of_layers: bool  # whether it is of some of the layers
    of_images: bool

    @property
    def name(self) -> str:
        """By which the ledger and people know it: "patterns: layer 3, images 0 to 99"."""
        parts = ([_words("layer", self.layers)] if self.of_layers else []) + (
            [_words("image", self.images)] if self.of_images else []
        )
        return f"{self.analysis.name}: {', '.join(parts)}"

    @property
    def key(self) -> str:
        """By which its files are known."""
        return f"{self.images.start}-{self.images.stop}.{self.layers.start}-{self.layers.stop}"


def _words(thing: str, numbers: range) -> str:
    several = f"{thing}s {numbers.start} to {numbers.stop - 1}"
    return several if len(numbers) > 1 else f"{thing} {numbers.start}"


def pieces_of(analysis: Analysis, sizes: Mapping[str, int]) -> list[Piece]:
    """The pieces of an analysis, in order; none if it is computed in one unit: it takes no minute, or cannot be cut."""
    wanted = math.ceil(analysis.seconds(sizes) / UNIT_SECONDS)
    if wanted <= 1 or not analysis.cut:
        return []
    of_layers = min(wanted, sizes["layer"]) if "layer" in analysis.cut else 1
    of_images = min(math.ceil(wanted / of_layers), sizes["image"]) if "image" in analysis.cut else 1
    if of_layers * of_images == 1:
        return []
    return [
        Piece(analysis, images, layers, of_layers > 1, of_images > 1)
        for layers in _blocks(sizes["layer"], of_layers)
        for images in _blocks(sizes["image"], of_images)
    ]


def _blocks(size: int, count: int) -> list[range]:
    """0 to size − 1 in about `count` blocks of one length."""
    step = math.ceil(size / count)
    return [range(start, min(start + step, size)) for start in range(0, size, step)]


def levels(analyses: Sequence[Analysis]) -> list[list[Analysis]]:
    """Analyses that can be computed side by side, level by level.

    What is cut comes as early as what it reads allows, so that many workers share it; what is one unit comes as late
    as those allow that read it, so that long ones are computed at the same time.
    """
    early = {each.name: 0 for each in analyses}
    for each in analyses:  # they are in an order in which each comes after what it reads
        for other in _read(each, analyses):
            early[each.name] = max(early[each.name], early[other.name] + 1)
    last = max(early.values(), default=0)
    late = dict.fromkeys(early, last)
    for each in reversed(analyses):
        for other in _read(each, analyses):
            late[other.name] = min(late[other.name], late[each.name] - 1)
    level = {each.name: (early if each.cut else late)[each.name] for each in analyses}
    return [[each for each in analyses if level[each.name] == number] for number in range(last + 1)]


def _read(analysis: Analysis, analyses: Sequence[Analysis]) -> list[Analysis]:
    """Those that it reads arrays of."""
    return [each for each in analyses if each is not analysis and set(each.arrays) & set(analysis.reads)]
