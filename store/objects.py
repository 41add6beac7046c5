"""How do Zarr's objects meet the disk? Written: each once, as it is made. Read: as the manifest says, or not."""

import asyncio
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore

from store.errors import DamagedError

METADATA = "zarr.json"
# Name of an object → its size in bytes and its SHA-256 in hexadecimal.
Objects = Mapping[str, tuple[int, str]]


def digest(data: bytes | memoryview) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hexadecimal."""
    return memoryview(data).nbytes, hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> tuple[int, str]:
    """`digest` of a file, in bounded memory."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


def fault(path: Path, expected: tuple[int, str]) -> str | None:
    """What is wrong with the file at `path`, of which size and SHA-256 are `expected`; None if nothing is."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != expected[0]:
        return f"{size} bytes long instead of {expected[0]}"
    return None if file_digest(path) == expected else "changed"


class WritingStore(MemoryStore):
    """Where Zarr makes objects: metadata stay in memory, and of everything only what is made is handed to `put`.

    Nothing is read from the disk, so nothing that a crash left there gets into what is written.

    Attributes:
        put: Takes name and bytes of each object but the root's metadata; returns its size and SHA-256.
        objects: What `put` returned, by name.
    """

    def __init__(self, put: Callable[[str, memoryview], tuple[int, str]]) -> None:
        super().__init__()
        self.put = put
        self.objects: dict[str, tuple[int, str]] = {}

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        if key.endswith(METADATA):
            await super().set(key, value, byte_range)
        if key != METADATA:
            self.objects[key] = await asyncio.to_thread(self.put, key, memoryview(value.as_buffer_like()))

    def know(self, metadata: Mapping[str, bytes]) -> None:
        """Have metadata in memory that are on the disk already, by name."""
        of_bytes = default_buffer_prototype().buffer.from_bytes
        self._store_dict.update({key: of_bytes(data) for key, data in metadata.items()})

    def forget(self, array: str) -> None:
        """Have no metadata of an array any more."""
        self._store_dict.pop(f"{array}/{METADATA}", None)


def root_metadata(arrays: Mapping[str, bytes], attrs: Mapping[str, Any]) -> bytes:
    """The metadata of a group with these attributes, and with that of its arrays, by their object's name, in it."""
    made = {key: default_buffer_prototype().buffer.from_bytes(data) for key, data in arrays.items()}
    store = MemoryStore(made)
    zarr.create_group(store, attributes=dict(attrs))
    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr 3; who does not know it reads each array's own.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store)
    return made[METADATA].to_bytes()


# Objects that the read of the current thread has asked for: zarr's own thread runs with the caller's context.
asked: ContextVar[list[str] | None] = ContextVar("asked", default=None)


class PublishedStore(LocalStore):
    """Serves what the manifest lists, in the size that it lists, and nothing else.

    Missing and short objects are DamagedError instead of Zarr's silent fill values. Metadata is compared with
    its SHA-256; in chunks, flipped bits are left to their crc32c.
    """

    def __init__(self, root: Path | str, objects: Objects, metadata: bytes | None = None) -> None:
        """Serve the group in folder `root`; with `metadata`, these are its root's, which is not on the disk yet."""
        super().__init__(root, read_only=True)
        self.objects = objects
        self._metadata = metadata

    def with_read_only(self, read_only: bool = False) -> Self:
        if not read_only:
            raise ValueError("a published study never changes; write a new attempt instead")
        return self

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [self.get_sync(key, prototype=prototype, byte_range=wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self.objects

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of `key`, or of a range of it; None if the manifest has no such object.

        Raises:
            DamagedError: The object is missing, is of another size, or is metadata of another content.
        """
        if key == METADATA and self._metadata is not None:
            data = self._metadata[slice(*_range(len(self._metadata), byte_range))]
            return (prototype or default_buffer_prototype()).buffer.from_bytes(data)
        if key not in self.objects:
            return None
        note = asked.get()
        if note is not None:
            note.append(key)
        data = _read(self.root / key, key, self.objects[key], byte_range)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)


def _read(path: Path, key: str, expected: tuple[int, str], byte_range: ByteRequest | None) -> bytes:
    size, sha256 = expected
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise damaged(key, "missing") from None
    try:
        found = os.fstat(handle).st_size
        if found != size:
            raise damaged(key, f"{found} bytes long instead of {size}")
        start, stop = _range(size, byte_range)
        data = os.pread(handle, stop - start, start)
    finally:
        os.close(handle)
    if len(data) != stop - start or (key.endswith(METADATA) and hashlib.sha256(data).hexdigest() != sha256):
        raise damaged(key, "changed")
    return data


def _range(size: int, byte_range: ByteRequest | None) -> tuple[int, int]:
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest(start, stop):
            return start, min(stop, size)
        case OffsetByteRequest(offset):
            return offset, size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
    raise TypeError(f"{byte_range} is not a byte range")


def damaged(key: str, what: str) -> DamagedError:
    """The error for one object."""
    return DamagedError(f"object {key} is {what}", [key])
