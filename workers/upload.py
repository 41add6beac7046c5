"""What becomes of an archive that a person sent? Its pictures in a folder, each decoded once, and a table of them.

The pictures get names of ours; the archive's are text in the table, by which a study calls them. A killed worker leaves
the archive and what its successor removes; an archive that is refused leaves nothing.
"""

import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from jobs import uploads
from jobs.requests import UploadRequest, from_json
from jobs.uploads import Contents, Upload
from jobs.work import CancelledError, Lease
from store import files
from store.errors import DiskFullError
from workers.archives import ArchiveError, Member, chunks, directory, shown
from workers.decode import Quarantined, kind_of_bytes, scan
from workers.images import IMAGE_ID, READ_SUFFIXES, UNREAD_SUFFIXES, Entry
from workers.runner import MistakeError, Work

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}
PROCESSES = 4  # decode at once: each may take memory that strangers choose, up to decode.MOST_MEMORY
A_FOLDER = 1000  # pictures of one class: so many lie in a folder
MOST_TOLD = 20  # of what is refused, in the job's result


def do(lease: Lease, work: Work) -> None:
    """The one unit of an upload."""
    request = from_json(lease.kind, lease.request)
    assert isinstance(request, UploadRequest)
    upload = uploads.find(work.settings.uploads, request.upload)
    if upload is None:
        raise MistakeError(f"the upload {request.name!r} was removed; send it again")
    try:
        refused = unpack(upload, lease.fence, work) if upload.contents is None else []
        for packed in (upload.archive, upload.part):
            packed.unlink(missing_ok=True)
        told = [{"image": bad.id, "reason": bad.reason} for bad in refused[:MOST_TOLD]]
        work.finish(result={"upload": upload.id, "refused": told})
    except ArchiveError as error:
        uploads.remove(upload)
        raise MistakeError(str(error)) from error
    except CancelledError:
        uploads.remove(upload)
        raise


def unpack(upload: Upload, fence: int, work: Work) -> list[Quarantined]:
    """Unpack the archive of an upload and publish it; what is in it that is no picture.

    Args:
        fence: The lease's number: what is made under it has a folder of its own until it is whole.
    Raises:
        ArchiveError: The archive breaks a rule, or holds no picture, or more than its owner may have.
    """
    _remove_attempts(upload)
    attempt = upload.folder / f"attempt-{fence}"
    for each in (attempt, attempt / "images"):
        each.mkdir()
    try:
        with upload.archive.open("rb") as file:
            members = directory(file, int(work.settings.upload_quota_gb * 1e9))
            pictures = [member for member in members if _is_picture(member.name)]
            if not pictures:
                raise ArchiveError(_no_pictures(members))
            _refuse_too_much(upload, pictures, work)
            entries = list(_placed(file, pictures, attempt, work))
        kept, refused = _proved(entries, work)
        if not kept:
            first = refused[0]
            raise ArchiveError(
                f"none of the {len(refused):,} pictures in the archive can be read; the first, {shown(first.id)}: "
                f"{first.reason}"
            )
        table = f"{_slug(upload.name)}.csv"
        (attempt / table).write_bytes(_table(kept, attempt))
        size = sum(entry.path.stat().st_size for entry in kept)
        os.sync()  # thousands of small files: one flush for all
        work.hold()
        for name in ("images", table):
            (attempt / name).rename(upload.folder / name)
        listed = [{"image": bad.id, "reason": bad.reason} for bad in refused]
        files.put_now(upload.refused, files.json_bytes(listed))
        classes = len({entry.label for entry in kept} - {None})
        ignored = len(members) - len(pictures)
        uploads.publish(upload, Contents(table, len(kept), classes, len(refused), ignored, size))
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    return refused


def _remove_attempts(upload: Upload) -> None:
    """Remove what others left who did not come to the end."""
    for each in upload.folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.suffix == ".csv" or each.name.endswith(files.PARTIAL):
            each.unlink(missing_ok=True)


def _is_picture(name: str) -> bool:
    """Whether a file counts as a picture by its name, as in a folder."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in READ_SUFFIXES + UNREAD_SUFFIXES


def _no_pictures(members: Sequence[Member]) -> str:
    others = f", but {len(members):,} other files, such as {shown(members[0].name)}" if members else ""
    return (
        f"the archive has no pictures in it{others}; files ending in {' '.join(READ_SUFFIXES)} count. "
        "Zip a folder with one sub-folder a class, or a flat folder of pictures"
    )


def _refuse_too_much(upload: Upload, pictures: Sequence[Member], work: Work) -> None:
    """Refuse what does not fit into its owner's quota, or into the disk now."""
    size, quota = sum(member.size for member in pictures), work.settings.upload_quota_gb * 1e9
    uploads.reserve(upload, size)  # before the others are counted: of two at a time, neither overlooks the other
    total = uploads.taken(work.settings.uploads, upload.owner)
    if total > quota:
        raise ArchiveError(
            f"the archive unpacks to {size / 1e6:,.1f} MB of pictures; with it, your uploads would hold "
            f"{total / 1e9:,.2f} GB, and {quota / 1e9:,.2f} GB are allowed; remove another, or send fewer pictures"
        )
    free = shutil.disk_usage(upload.folder).free
    if size > free:
        raise DiskFullError(
            f"disk full: {size / 1e6:,.1f} MB needed to unpack, {free / 1e6:,.1f} MB free at {work.settings.uploads}"
        )


def _placed(file: BinaryIO, pictures: Sequence[Member], attempt: Path, work: Work) -> Iterator[Entry]:
    """The pictures as files: below a folder a class, named by number and by what their bytes are."""
    above = _common_folder([member.name for member in pictures])
    numbers: dict[str | None, tuple[int, int]] = {}  # of each label: its own, and how many it has
    left = sum(member.size for member in pictures)
    with files.told_when_full(attempt, lambda: left):
        for done, member in enumerate(pictures):
            work.check()
            work.progress(done, 2 * len(pictures), "pictures")
            name = member.name.removeprefix(above)
            label = name.split("/")[0].strip() or None if "/" in name else None
            group, number = numbers.get(label, (len(numbers), 0))
            numbers[label] = group, number + 1
            folder = attempt / "images" / f"{group:05d}-{number // A_FOLDER:03d}"
            folder.mkdir(exist_ok=True)  # not those above: whoever removed them meanwhile wants none
            path = folder / f"{number:06d}"
            head = b""
            with path.open("xb") as out:
                for chunk in chunks(file, member):
                    head = head or chunk[:16]
                    out.write(chunk)
                    work.check()
            left -= member.size
            yield Entry(name, path.rename(path.with_suffix(SUFFIXES.get(kind_of_bytes(head) or "", ""))), label)


def _common_folder(names: Sequence[str]) -> str:
    """The folders that all names begin with, below which there are others: they are no class."""
    above = ""
    while True:
        tops = {name.removeprefix(above).partition("/")[0] + "/" for name in names}
        deeper = above + next(iter(tops))
        inside = [name.removeprefix(deeper) for name in names]
        if len(tops) > 1 or not any("/" in name for name in inside):
            return above
        above = deeper


def _proved(entries: Sequence[Entry], work: Work) -> tuple[list[Entry], list[Quarantined]]:
    """The entries that decode, and the others, whose files are removed."""

    def told(done: int, total: int) -> None:
        work.progress(total + done, 2 * total, "pictures")
        work.check()

    kept, refused = [], []
    verdicts = scan(entries, progress=told, processes=min(PROCESSES, os.cpu_count() or 1), apart=True)
    for entry, verdict in zip(entries, verdicts, strict=True):
        if isinstance(verdict, Quarantined):
            entry.path.unlink()
            refused.append(verdict)
        else:
            kept.append(entry)
    return kept, refused


def _table(kept: Sequence[Entry], attempt: Path) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", IMAGE_ID])
    for entry in kept:
        writer.writerow([entry.path.relative_to(attempt).as_posix(), entry.label or "", entry.id])
    return text.getvalue().encode()


def _slug(name: str) -> str:
    """A name that a file may have, after which a study is called."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return "-".join(part for part in plain.split("-") if part)[:40].strip("-") or "pictures"
