"""How does one picture that a person drops on the page become a private study beside the one that is open?

It comes in pieces as an archive does (dashboard/uploads.py); a worker makes the study (workers/image.py).
"""

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from flask import Flask, Response, abort, jsonify, request

from dashboard import access, uploads
from dashboard.data import Shelf
from dashboard.words import count, day_and_time
from jobs import sweep
from jobs import uploads as kept
from jobs.client import Desk
from jobs.requests import ImageRequest
from jobs.uploads import Upload
from jobs.work import ENDED, Job, JobNotFoundError
from store import pictures
from store.errors import StoreError
from store.settings import Settings
from store.study import Study

MOST_BYTES = 50_000_000  # of one picture
MOST_PICTURES = 10  # private studies of one person, and pictures that will be
ACT = "drop pictures"


def add_routes(server: Flask, settings: Settings, shelf: Shelf, desk: Desk) -> None:
    """A picture, its pieces, and how far its study is."""

    @server.post("/uploads/pictures")
    def begin_picture() -> tuple[Response, int]:
        access.need("analyst", ACT)
        sweep.sweep_uploads(settings, desk.ledger)
        upload = begin(settings, request.get_json())
        return jsonify(id=upload.id, piece=uploads.PIECE), 201

    @server.put("/uploads/pictures/<upload_id>")
    def receive_picture(upload_id: str) -> Response:
        upload = _own(settings, upload_id)
        study = beside(shelf, request.args.get("study", ""))
        received = uploads.receive(upload, request.args.get("at", 0, type=int))
        return jsonify(received=received, job=_submitted(desk, upload, study) if received == upload.bytes else None)

    @server.get("/uploads/pictures/<upload_id>")
    def follow_picture(upload_id: str) -> Response:
        return jsonify(followed(shelf, _job(desk, upload_id, request.args.get("job", ""))))

    @server.delete("/uploads/pictures/<upload_id>")
    def remove_picture(upload_id: str) -> tuple[str, int]:
        if not (job_id := request.args.get("job", "")):
            kept.remove(_own(settings, upload_id))  # what is still being sent has no job
            return "", 204
        job = _job(desk, upload_id, job_id)
        if job.state not in ENDED:
            desk.cancel(job.id, access.current().name)
        found = kept.find(settings.pictures, upload_id)  # its job may have removed it
        if found is not None and uploads.visible([found]):
            kept.remove(found)
        return "", 204


def begin(settings: Settings, given: Any) -> Upload:
    """A new picture of whoever asks, or an answer that says which limit stands against it.

    Args:
        given: From the browser: the `name` of the file, and how many `bytes` it has.
    """
    name, size = uploads.announced(given, "bird.jpg")
    if size > MOST_BYTES:
        abort(413, f"this picture has {size / 1e6:,.0f} MB, and {MOST_BYTES / 1e6:,.0f} MB are allowed")
    owner = access.current().name
    file = PurePosixPath(name.replace("\\", "/")).name
    try:  # written down before all are counted: of two at a time, neither overlooks the other
        upload = kept.begin(settings.pictures, owner, file or "picture", size)
    except OSError as error:
        uploads.say_full(error)
    if count_of(settings, owner) > MOST_PICTURES:
        kept.remove(upload)
        abort(429, f"you have {MOST_PICTURES} pictures, as many as are allowed; {_next_step(settings, owner)}")
    return upload


def count_of(settings: Settings, owner: str) -> int:
    """Private studies of a person that are there, and pictures of theirs that will become one."""
    there = sum(each.owner == owner for each in pictures.every(settings.studies).values())
    return there + sum(each.owner == owner for each in kept.every(settings.pictures))


def _next_step(settings: Settings, owner: str) -> str:
    ends = [each.until for each in pictures.every(settings.studies).values() if each.owner == owner]
    return f"the first of them goes on {day_and_time(min(ends))}" if ends else "wait until one is computed, or stop one"


def beside(shelf: Shelf, name: str) -> Study:
    """The study that a picture is to be beside: of a private one, the one that that is beside."""
    try:
        study = shelf.open(name)
        said = pictures.private(study.manifest)
        return study if said is None else shelf.open(said.of)
    except StoreError as error:
        return abort(404, str(error))


def _own(settings: Settings, upload_id: str) -> Upload:
    access.need("analyst", ACT)
    found = kept.find(settings.pictures, upload_id)
    if found is None or not uploads.visible([found]):
        abort(404, "there is no such picture")
    return found


def _submitted(desk: Desk, upload: Upload, study: Study) -> str:
    """Id of the job that makes the study of a picture."""
    try:
        asked = ImageRequest(study.name, study.manifest.content, upload.id, upload.name)
        return desk.submit(asked, upload.owner).job.id
    except ValueError as error:
        kept.remove(upload)
        return abort(429, str(error))


def _job(desk: Desk, upload_id: str, job_id: str) -> Job:
    access.need("analyst", ACT)
    try:
        job = uploads.job_of(desk, job_id)
    except JobNotFoundError:
        job = None
    if job is None or job.kind != "image" or job.request.get("upload") != upload_id:
        abort(404, "there is no such picture")
    return job


def followed(shelf: Shelf, job: Job) -> dict[str, Any]:
    """How far the study of a picture is.

    Returns:
        `state`: of its job; `said` and `share` for the person; once it is there, `search`, the address that opens it.
    """
    told: dict[str, Any] = {"state": job.state, "share": job.stage_done / job.stage_total if job.stage_total else 0}
    match job.state:
        case "queued":
            said = "waits for a worker" + (f", {count(job.place, 'job')} before it" if job.place else "")
        case "running":
            said = job.note or f"is computed: {job.counted or job.stage}"
        case "done":
            said = "is there"
            told |= {"share": 1, "search": _address(shelf, pictures.study_name(str(job.request["upload"])))}
        case _:
            said = job.cause or job.state
    return told | {"said": said}


def _address(shelf: Shelf, name: str) -> str:
    try:
        said = pictures.private(shelf.open(name).manifest)
    except StoreError as error:
        return abort(404, str(error))
    return f"?{urlencode({'study': name, 'image': said.image if said else ''}, quote_via=quote)}"
