"""How do Zarr's objects meet the disk? Written: flushed and noted. Read: as the manifest says, or not."""

import asyncio
import hashlib
import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.storage import LocalStore

from store import files
from store.errors import DamagedError

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


class WritingStore(LocalStore):
    """Notes size and SHA-256 of each object as it is written: the manifest needs no second reading."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.objects: dict[str, tuple[int, str]] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.put, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    def put(self, key: str, value: Buffer) -> None:
        """Write one object to the disk and note it."""
        path = self.root / key
        files.make_folder(path.parent)
        data = memoryview(value.as_buffer_like())
        files.put(path, data)
        self.objects[key] = digest(data)

    def remove(self, key: str) -> None:
        """Remove one object, if it is there: Zarr would read a torn one before it writes it anew."""
        (self.root / key).unlink(missing_ok=True)
        self.objects.pop(key, None)


# Objects that the read of the current thread has asked for: zarr's own thread runs with the caller's context.
asked: ContextVar[list[str] | None] = ContextVar("asked", default=None)


class PublishedStore(LocalStore):
    """Serves what the manifest lists, in the size that it lists, and nothing else.

    Missing and short objects are DamagedError instead of Zarr's silent fill values. Metadata is compared with
    its SHA-256; in chunks, flipped bits are left to their crc32c.
    """

    def __init__(self, root: Path | str, objects: Objects) -> None:
        super().__init__(root, read_only=True)
        self.objects = objects

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
    if len(data) != stop - start or (key.endswith("zarr.json") and hashlib.sha256(data).hexdigest() != sha256):
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
