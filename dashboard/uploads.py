"""How does an archive of pictures come from a person's machine? In pieces, written down as they come, and never opened.

A worker unpacks it (workers/upload.py). An upload is its owner's: for all others but an admin there is none of that id.
"""

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from flask import Flask, Response, abort, jsonify, request, send_file
from werkzeug.exceptions import RequestEntityTooLarge

from analyses import registry
from dashboard import access
from dashboard.words import count, megabytes
from jobs import uploads
from jobs.client import Desk
from jobs.requests import UploadRequest
from jobs.uploads import Upload
from jobs.work import ENDED, Job, JobNotFoundError
from store import files, pictures
from store.settings import Settings

# A browser sends so much at a time: servers and proxies that keep a request until it is whole keep no more.
PIECE = 8 << 20
MOST_BODY = PIECE + (64 << 10)  # of any request
CHUNK = 256 << 10  # in memory at a time
MOST_UNFINISHED, MOST_UPLOADS = 4, 100  # of one person
STALE_SECONDS = 3600.0  # after which an archive that does not come on is given up

GB = 1e9


def add_routes(server: Flask, settings: Settings, desk: Desk) -> None:
    """What is uploaded, one upload, its pieces, and what was refused of it."""
    sweep(settings, desk)

    @server.get("/uploads")
    def list_uploads() -> Response:
        access.need("analyst", "upload pictures")
        sweep(settings, desk)
        mine = [told(upload) for upload in visible(uploads.every(settings.uploads))]
        return jsonify(uploads=mine, piece=PIECE, limit_mb=settings.upload_limit_mb)

    @server.post("/uploads")
    def begin_upload() -> tuple[Response, int]:
        access.need("analyst", "upload pictures")
        sweep(settings, desk)
        upload = begin(settings, request.get_json())
        return jsonify(told(upload)), 201

    @server.get("/uploads/<upload_id>")
    def show_upload(upload_id: str) -> Response:
        return jsonify(followed(settings, desk, upload_id, request.args.get("job", "")))

    @server.put("/uploads/<upload_id>")
    def receive_upload(upload_id: str) -> Response:
        upload = _own(settings, upload_id)
        received = receive(upload, request.args.get("at", 0, type=int))
        job = None
        if received == upload.bytes:
            job = _submitted(desk, upload)
        return jsonify(received=received, job=job)

    @server.delete("/uploads/<upload_id>")
    def remove_upload(upload_id: str) -> tuple[str, int]:
        upload = _own(settings, upload_id)
        _refuse_needed(desk, upload)
        job = _jobs(desk).get(upload.id)
        if job is not None and job.state not in ENDED:
            desk.cancel(job.id, access.current().name)
        uploads.remove(upload)
        return "", 204

    @server.get("/uploads/<upload_id>/refused.json")
    def list_refused(upload_id: str) -> Response:
        upload = _own(settings, upload_id)
        if upload.contents is None:
            abort(404, "it is not unpacked yet")
        return send_file(upload.refused.absolute(), mimetype="application/json", as_attachment=True)


def visible(found: list[Upload]) -> list[Upload]:
    """Those that whoever asks may see."""
    user = access.current()
    return [upload for upload in found if upload.owner == user.name or user.may("admin")]


def announced(given: Any, example: str) -> tuple[str, int]:
    """Name and bytes of the file that a browser is about to send, or an answer that says how they are to be told.

    Args:
        given: From the browser.
        example: A name as such a file may have it.
    """
    name, size = (given.get("name"), given.get("bytes")) if isinstance(given, dict) else (None, None)
    if not isinstance(name, str) or isinstance(size, bool) or not isinstance(size, int) or size < 1:
        abort(400, f'say what comes, as {{"name": "{example}", "bytes": 1234}}')
    return name, size


def begin(settings: Settings, given: Any) -> Upload:
    """A new upload of whoever asks, or an answer that says which limit stands against it.

    Args:
        given: From the browser: the `name` of the archive, and how many `bytes` it has.
    """
    name, size = announced(given, "birds.zip")
    if size > settings.upload_limit_mb * 1_000_000:
        most = settings.upload_limit_mb
        abort(413, f"this archive has {size / 1e6:,.0f} MB, and {most:,} MB are allowed; send it in several parts")
    owner = access.current().name
    mine = [upload for upload in uploads.every(settings.uploads) if upload.owner == owner]
    unfinished = sum(upload.contents is None for upload in mine)
    if unfinished >= MOST_UNFINISHED:
        abort(429, f"{unfinished} of your uploads are not finished, and no more can be; wait for one, or stop one")
    if len(mine) >= MOST_UPLOADS:
        abort(429, f"you have {len(mine)} uploads, and {MOST_UPLOADS} are allowed; remove one first")
    name = name[:-4] if name.lower().endswith(".zip") else name
    try:  # written down before all are counted: of two at a time, neither overlooks the other
        upload = uploads.begin(settings.uploads, owner, name, size)
    except OSError as error:
        say_full(error)
    taken, quota = uploads.taken(settings.uploads, owner), settings.upload_quota_gb * GB
    if taken > quota:
        uploads.remove(upload)
        abort(
            429,
            f"with this archive your uploads would hold {taken / GB:,.2f} GB, and {quota / GB:,.2f} GB are allowed; "
            "remove one first",
        )
    return upload


def receive(upload: Upload, at: int) -> int:
    """Write down the body of the request as the archive's bytes from `at` on; how many there are then.

    What does not come whole is as if it had not come, and more than was said is refused.
    """
    if upload.contents is not None or upload.archive.exists():
        return upload.bytes
    # Of this request only: all others keep to the app's own, smaller limit. To read up to the limit is over it.
    request.max_content_length = max(0, upload.bytes - at) + 1
    try:
        with upload.part.open("ab") as part:
            size = _received(part, at, upload.bytes)
            if size == upload.bytes:
                upload.part.rename(upload.archive)
                files.sync_folder(upload.folder)
    except RequestEntityTooLarge:
        uploads.remove(upload)
        abort(413, f"more came than the {upload.bytes:,} bytes that were said; send it again")
    except FileNotFoundError:
        abort(404, "this upload was removed")
    except OSError as error:
        uploads.remove(upload)
        say_full(error)
    return size


def say_full(error: OSError) -> NoReturn:
    """Answer that the disk is full, if that is what the error says; else raise it."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    said = "the server's disk is full; ask whoever runs it to make room, and send it again"
    abort(Response(said, 507, mimetype="text/plain"))


def _received(part: BinaryIO, at: int, most: int) -> int:
    """Append the body, which is to begin at `at`; how many bytes there are then, `most` or fewer."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        abort(409, "another piece of this upload is coming just now")
    there = part.seek(0, os.SEEK_END)
    if there != at:
        abort(Response(f'{{"received":{there}}}', 409, mimetype="application/json"))
    try:
        while chunk := request.stream.read(CHUNK):
            part.write(chunk)
        part.flush()
        if part.tell() > most:
            raise RequestEntityTooLarge
        os.fsync(part.fileno())  # piece by piece: of a whole archive it takes a minute
        if request.content_length is not None and part.tell() < at + request.content_length:
            abort(400, "the piece broke off; send it again")  # some servers end the stream as if it were whole
    except BaseException:  # the browser is gone, the disk is full, or too much came
        part.truncate(at)
        raise
    return part.tell()


def _own(settings: Settings, upload_id: str) -> Upload:
    """The upload of that id, if whoever asks may have to do with it."""
    access.need("analyst", "upload pictures")
    found = uploads.find(settings.uploads, upload_id)
    if found is None or not visible([found]):
        abort(404, "there is no such upload")
    return found


def _submitted(desk: Desk, upload: Upload) -> str:
    """Id of the job that unpacks an archive."""
    try:
        return desk.submit(UploadRequest(upload.id, upload.name), upload.owner).job.id
    except ValueError as error:
        return abort(429, str(error))


def _refuse_needed(desk: Desk, upload: Upload) -> None:
    for job in desk.ledger.jobs(kinds=["study"]):
        if job.state not in ENDED and str(job.request.get("images", "")).startswith(str(upload.folder.absolute())):
            abort(409, f"the study {job.title} is being made of these pictures; wait for it, or cancel its job")


def _jobs(desk: Desk) -> dict[str, Job]:
    """The last jobs that unpack, by the upload that they do."""
    return {str(job.request.get("upload")): job for job in reversed(desk.ledger.jobs(kinds=["upload"]))}


def sweep(settings: Settings, desk: Desk) -> None:
    """Remove what will not become an upload any more: its job failed or was cancelled, or nothing comes."""
    root = settings.uploads
    if not root.is_dir():
        return
    uploads.remove_remains(root)
    unfinished = [upload for upload in uploads.every(root) if upload.contents is None]
    jobs = _jobs(desk) if unfinished else {}
    for upload in unfinished:
        job = jobs.get(upload.id)
        if job.state in ("failed", "cancelled") if job else _is_stale(upload):
            uploads.remove(upload)


def _is_stale(upload: Upload) -> bool:
    for file in (upload.archive, upload.part, upload.folder):
        try:
            return time.time() - file.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
    return False


# --- in words ---


def told(upload: Upload) -> dict[str, Any]:
    """An upload, for its owner's page."""
    ready = upload.contents is not None
    by = "" if upload.owner == access.current().name else f"of {upload.owner}"
    parts = [said(upload), by] if ready else [megabytes(upload.bytes), by, "not unpacked yet"]
    return {
        "id": upload.id,
        "name": upload.name,
        "said": ", ".join(part for part in parts if part),
        "refused": upload.contents.refused if upload.contents else 0,
        "ready": ready,
    }


def offer_line(upload: Upload) -> str:
    """What is said of an upload in the list of pictures."""
    pictures = upload.contents.pictures if upload.contents else 0
    day = time.strftime("%Y-%m-%d", time.localtime(upload.made))
    return f"{count(pictures, 'picture')} · of {upload.owner} · {day}"


def is_hidden(job: Job) -> bool:
    """Whether a job is of another's upload or picture, which whoever asks may not know of: its unpacking, a price of
    it, the private study of the picture, or what was asked of that.

    A study that was made of it is everybody's, as all studies are.
    """
    user = access.current()
    asked = job.kind in registry.on_request() and pictures.is_name(str(job.request.get("study")))
    private = job.kind == "image" or asked
    return (private or _is_of_upload(job)) and job.who != user.name and not user.may("admin")


def _is_of_upload(job: Job) -> bool:
    if job.kind != "price":
        return job.kind == "upload"
    priced = job.request.get("of")
    source = Path(str(priced.get("images", ""))) if isinstance(priced, dict) else Path()
    return uploads.UPLOAD_ID.fullmatch(source.parent.name) is not None


def job_of(desk: Desk, job_id: str) -> Job:
    """The job of that id.

    Raises:
        JobNotFoundError: There is none, or it is hidden.
    """
    job = desk.ledger.job(job_id)
    if is_hidden(job):
        raise JobNotFoundError(f"there is no job {job_id!r}")
    return job


def said(upload: Upload) -> str:
    """What is in an upload."""
    if upload.contents is None:
        return ""
    classes = f", {count(upload.contents.classes, 'class')}" if upload.contents.classes else ""
    return f"{count(upload.contents.pictures, 'picture')}{classes}, {megabytes(upload.contents.bytes)}"


def followed(settings: Settings, desk: Desk, upload_id: str, job_id: str) -> dict[str, Any]:
    """How far an upload is that has come whole.

    Returns:
        `state`: of its job, or "ready"; `said` and `share` for the person; what `told` tells, where it is there.
    """
    found = uploads.find(settings.uploads, upload_id)
    mine = found is not None and visible([found])
    if found is not None and mine and found.contents is not None:
        return told(found) | {"state": "ready", "share": 1}
    try:
        job = job_of(desk, job_id)
    except JobNotFoundError:
        job = None
    if job is None or job.request.get("upload") != upload_id:
        if not mine:
            abort(404, "there is no such upload")
        return {"state": "queued", "said": "waits to be unpacked", "share": 0}
    share = job.stage_done / job.stage_total if job.stage_total else 0
    words = {
        "queued": "waits for a worker" + (f": {count(job.place, 'job')} before it" if job.place else ""),
        "running": job.note or f"unpacked and looked at, {100 * share:.0f}\u202f%",
        "done": "it was removed",
    }
    return {"state": job.state, "said": words.get(job.state, job.cause or ""), "share": share}
