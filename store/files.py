"""How does a file reach the disk whole or not at all? By one function, which everything goes through."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.errors import DiskFullError

PARTIAL = ".partial"


def put(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to the disk, then rename it to `path`. The name is on the disk after `sync_folder`."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # Ctrl-C too: no half file stays
        partial.unlink(missing_ok=True)
        raise


def put_now(path: Path, data: bytes) -> None:
    """`put`, and the name flushed to the disk too."""
    put(path, data)
    sync_folder(path.parent)


def link(source: Path, path: Path) -> None:
    """Have the file `source` under the name `path` too; a copy of it where the file system has no hard links."""
    try:
        path.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
            raise
        put(path, source.read_bytes())


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk: a rename is kept through a power cut only after this."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, flushed to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def remove_partials(folder: Path) -> None:
    """Remove what a killed `put` left."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """`value` as JSON with sorted keys: equal values give equal bytes.

    Raises:
        ValueError: It holds what JSON has no word for: NaN, a NumPy number, a path.
    """
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(f"{error}; give plain numbers, text, lists and dicts") from error


@contextmanager
def told_when_full(folder: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn a full disk or quota into DiskFullError; `needed` gives the bytes that are still to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, DiskFullError):
            raise
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        raise DiskFullError(
            f"disk full: about {needed() / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free at {folder}; "
            "make room and run the same command again: finished units are kept"
        ) from error
