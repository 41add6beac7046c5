"""Which pictures does the person mean? A folder a class, a flat folder, or a CSV of `path,label`.

Only names are looked at here; `workers.decode` opens the files. Nothing outside the folder is ever listed.
"""

from __future__ import annotations

import csv
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

# By suffix a file becomes an entry; what is inside decides later, so a PNG named .jpg is fine.
READ_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mpo")
# A camera's raw files.
RAW_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
# Pictures too, but none that decode reads: they are entries, so that each is reported rather than overlooked.
UNREAD_SUFFIXES = (".avif", ".eps", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg", *RAW_SUFFIXES)

# The column of a CSV by which pictures are called, where their paths are not what people know them by.
IMAGE_ID = "image id"

NEXT_STEP = "give a folder with one sub-folder a class, a flat folder of pictures, or a CSV of path,label"

MISSING = "no such file"
SLASHES = "write / between folders rather than \\"


class ImageSourceError(ValueError):
    """What was given is not a set of pictures."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture that the person means."""

    id: str  # path relative to the folder, with forward slashes
    path: Path
    label: str | None  # None: unlabelled
    refused: str | None = None  # why the file must not be opened


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The pictures of one source."""

    source: Path  # the folder or the CSV, absolute
    entries: tuple[Entry, ...]  # sorted by id, code point by code point: img10 comes before img2
    ignored: tuple[str, ...]  # files and hidden folders that are not pictures, relative and sorted


def find_images(source: Path, per_class: int | None = None) -> ImageSet:
    """The pictures under the folder `source`, or those that the CSV `source` lists.

    In a folder, the label is the name of the first folder level, and a picture at the top has none. Hidden
    files and files without an image suffix are ignored. A symlink that leads out of the folder, a symlinked
    folder, a name that is not UTF-8 and anything but a regular file is an entry that is refused.

    Args:
        source: A folder, or a CSV with the header `path` or `path,label`; paths start at the CSV's folder. A column
            `image id` gives the pictures other ids than their paths.
        per_class: Keep only the first `per_class` entries of each label (and of those without one), in order
            of id. Refused and undecodable files use up places: the choice depends on names alone.
    Raises:
        ImageSourceError: There is no such source, it has no pictures, or the CSV cannot be understood.
    """
    if per_class is not None and per_class < 1:
        raise ImageSourceError(f"per_class is {per_class}; give 1 or more, or leave it out for all pictures")
    source = Path(os.path.abspath(source))  # noqa: PTH100 (resolve() would follow a link that the person named)
    ignored: list[str] = []
    if source.is_dir():
        entries = list(_in_folder(source, ignored))
        if not entries:
            raise ImageSourceError(_no_pictures(source, ignored))
    elif source.suffix.lower() == ".csv" and source.is_file():
        entries = list(_in_csv(source))
    elif source.exists():
        raise ImageSourceError(f"{source} is a file, but neither a folder nor a .csv; {NEXT_STEP}")
    else:
        raise ImageSourceError(f"there is no folder or CSV {source}; check the spelling, or {NEXT_STEP}")
    entries.sort(key=lambda entry: entry.id)
    if per_class is not None:
        entries = list(_first_of_each_class(entries, per_class))
    return ImageSet(source, tuple(entries), tuple(sorted(ignored)))


def fingerprint(pictures: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over the (id, sha256) pairs of a set, in any order. Labels are not in it."""
    digest = sha256()
    for name, content in sorted(pictures):
        digest.update(f"{name}\0{content}\n".encode())  # no file name has a NUL in it: no two sets read alike
    return digest.hexdigest()


def _in_folder(folder: Path, ignored: list[str]) -> Iterator[Entry]:
    """The pictures below `folder`; what is none is appended to `ignored`."""
    root = Path(os.path.realpath(folder))
    unreadable: list[OSError] = []
    for parent, names, files in os.walk(folder, onerror=unreadable.append):
        below = Path(parent).relative_to(folder)
        label = below.parts[0] if below.parts else None
        for name in names:
            if name.startswith("."):
                ignored.append(_identity(below / name) + "/")
            elif Path(parent, name).is_symlink():  # os.walk lists it and does not follow it
                why = "a symlink to a folder, which is not followed; copy the folder here"
                yield _entry(folder, below / name, label or name, why)
        names[:] = [name for name in names if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in READ_SUFFIXES + UNREAD_SUFFIXES:
                ignored.append(_identity(below / name))
            else:
                yield _entry(folder, below / name, label, _refusal(folder / below / name, root))
    for error in unreadable:
        if Path(error.filename) == folder:
            raise ImageSourceError(f"{folder} cannot be listed: {error.strerror}; let this user read it")
        below = Path(error.filename).relative_to(folder)
        yield _entry(folder, below, below.parts[0], f"a folder that cannot be listed: {error.strerror}")


def _in_csv(file: Path) -> Iterator[Entry]:
    """The pictures that `file` lists, wherever they lie inside its folder."""
    folder, root = file.parent, Path(os.path.realpath(file.parent))
    lines: dict[str, int] = {}  # id: the line that named it
    there = False
    for line, path, label, name in _rows(file):
        try:
            below = Path(os.path.normpath(folder / path)).relative_to(folder)
        except ValueError:
            raise ImageSourceError(
                f"line {line} of {file} names {path!r}, which is outside {folder}; "
                "write paths relative to the CSV's folder and keep the pictures inside it"
            ) from None
        refused = _refusal(folder / below, root)
        if refused == MISSING and "\\" in path:
            refused = f"{MISSING}; {SLASHES}"
        entry = _entry(folder, below, label, refused)
        entry = replace(entry, id=name) if name else entry
        if entry.id in lines:
            raise ImageSourceError(
                f"lines {lines[entry.id]} and {line} of {file} both name {entry.id!r}; keep one of them"
            )
        lines[entry.id] = line
        there = there or os.path.lexists(entry.path)
        yield entry
    if not lines:
        raise ImageSourceError(f"{file} has a header but lists no pictures; add a line `path,label` for each")
    if not there:
        raise ImageSourceError(
            f"none of the {len(lines)} pictures that {file} lists exists, such as {next(iter(lines))!r}; "
            + (f"{SLASHES}, and" if any("\\" in name for name in lines) else "write")
            + f" paths relative to {folder}"
        )


def _rows(file: Path) -> Iterator[tuple[int, str, str | None, str | None]]:
    """Line number, path, label and id of every row of a CSV."""
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="strict") as text:
            reader = csv.reader(text, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            if header.count("path") != 1 or header.count("label") > 1:
                raise ImageSourceError(
                    f"the first line of {file} is {','.join(header)[:80]!r}; it must be a header with one "
                    "column `path` and, if the pictures have labels, one column `label`, separated by commas"
                )
            path_at, label_at, id_at = (
                header.index(name) if name in header else None for name in ("path", "label", IMAGE_ID)
            )
            assert path_at is not None
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                path = row[path_at].strip() if len(row) == len(header) else ""
                if not path or "\0" in path:
                    raise ImageSourceError(
                        f"line {reader.line_num} of {file} is {','.join(row)[:80]!r}; it must have a path "
                        f"and {len(header)} fields, as the header has. Quote a field that has a comma in it"
                    )
                label = row[label_at].strip() if label_at is not None else ""
                name = row[id_at] if id_at is not None else ""
                yield reader.line_num, path, label or None, name or None
    except UnicodeDecodeError:
        raise ImageSourceError(f"{file} is not UTF-8 text; save it as CSV with UTF-8 encoding") from None
    except csv.Error as error:
        raise ImageSourceError(f"line {reader.line_num} of {file} is not CSV ({error}); save it again as CSV") from None
    except OSError as error:
        raise ImageSourceError(f"{file} cannot be read: {error.strerror}; let this user read it") from None


def _entry(folder: Path, below: Path, label: str | None, refused: str | None) -> Entry:
    try:
        below.as_posix().encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 arrive as lone surrogates, which no store can write
        refused = "its name is not valid UTF-8; rename it"
    label = None if label is None else _utf8(label)
    return Entry(_identity(below), folder / below, label, refused)


def _identity(below: Path) -> str:
    return _utf8(below.as_posix())


def _utf8(name: str) -> str:
    """`name`, with any byte that is not UTF-8 written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _refusal(path: Path, root: Path) -> str | None:
    """Why `path` must not be opened, or None. `root` is the set's folder without symlinks."""
    try:
        if not Path(os.path.realpath(path)).is_relative_to(root):
            return "a symlink that leads out of the folder; copy the picture here instead"
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
    except FileNotFoundError:
        return "a symlink to nothing" if path.is_symlink() else MISSING
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _first_of_each_class(entries: Iterable[Entry], number: int) -> Iterator[Entry]:
    seen: Counter[str | None] = Counter()
    for entry in entries:
        seen[entry.label] += 1
        if seen[entry.label] <= number:
            yield entry


def _no_pictures(folder: Path, ignored: list[str]) -> str:
    others = f", but other files: {', '.join(sorted(ignored)[:3])} ({len(ignored)} in all)" if ignored else ""
    suffixes = " ".join(READ_SUFFIXES)
    return f"{folder} has no pictures in it{others}. Files ending in {suffixes} count; {NEXT_STEP}"
