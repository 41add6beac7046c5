"""Which uploads are there, whose are they, and what do they hold? One folder each, below the data folder.

A folder gets its `upload.json` first and its `contents.json` last: with that, its pictures are there, whole.
"""

import json
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from store import files

UPLOAD_ID = re.compile(r"[0-9a-f]{24}")
MOST_NAME = 80  # characters
_GONE = ".gone-"  # how the name of a folder begins that is being removed


@dataclass(frozen=True)
class Contents:
    """What an upload became.

    Attributes:
        table: Name of its CSV of path,label,id.
        pictures, classes: How many; no classes in a flat archive.
        refused: How many are no pictures; `refused.json` has each with the reason.
        ignored: Files that are not called pictures.
        bytes: On the disk.
    """

    table: str
    pictures: int
    classes: int
    refused: int
    ignored: int
    bytes: int


@dataclass(frozen=True)
class Upload:
    """An archive that one person sent, or is sending.

    Attributes:
        name: Of the archive on that person's machine, without its suffix. Text, never a path.
        bytes: Of the archive.
        made: When, in seconds since 1970.
        contents: None while it is not unpacked.
    """

    id: str
    folder: Path
    owner: str
    name: str
    bytes: int
    made: float
    contents: Contents | None

    @property
    def part(self) -> Path:
        """What has come of the archive so far."""
        return self.folder / "archive.zip.part"

    @property
    def archive(self) -> Path:
        """The whole archive, until it is unpacked."""
        return self.folder / "archive.zip"

    @property
    def refused(self) -> Path:
        """The list of what is no picture."""
        return self.folder / "refused.json"

    @property
    def table(self) -> Path:
        """The CSV that a study of these pictures is made from.

        Raises:
            ValueError: It is not unpacked.
        """
        if self.contents is None:
            raise ValueError(f"upload {self.id} is not unpacked yet; wait for its job")
        return self.folder / self.contents.table


def begin(uploads: Path, owner: str, name: str, size: int) -> Upload:
    """A new upload, of which nothing has come yet.

    Raises:
        OSError: It cannot be written down; nothing is left of it.
    """
    upload_id = secrets.token_hex(12)
    folder = uploads / upload_id
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:MOST_NAME]).strip()
    upload = Upload(upload_id, folder, owner, name or "pictures", size, time.time(), None)
    said = {field: getattr(upload, field) for field in ("owner", "name", "bytes", "made")}
    try:
        files.make_folder(folder)
        files.put_now(folder / "upload.json", files.json_bytes(said))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return upload


def find(uploads: Path, upload_id: str) -> Upload | None:
    """The upload with that id, if there is one; whatever the id is, nothing outside `uploads` is looked at."""
    if UPLOAD_ID.fullmatch(upload_id) is None:
        return None
    folder = uploads / upload_id
    if folder.is_symlink():
        return None
    try:
        said = json.loads((folder / "upload.json").read_bytes())
        contents = _json(folder / "contents.json")
        return Upload(upload_id, folder, contents=None if contents is None else Contents(**contents), **said)
    except (OSError, ValueError, TypeError):  # none, or being made or removed just now
        return None


def every(uploads: Path) -> list[Upload]:
    """All uploads, the newest first."""
    try:
        names = [each.name for each in uploads.iterdir()]
    except OSError:
        return []
    found = [upload for name in names if (upload := find(uploads, name)) is not None]
    return sorted(found, key=lambda upload: (-upload.made, upload.id))


def publish(upload: Upload, contents: Contents) -> None:
    """Say that all pictures are in their place."""
    files.put_now(upload.folder / "contents.json", files.json_bytes(asdict(contents)))


def reserve(upload: Upload, size: int) -> None:
    """Have so many bytes counted as its owner's while it is unpacked."""
    files.put_now(upload.folder / "reserved.json", files.json_bytes(size))


def taken(uploads: Path, owner: str) -> int:
    """Bytes that the uploads of a person hold, or will when they are there."""
    return sum(_size(upload) for upload in every(uploads) if upload.owner == owner)


def remove(upload: Upload) -> None:
    """Remove an upload for good. Harmless twice."""
    gone = upload.folder.with_name(f"{_GONE}{upload.id}-{secrets.token_hex(4)}")
    try:
        upload.folder.rename(gone)  # at once: whoever is still at it finds nothing to go on with
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def remove_remains(uploads: Path) -> None:
    """Remove what a removal left that was killed."""
    for gone in uploads.glob(f"{_GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)


def _size(upload: Upload) -> int:
    if upload.contents is not None:
        return upload.contents.bytes
    try:
        return upload.bytes + int(_json(upload.folder / "reserved.json") or 0)
    except ValueError:
        return upload.bytes


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
