"""What does the function of an analysis work on? A unit: some images and layers of a study, and the model if it asks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from precompute.base import Base, base_pass
from precompute.model import ViT

Arrays = dict[str, np.ndarray]
Attrs = dict[str, Any]  # root attributes, in plain JSON


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

    def attention(self, image: int, layer: int) -> Tensor:
        """Attention of all heads of a layer on one image, float32 (head, query, key), prefix tokens included."""
        self.check()
        return torch.from_numpy(self.study.layer_attention(image, layer))

    def patch_attention(self, image: int, layer: int) -> Tensor:
        """`attention` between patches, (head, query, key), not renormalised."""
        patches = slice(self.num_prefix_tokens, None)
        return self.attention(image, layer)[..., patches, patches]


def gradients(wanted: bool) -> AbstractContextManager[Any]:
    """In which the function of an analysis runs: with gradients, or without."""
    return torch.enable_grad() if wanted else nullcontext() if not torch.is_grad_enabled() else torch.no_grad()
