"""What does a published Zarr group say? Each array as it was published, checked on the way: true, or an error."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.types import AnyArray

from analyses.arrays import ArraySpec
from store.errors import DamagedError, LeftOutError
from store.manifest import Manifest
from store.objects import PublishedStore, asked, fault

Array = npt.NDArray[Any]


class Group(ABC):
    """A published group, read-only: of a study, or of a result beside it. Safe to share between threads.

    It stands in for the path of its Zarr group wherever a path is taken: `xarray.open_zarr(group)`.

    Attributes:
        called: What messages call it, as "study demo".
        path: Folder of the Zarr group.
        manifest: What was published.
        attrs: The root attributes.
    """

    called: str

    def __init__(
        self, path: Path, manifest: Manifest, specs: Mapping[str, ArraySpec], metadata: bytes | None = None
    ) -> None:
        """The group at `path`.

        Args:
            specs: The rows of the arrays that it may have.
            metadata: Of its root, where that is not on the disk yet.
        """
        self.path = path
        self.manifest = manifest
        self._specs = specs
        self._store = PublishedStore(self.path, manifest.objects, metadata)
        self._group = self._guarded("the metadata", lambda: zarr.open_group(self._store, mode="r"))
        self.attrs: dict[str, Any] = dict(self._group.attrs)
        self._arrays: dict[str, AnyArray] = dict(self._group.arrays())

    def __fspath__(self) -> str:
        return str(self.path)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> AnyArray:
        """The Zarr array `name`, read-only. A failed checksum is Zarr's ValueError here, DamagedError in
        `read`.

        Raises:
            LeftOutError: The group has no such array, and says why.
            KeyError: The group has no such array.
        """
        if name in self._arrays:
            return self._arrays[name]
        self._refuse_left_out(name)
        raise KeyError(f"{name} is not in {self.called}, which has {', '.join(self.arrays)}")

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays, in the order of the table; then, sorted, those of other versions."""
        known = [name for name in self._specs if name in self._arrays]
        return [*known, *sorted(self._arrays.keys() - self._specs.keys())]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Size of every dimension that an array has."""
        return {
            dim: size
            for name in self.arrays
            for dim, size in zip(self.dims(name), self._arrays[name].shape, strict=True)
            if dim is not None
        }

    def dims(self, name: str) -> tuple[str | None, ...]:
        """Dimension names of an array, by its own metadata; None for a dimension that they do not name.

        Raises:
            LeftOutError, KeyError: As self[name].
        """
        array = self[name]
        return getattr(array.metadata, "dimension_names", None) or (None,) * array.ndim

    def read(self, name: str, *index: Any) -> Array:
        """`self[name][index]` in memory: the exact values that were published.

        Args:
            name: Of an array.
            index: A number, slice or list of numbers for each dimension, from the first; the rest is read
                whole.
        Raises:
            DamagedError: An object of the array is missing, short or changed; it names them.
            LeftOutError, KeyError: As self[name].
            IndexError: A number is outside its dimension; the message gives the range.
        """
        array = self[name]
        for dim, size, wanted in zip(self.dims(name), array.shape, index, strict=False):
            if isinstance(wanted, int | np.integer) and not -size <= wanted < size:
                raise self._outside(dim, int(wanted), size)
        if any(isinstance(wanted, list | np.ndarray) for wanted in index):
            return np.asarray(self._guarded(f"array {name}", lambda: array.oindex[index]))
        return np.asarray(self._guarded(f"array {name}", lambda: array[index or ...]))

    def _words(self, name: str) -> list[str]:
        return [str(word) for word in self.read(name)]

    def _refuse_left_out(self, name: str) -> None:
        reason = self.attrs.get("left_out", {}).get(name)
        if reason is not None:
            raise LeftOutError(f"{name} is not in {self.called}: {reason}")

    def _outside(self, dim: str | None, wanted: int, size: int) -> IndexError:
        return IndexError(f"{dim} {wanted} is not in {self.called}, which has {dim}s 0 to {size - 1}")

    def _where_it_went(self) -> str:
        """What became of the files, and what to do, where none of them is there any more."""
        return f"the files of {self.called} are gone: it was deleted or computed again; open it again"

    @abstractmethod
    def _next_step(self) -> str:
        """What to do about damage."""

    def _guarded(self, what: str, access: Callable[[], Any]) -> Any:
        """`access()`, with any failure that damage explains turned into DamagedError."""
        keys: list[str] = []
        token = asked.set(keys)
        try:
            return access()
        except Exception as error:  # zarr and codecs raise many kinds on damage; anything else goes on below
            faults = {key: fault(self.path / key, self.manifest.objects[key]) for key in dict.fromkeys(keys)}
            bad = {key: problem for key, problem in faults.items() if problem}
            if not bad:
                raise
            if not self.path.is_dir():
                raise DamagedError(self._where_it_went(), bad) from error
            listed = ", ".join(f"{key} is {problem}" for key, problem in bad.items())
            raise DamagedError(f"{what} of {self.called} is damaged: {listed}; {self._next_step()}", bad) from error
        finally:
            asked.reset(token)
