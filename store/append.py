"""How does a study come to be that is another with one image more? By hard links, and by new files where it differs.

It is made in a folder of its own that no list of studies looks into, whole with its manifest, and then renamed.
"""

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from store import files, paths, schema
from store.errors import DamagedError
from store.manifest import Manifest
from store.objects import METADATA, WritingStore, digest, root_metadata
from store.schema import SCHEMA
from store.staging import nothing
from store.study import Study

Array = npt.NDArray[Any]


class Appended:
    """A study with all that `parent` has, and one image after its last.

    An object that the image does not touch is the parent's own file; arrays keep the parent's chunks, so of each array
    only its description and its last objects are new. Arrays of images that the table does not name are left out, as
    nobody can compute the image's part of them.
    """

    def __init__(self, parent: Study, folder: Path, check: Callable[[], None] = nothing) -> None:
        """Link all that the parent has.

        Args:
            folder: Where it is made; there is none yet, and it is below the folder of studies.
            check: Called often; it may raise, to stop.
        Raises:
            DamagedError: A file of the parent is gone.
            DiskFullError: There is no room, as any method may say.
        """
        self._parent = parent
        self._folder = folder
        self._path = paths.attempt_path(folder, 1)
        self._arrays = [name for name in parent.arrays if name in SCHEMA or "image" not in parent.dims(name)]
        objects = parent.manifest.objects.items()
        self._objects = {key: value for key, value in objects if key.partition("/")[0] in self._arrays}
        self._store = WritingStore(self._put)
        self._written: set[str] = set()
        with files.told_when_full(folder, lambda: 1_000_000):
            files.make_folder(self._path)
            for array in self._arrays:
                (self._path / array).mkdir()
            for key in self._objects:
                check()
                self._link(key)

    def write(self, arrays: Mapping[str, Array]) -> None:
        """The image's part of some arrays, by name, each with one image on its image axis.

        Raises:
            ValueError: One has another shape than the parent's images, or is not of images.
            DamagedError: The parent's own images in the same object cannot be read.
        """
        with files.told_when_full(self._folder, lambda: sum(array.nbytes for array in arrays.values())):
            for name, array in arrays.items():
                self._append(name, array)

    def shape_of_one(self, name: str) -> tuple[int, ...]:
        """The shape of one image's part of an array."""
        return tuple(1 if dim == "image" else size for dim, size in self._dim_sizes(name))

    def _dim_sizes(self, name: str) -> Iterator[tuple[str | None, int]]:
        return zip(self._parent.dims(name), self._parent[name].shape, strict=True)

    def so_far(self, attrs: Mapping[str, Any]) -> Study:
        """What is written, and what is of no image, to be read as a study."""
        root = self._root(attrs)
        return Study(self._folder, self._manifest(self._named() | {METADATA: digest(root)}), root)

    def publish(
        self, study: Path, attrs: Mapping[str, Any], run: Mapping[str, Any], hold: Callable[[], None] = nothing
    ) -> None:
        """Make it the study in folder `study`, in one step. One that is there already is left as it is.

        Args:
            attrs: Root attributes.
            run: As of `Attempt.publish`.
            hold: Called right before; it raises if somebody else makes the study now.
        Raises:
            ValueError: An array of images is not written.
        """
        if lacks := [name for name in self._arrays if self._is_of_images(name) and name not in self._written]:
            raise ValueError(f"{', '.join(lacks)} not written; write the image's part of each array")
        with files.told_when_full(self._folder, lambda: 1_000_000):
            root = self._root(attrs)
            files.put(self._path / METADATA, root)
            for folder in (*(self._path / name for name in self._arrays), self._path):
                files.sync_folder(folder)
            manifest = self._manifest(self._objects | {METADATA: digest(root)}, study.name, dict(run))
            files.put_now(paths.manifest_path(self._folder), manifest.to_bytes())
            hold()
            try:
                self._folder.rename(study)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            files.sync_folder(study.parent)

    def _link(self, key: str) -> None:
        try:
            files.link(self._parent.path / key, self._path / key)
        except FileNotFoundError:
            raise DamagedError(f"object {key} of study {self._parent.name} is missing", [key]) from None

    def _append(self, name: str, array: Array) -> None:
        if not self._is_of_images(name):
            raise ValueError(f"{name} is no array of images of study {self._parent.name}")
        known, axis, key = self._parent[name], self._parent.dims(name).index("image"), f"{name}/{METADATA}"
        images = known.shape[axis]
        one = self.shape_of_one(name)
        if array.shape != one:
            raise ValueError(f"{name} of one image is {array.shape}; it should be {one}")
        described = json.loads(self._described(key))
        described["shape"][axis] = images + 1
        text = json.dumps(described).encode()
        self._store.know({key: text})
        self._objects[key] = self._put(key, memoryview(text))
        step = (known.shards or known.chunks)[axis]
        first = images - images % step  # of the object that the image falls into
        before = (slice(None),) * axis
        if first < images:
            array = np.concatenate([self._parent.read(name, *before, slice(first, images)), array], axis=axis)
        made = zarr.open_array(self._store, path=name, mode="r+").with_config({"write_empty_chunks": True})
        made[(*before, slice(first, images + 1))] = array.astype(known.dtype, copy=False)
        self._written.add(name)
        self._objects |= self._store.objects

    def _described(self, key: str) -> bytes:
        text = (self._parent.path / key).read_bytes()
        if digest(text) != self._parent.manifest.objects[key]:
            raise DamagedError(f"object {key} of study {self._parent.name} is changed", [key])
        return text

    def _put(self, key: str, data: memoryview) -> tuple[int, str]:
        files.put(self._path / key, data)  # by a rename: the parent's file of that name stays as it is
        return digest(data)

    def _is_of_images(self, name: str) -> bool:
        return name in self._arrays and "image" in self._parent.dims(name)

    def _named(self) -> dict[str, tuple[int, str]]:
        """The objects of what is written, and of what is of no image."""
        there = {name for name in self._arrays if not self._is_of_images(name)} | self._written
        return {key: value for key, value in self._objects.items() if key.partition("/")[0] in there}

    def _root(self, attrs: Mapping[str, Any]) -> bytes:
        said = json.loads(files.json_bytes({**attrs, "headscope": {"schema": schema.VERSION}}))
        keys = [key for key in self._named() if key.endswith(METADATA)]
        return root_metadata({key: (self._path / key).read_bytes() for key in sorted(keys)}, said)

    def _manifest(
        self, objects: dict[str, tuple[int, str]], name: str = "", run: dict[str, Any] | None = None
    ) -> Manifest:
        facts = dict(run or {})
        headscope, packages = facts.pop("headscope", ""), facts.pop("packages", {})
        return Manifest(name, self._path.name, objects, headscope, packages, facts)
