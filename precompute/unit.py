"""What does the function of an analysis work on? A unit: images and layers of a study, and the model if it asks."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from precompute.base import Base, base_pass
from precompute.model import ViT

T = TypeVar("T")
Arrays = dict[str, np.ndarray]
Attrs = dict[str, Any]  # root attributes, in plain JSON

# Bytes of one block of images, unpacked: what is in memory at a time.
BLOCK_BYTES = 64_000_000
# Items of a thread, in `side_by_side`, that are under way at a time.
UNDER_WAY = 4


class Readable(Protocol):
    """What a unit reads: a study, as far as it is written. `store.study.Study` is one."""

    name: str
    attrs: dict[str, Any]

    @property
    def sizes(self) -> dict[str, int]: ...

    @property
    def metrics(self) -> list[str]: ...

    @property
    def vectors(self) -> list[str]: ...

    def __contains__(self, name: object) -> bool: ...

    def metric_index(self, metric: str) -> int: ...

    def read(self, name: str, *index: Any) -> np.ndarray: ...

    def layer_attention(self, image: int, layer: int) -> np.ndarray: ...

    def layers_attention(self, image: int, layers: range) -> np.ndarray: ...


def _no_model() -> ViT:
    raise RuntimeError("this unit has no model; say so in its analysis, with needs=('model',)")


def _nothing() -> None:
    """The check of a unit that nobody stops."""


@dataclass(frozen=True)
class Unit:
    """Some images and layers of a study, and what computing them needs.

    Attributes:
        study: Everything that is written so far.
        images, layers: Indices of those that are wanted; all of them, unless the analysis is cut.
        seed: Of everything that is drawn.
        device: Where to compute.
        open_model: Gives the model, in eval mode and float32, with gradients if the analysis needs "gradients".
        masks: Share of each patch that is object, float32 (image, patch) of all images, NaN rows without a mask.
        request: What a person asked for, of analyses that are computed on request.
        base_of: Gives the model's pass over some images of the study, as `base` does, if whoever calls keeps passes.
        release_memory: Called when memory ran out: whoever calls lets go of the passes that it keeps.
        progress: Called with what is done, of how much.
        check: Called often; it may raise, to stop.
    """

    study: Readable
    images: Sequence[int]
    layers: Sequence[int]
    seed: int
    device: torch.device
    open_model: Callable[[], ViT] = _no_model
    masks: np.ndarray | None = None
    request: Any = None
    base_of: Callable[[Sequence[int]], Base] | None = None
    release_memory: Callable[[], None] = _nothing
    progress: Callable[[int, int], None] = field(default=lambda done, of: None)
    check: Callable[[], None] = _nothing

    @property
    def heads(self) -> int:
        """Heads of a layer."""
        return self.study.sizes["head"]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        rows, columns = self.study.attrs["model"]["grid"]
        return rows, columns

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.study.attrs["model"]["num_prefix_tokens"])

    @property
    def has_cls(self) -> bool:
        """Whether the model reads a CLS token; it is the first token then."""
        return bool(self.study.attrs["model"]["has_cls"])

    def base(self, images: Sequence[int]) -> Base:
        """The model's pass over some images of the study with nothing changed; no contexts, no gradients."""
        if self.base_of is not None:
            return self.base_of(images)
        return base_pass(self.open_model(), torch.from_numpy(self.study.read("pixels", list(images))))

    def attention(self, image: int, layer: int | range) -> Tensor:
        """Attention of all heads of a layer on one image, float32 (head, query, key), prefix tokens included.

        Of a range of layers, (layer, head, query, key): faster, where the matrices are small.
        """
        self.check()
        if isinstance(layer, range):
            return torch.from_numpy(self.study.layers_attention(image, layer))
        return torch.from_numpy(self.study.layer_attention(image, layer))

    def layer_blocks(self) -> list[range]:
        """The unit's layers in blocks whose attention is read at once: what all threads hold of it stays small."""
        a_layer = 4 * self.heads * self.study.sizes["token"] ** 2 * UNDER_WAY * torch.get_num_threads()
        step = max(1, BLOCK_BYTES // a_layer)
        first, last = self.layers[0], self.layers[-1]
        return [range(start, min(start + step, last + 1)) for start in range(first, last + 1, step)]

    def blocks(self, name: str, bytes_a_head: int) -> Iterator[np.ndarray]:
        """All heads of the unit's images, (head of image, …), some images at a time.

        Args:
            bytes_a_head: What one head takes in memory while it is worked at.
        """
        step = max(1, BLOCK_BYTES // (self.study.sizes["layer"] * self.heads * bytes_a_head))
        for start in range(0, len(self.images), step):
            self.check()
            block = self.study.read(name, list(self.images[start : start + step]))
            yield block.reshape(-1, *block.shape[3:])


@dataclass(frozen=True)
class Part:
    """What one unit of an analysis gave that is cut into several.

    Attributes:
        images, layers: Of which it is.
        arrays: By name; besides the analysis' arrays, others that only its `join` reads.
    """

    images: range
    layers: range
    arrays: Arrays


def side_by_side(see: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """`see` of each item, in order, by as many threads as torch has; torch itself has one in each.

    Small operations leave most cores idle otherwise. Only some items are under way at a time.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            step = UNDER_WAY * threads
            for start in range(0, len(items), step):
                yield from pool.map(see, items[start : start + step])
    finally:
        torch.set_num_threads(threads)  # MKL has one number for all threads


@contextmanager
def gradients(wanted: bool, open_model: Callable[[], ViT]) -> Iterator[None]:
    """In which the function of an analysis runs: with gradients, to the model's weights too, or without any."""
    if not wanted:
        with torch.no_grad():
            yield
        return
    model = open_model().model.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        model.requires_grad_(False).zero_grad(set_to_none=True)  # others use the same model
