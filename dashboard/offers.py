"""What can a person pick for a new study? Folders and files of the data folder, told by their names alone.

Nothing that comes from a browser becomes a path: it is looked up among what is offered here. No file is opened, and
no link is followed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jobs import uploads
from jobs.uploads import Upload
from store.settings import Settings

# Files that count as pictures by their names: all that workers.images has entries for.
PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mpo"),
    *(".avif", ".eps", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"),
)
TABLES = (".csv",)
CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
CLASS_LISTS = (".txt", ".json")

# ImageNet has 1,000 folders a split; listing 20,000 that are known takes a tenth of a second.
MOST_FOLDERS = 20_000
MOST_OFFERED = 1_000

ROOT = PurePosixPath()


@dataclass(frozen=True)
class Folder:
    """A folder of pictures.

    Attributes:
        name: Its path below the folder of images; "." is that folder itself.
        pictures: Below it, by their names.
        classes: Folders of its first level that have pictures; 0 in a flat folder.
    """

    name: str
    path: Path
    pictures: int
    classes: int


@dataclass(frozen=True)
class _Listing:
    """What one folder holds, as of its modification time."""

    stamp: int
    pictures: int
    files: tuple[str, ...]
    folders: tuple[str, ...]


class Offers:
    """What lies in the folders of images and of models now. Shared by all requests; it only lists names."""

    def __init__(self, settings: Settings) -> None:
        self.images, self.models = settings.images.absolute(), settings.models.absolute()
        self._uploads = settings.uploads.absolute()
        self._known: dict[Path, _Listing] = {}

    def folders(self) -> dict[str, Folder]:
        """Folders that make a set of pictures, by name.

        A folder with a sub-folder a class is one; its sub-folders are not, each being a class of it. The folder of
        images itself is one where pictures or classes lie in it.
        """
        found = list(self._walk(self.images))
        pictures = {at: listing.pictures for at, listing in found}
        inside: dict[PurePosixPath, list[PurePosixPath]] = {at: [] for at in pictures}
        for at, _ in reversed(found):  # the deepest first
            if pictures[at] and at != ROOT:
                pictures[at.parent] += pictures[at]
                inside[at.parent].append(at)
        offered = {}
        for at, listing in found:
            has_classes = any(not inside[each] for each in inside[at])
            is_class = not inside[at] and at.parent != ROOT and all(not inside[each] for each in inside[at.parent])
            if (listing.pictures or has_classes) and not is_class:
                offered[str(at)] = Folder(str(at), self.images / at, pictures[at], len(inside[at]))
        return dict(sorted(offered.items())[:MOST_OFFERED])

    def uploads(self) -> dict[str, Upload]:
        """What people sent and is unpacked, by name, the newest first. Everybody's: not everybody may see all."""
        return {f"uploads/{each.id}": each for each in uploads.every(self._uploads) if each.contents is not None}

    def tables(self) -> dict[str, Path]:
        """CSV files, by name: lists of pictures, or label maps."""
        return self._files(TABLES)

    def class_lists(self) -> dict[str, Path]:
        """Files that may hold class names, by name."""
        return self._files(CLASS_LISTS)

    def checkpoints(self) -> dict[str, Path]:
        """Files of weights, by name."""
        found = {str(at): self.models / at for at in self._files_below(self.models, CHECKPOINTS)}
        return dict(sorted(found.items())[:MOST_OFFERED])

    def _files(self, suffixes: tuple[str, ...]) -> dict[str, Path]:
        found = {
            f"{role}/{at}": root / at
            for role, root in (("images", self.images), ("models", self.models))
            for at in self._files_below(root, suffixes)
        }
        return dict(sorted(found.items())[:MOST_OFFERED])

    def _files_below(self, root: Path, suffixes: tuple[str, ...]) -> Iterator[PurePosixPath]:
        for at, listing in self._walk(root):
            yield from (at / name for name in listing.files if name.lower().endswith(suffixes))

    def _walk(self, root: Path) -> Iterator[tuple[PurePosixPath, _Listing]]:
        """Every folder from `root` on, each before those in it, and what it holds."""
        waiting = [ROOT]
        for _ in range(MOST_FOLDERS):
            if not waiting:
                return
            at = waiting.pop()
            listing = self._listed(root / at)
            yield at, listing
            waiting += [at / name for name in reversed(listing.folders)]

    def _listed(self, folder: Path) -> _Listing:
        try:
            stamp = folder.stat().st_mtime_ns
            known = self._known.get(folder)
            if known is None or known.stamp != stamp:
                known = self._known[folder] = _list(folder, stamp)
        except OSError:  # gone meanwhile, or closed to this user
            return _Listing(0, 0, (), ())
        return known


def _list(folder: Path, stamp: int) -> _Listing:
    pictures, files, folders = 0, [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not _is_text(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.name.lower().endswith(PICTURES):
                pictures += 1
            elif entry.is_file(follow_symlinks=False) and entry.name.lower().endswith(
                TABLES + CHECKPOINTS + CLASS_LISTS
            ):
                files.append(entry.name)
    return _Listing(stamp, pictures, tuple(sorted(files)), tuple(sorted(folders)))


def _is_text(name: str) -> bool:
    """Whether a file's name can be written in JSON: bytes that are no UTF-8 arrive as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
