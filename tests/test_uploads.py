"""Uploads from the first byte to the folder that a study is made of: their limits, their privacy, and what is left."""

import errno
import io
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from dashboard import access
from dashboard import uploads as routes
from dashboard.accounts import Accounts, User
from dashboard.app import create_app
from dashboard.offers import Offers
from dashboard.views import new_study
from jobs import uploads
from jobs.client import Desk
from jobs.ledger import Ledger
from jobs.requests import StudyRequest, UploadRequest
from jobs.work import CancelledError
from store.errors import LostLeaseError
from store.settings import Settings
from tests.queue_help import a_port, wait_until
from tests.zips import Part, zipped
from workers import archives, decode
from workers import upload as doer
from workers.images import find_images
from workers.runner import Work, run_unit


def picture(kind="PNG", side=8, level=100):
    made = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(made, kind)
    return made.getvalue()


def of_size(width, height):
    """A PNG that claims a size."""
    head = b"IHDR" + struct.pack(">2L", width, height) + PNG[24:29]
    return PNG[:12] + head + struct.pack(">L", zlib.crc32(head)) + PNG[33:]


PNG, JPEG = picture(), picture("JPEG")
SET = zipped(
    Part(b"birds/wren/1.png", PNG),
    Part(b"birds/wren/<b>2.jpg", JPEG),
    Part("birds/=crow/é,1.PNG".encode(), JPEG),
    Part(b"birds/notes.txt", b"not a picture"),
    Part(b"__MACOSX/birds/wren/._1.png", b"\0"),
    Part(b"birds/.hidden.png", b"\0"),
)


class Lab:
    """A data folder with its page, a desk that no bell hears, and people; the tests are its workers."""

    def __init__(self, data: Path, **settings):
        self.settings = Settings(data=data, **settings)
        self.desk = Desk(self.settings)
        self.server = create_app(self.settings, self.desk).server
        self.user = User("ann", "analyst")

    @property
    def ledger(self) -> Ledger:
        return self.desk.ledger

    def ask(self, method, path, **options):
        # As waitress and gunicorn say it, which ends a stream that breaks off as if it were whole.
        options["environ_overrides"] = {"wsgi.input_terminated": True} | options.get("environ_overrides", {})
        return self.server.test_client().open(path, method=method, **options)

    def send(self, archive, name="birds.zip", piece=10_000_000):
        """The id of an upload that came whole, and of its job."""
        begun = self.ask("POST", "/uploads", json={"name": name, "bytes": len(archive)})
        assert begun.status_code == 201, begun.text
        path = f"/uploads/{begun.json['id']}"
        for at in range(0, len(archive), piece):
            answer = self.ask("PUT", f"{path}?at={at}", data=archive[at : at + piece])
            assert answer.status_code == 200, answer.text
        assert answer.json["received"] == len(archive)
        return begun.json["id"], answer.json["job"]

    def work(self, do=doer.do):
        """Do the unit that is next; the job afterwards."""
        lease = self.ledger.take("bulk", "w", "bell")
        assert lease is not None
        run_unit(self.settings, self.ledger, lease, doer=lambda kind: do)
        return self.ledger.job(lease.job)

    def left(self):
        """Every file and folder of uploads."""
        return sorted(str(each.relative_to(self.settings.uploads)) for each in self.settings.uploads.rglob("*"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No bells, and pictures are decoded here: a process for it takes a second to start."""
    monkeypatch.setattr(Desk, "ring", lambda *given: None)
    monkeypatch.setattr(doer, "scan", lambda entries, *, apart, **other: decode.scan(entries, **other))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    made = Lab(tmp_path / "data")
    monkeypatch.setattr(access, "current", lambda: made.user)
    return made


# --- from the archive to a study


def test_an_archive_becomes_a_set_of_pictures_with_its_classes_and_its_names(lab):
    upload_id, job = lab.send(SET, piece=100)
    assert lab.work().state == "done"
    found = uploads.find(lab.settings.uploads, upload_id)
    assert (found.contents.pictures, found.contents.classes, found.contents.ignored) == (3, 2, 3)
    images = find_images(found.table)
    assert [(each.id, each.label) for each in images.entries] == [
        ("=crow/é,1.PNG", "=crow"),
        ("wren/1.png", "wren"),
        ("wren/<b>2.jpg", "wren"),
    ]
    assert all(isinstance(each, decode.DecodedImage) for each in decode.scan(images.entries))
    assert StudyRequest("vit", found.table).study == "vit-birds"
    assert lab.ask("GET", f"/uploads/{upload_id}?job={job}").json["said"] == "3 pictures, 2 classes, 0.0 MB"


def test_what_is_on_the_disk_has_names_of_ours_by_what_the_bytes_are_and_the_archive_is_gone(lab):
    upload_id, _ = lab.send(SET)
    lab.work()
    names = [name.removeprefix(f"{upload_id}/") for name in lab.left() if name != upload_id]
    assert names == [
        "birds.csv",
        "contents.json",
        "images",
        "images/00000-000",
        "images/00000-000/000000.png",
        "images/00000-000/000001.jpg",
        "images/00001-000",
        "images/00001-000/000000.jpg",
        "refused.json",
        "reserved.json",
        "upload.json",
    ]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["1.png", "2.png"], ["1.png", "2.png"]),
        (["a/1.png", "a/2.png"], ["a/1.png", "a/2.png"]),  # one class
        (["a/b/1.png", "a/c/2.png"], ["b/1.png", "c/2.png"]),
        (["a/b/c/1.png", "a/b/d/2.png"], ["c/1.png", "d/2.png"]),
        (["a/1.png", "a/b/2.png"], ["1.png", "b/2.png"]),
        (["a/x/1.png", "b/x/1.png"], ["a/x/1.png", "b/x/1.png"]),
    ],
)
def test_folders_around_all_pictures_are_no_classes(names, ids, lab):
    upload_id, _ = lab.send(zipped(*(Part(name.encode(), PNG) for name in names)))
    lab.work()
    table = uploads.find(lab.settings.uploads, upload_id).table
    assert [each.id for each in find_images(table).entries] == ids


def test_a_broken_picture_is_listed_with_its_reason_and_the_rest_go_on(lab, monkeypatch):
    monkeypatch.setattr(doer, "scan", decode.scan)
    bad = {
        b"html.jpg": (b"<html><script>alert(1)</script>", "not an image (HTML text)"),
        b"eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file", "EPS or PostScript, which is not read"),
        b"svg.svg": (b"<svg onload='alert(1)'/>", "SVG, which is not read"),
        b"pdf.jpg": (b"%PDF-1.7", "PDF, which is not read"),
        b"zip.png": (zipped(Part()), "not an image (zip archive)"),
        b"empty.gif": (b"", "zero bytes"),
        b"cut.png": (PNG[:40], "truncated"),
        b"bomb.png": (of_size(20_000, 20_000), "400 megapixels; the limit is 50"),
    }
    good = [Part(b"%d.png" % n, PNG) for n in range(3)]
    upload_id, _ = lab.send(zipped(*good, *(Part(name, data) for name, (data, _) in bad.items())))
    job = lab.work()
    assert job.state == "done", job
    listed = lab.ask("GET", f"/uploads/{upload_id}/refused.json")
    assert "attachment" in listed.headers["Content-Disposition"]
    reasons = {each["image"].encode(): each["reason"] for each in listed.json}
    assert reasons.keys() == bad.keys()
    for name, (_, said) in bad.items():
        assert said in reasons[name], name
    found = uploads.find(lab.settings.uploads, upload_id)
    assert (found.contents.pictures, found.contents.refused) == (3, 8)
    # Nothing of them is kept, and the pictures that are kept fill what is counted.
    files = [each for each in (found.folder / "images").rglob("*") if each.is_file()]
    assert [each.read_bytes() for each in files] == [PNG] * 3
    assert found.contents.bytes == 3 * len(PNG)


def test_pictures_are_decoded_in_a_process_of_its_own_that_may_take_little(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(PNG)
    (entry,) = find_images(tmp_path).entries
    monkeypatch.setattr(decode, "_examine_limited", _tell_limits)
    (told,) = decode.scan([entry], apart=True)
    process, seconds, memory = json.loads(told.reason)
    assert process != os.getpid()
    assert decode.MOST_SECONDS <= seconds <= decode.MOST_SECONDS + 30
    assert decode.MOST_MEMORY <= memory < 3 * decode.MOST_MEMORY


def _tell_limits(entry):
    import resource

    decode._limit_seconds()
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    return decode.Quarantined(entry.id, json.dumps([os.getpid(), *limits])), None


def test_nothing_of_an_upload_is_ever_served_as_it_came(lab):
    upload_id, _ = lab.send(SET)
    for work in (lambda: None, lab.work):  # as an archive, and unpacked
        work()
        for path in (
            "archive.zip",
            "images/00000-000/000000.png",
            "birds.csv",
            "upload.json",
            "refused.json/../birds.csv",
        ):
            answer = lab.ask("GET", f"/uploads/{upload_id}/{path}")
            assert answer.mimetype == "text/html" or answer.status_code == 404  # the page itself, for any address
            assert not any(data in answer.data for data in (PNG, JPEG, b"=crow", b"owner"))


# --- what is refused as a whole


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (zipped(Part(b"../../evil.png", PNG)), "'../../evil.png' has an empty part, . or .. in its path"),
        (zipped(Part(b"a.png", PNG), Part(b"in.zip", b"")), "'in.zip' is an archive in the archive"),
        (zipped(Part(b"a.png", PNG), Part(b"b.png", PNG, crc=7)), "'b.png' is damaged in the archive"),
        (zipped(Part(b"a.txt", b"hello")), "has no pictures in it, but 1 other files, such as 'a.txt'"),
        (zipped(Part(b"a.png", b"hello")), "none of the 1 pictures in the archive can be read; the first, 'a.png'"),
        (b"hello", "this is no zip archive"),
    ],
)
def test_an_archive_that_is_refused_fails_as_the_persons_mistake_and_leaves_nothing(archive, said, lab, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    upload_id, job = lab.send(archive)
    ended = lab.work()
    assert (ended.state, ended.log) == ("failed", None)
    assert said in ended.cause
    assert lab.left() == []
    assert [each for each in sorted(tmp_path.rglob("*")) if each not in before and "headscope.db" not in each.name] == [
        lab.settings.uploads
    ]
    told = lab.ask("GET", f"/uploads/{upload_id}?job={job}").json
    assert (told["state"], told["said"]) == ("failed", ended.cause)


def test_what_unpacks_to_more_than_the_quota_is_refused_before_it_is_written(tmp_path):
    lab = Lab(tmp_path, upload_quota_gb=0.0001)  # 100 kB
    flat = picture("BMP", side=180)  # 97 kB, packed to a few
    lab.send(zipped(Part(b"a.bmp", flat, deflated=True, flags=0)))
    job = lab.work()
    assert "your uploads would hold" in job.cause or "times is allowed" in job.cause
    assert lab.left() == []


# --- limits of what is sent


def test_each_limit_is_named_when_it_stands_against_an_upload(tmp_path):
    lab = Lab(tmp_path, upload_limit_mb=1, upload_quota_gb=0.0015)
    asked = lambda size: lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": size})  # noqa: E731
    assert asked(1_000_001).status_code == 413
    assert "has 1 MB, and 1 MB are allowed" in asked(1_000_001).text
    assert asked(1_000_000).status_code == 201
    assert asked(600_000).status_code == 429
    assert "would hold 0.00 GB, and 0.00 GB are allowed" in asked(600_000).text
    for size in (100, 200, 300):
        assert asked(size).status_code == 201
    assert "4 of your uploads are not finished" in asked(1).text
    for body in ({}, [], {"name": "a"}, {"name": 3, "bytes": 9}, *({"name": "a", "bytes": n} for n in (True, 0, 1.5))):
        answer = lab.ask("POST", "/uploads", json=body)
        assert (answer.status_code, answer.text) == (400, 'say what comes, as {"name": "birds.zip", "bytes": 1234}')
    assert lab.ask("POST", "/uploads", data="name=a").status_code == 415


def test_more_bytes_than_were_said_are_refused_and_leave_nothing(lab):
    begun = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 1000}).json
    answer = lab.ask("PUT", f"/uploads/{begun['id']}", data=b"x" * 1001)
    assert (answer.status_code, answer.text) == (413, "more came than the 1,000 bytes that were said; send it again")
    assert lab.left() == []
    assert lab.ledger.jobs() == []


def test_a_piece_that_is_not_next_is_refused_and_says_which_is(lab):
    begun = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 1000}).json
    path = f"/uploads/{begun['id']}"
    assert lab.ask("PUT", f"{path}?at=0", data=b"x" * 400).json == {"received": 400, "job": None}
    for at in (0, 399, 401, 1000):
        answer = lab.ask("PUT", f"{path}?at={at}", data=b"x" * 10 if at < 1000 else b"")
        assert (answer.status_code, answer.json) == (409, {"received": 400})
    assert (lab.settings.uploads / begun["id"] / "archive.zip.part").stat().st_size == 400


def test_a_body_that_breaks_off_is_as_if_it_had_not_come(lab):
    begun = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 1_000_000}).json
    path = f"/uploads/{begun['id']}?at=0"
    said = {"CONTENT_LENGTH": "1000000"}
    cut = lab.ask("PUT", path, input_stream=io.BytesIO(b"x" * 500_000), environ_overrides=said)
    assert cut.status_code == 400
    assert (lab.settings.uploads / begun["id"] / "archive.zip.part").stat().st_size == 0
    assert lab.ask("PUT", path, data=b"x" * 1_000_000).json["received"] == 1_000_000


def test_a_disk_that_is_full_is_said_and_nothing_is_left(lab, monkeypatch):
    begun = lab.ask("POST", "/uploads", json={"name": "a.ZIP", "bytes": 1000}).json
    assert begun["name"] == "a"

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for method, path, sent in (
        ("PUT", f"/uploads/{begun['id']}", {"data": b"x"}),
        ("POST", "/uploads", {"json": {"name": "a", "bytes": 9}}),
    ):
        answer = lab.ask(method, path, **sent)
        assert (answer.status_code, answer.text[:26]) == (507, "the server's disk is full;")
    assert lab.left() == []


def test_other_requests_keep_their_small_limit(lab):
    large = lab.ask("POST", "/uploads", data=b" " * 2_000_000, content_type="application/json")
    assert large.status_code == 413
    assert lab.left() == []


# --- privacy


def test_another_person_finds_no_such_upload_and_an_admin_does(lab):
    ready, job = lab.send(SET)
    lab.work()
    coming = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 1000}).json["id"]
    requests = [
        (method, f"/uploads/{upload_id}{rest}")
        for upload_id in (ready, coming)
        for method, rest in (("GET", f"?job={job}"), ("PUT", "?at=0"), ("DELETE", ""), ("GET", "/refused.json"))
    ]
    offered = lambda: [name for name in new_study.sources(Offers(lab.settings)) if name.startswith("uploads/")]  # noqa: E731
    before = lab.left()
    lab.user = User("bob", "analyst")
    for method, path in requests:
        assert lab.ask(method, path, data=b"x").status_code == 404, (method, path)
    assert lab.ask("GET", "/uploads").json["uploads"] == []
    assert offered() == []
    assert lab.left() == before
    lab.user = User("ann", "analyst")
    assert offered() == [f"uploads/{ready}"]
    lab.user = User("root", "admin")
    assert offered() == [f"uploads/{ready}"]
    assert [each["said"] for each in lab.ask("GET", "/uploads").json["uploads"]] == [
        "0.0 MB, of ann, not unpacked yet",
        "3 pictures, 2 classes, 0.0 MB, of ann",
    ]
    assert lab.ask("DELETE", f"/uploads/{ready}").status_code == 204


def test_the_job_of_an_upload_is_its_owners_too(tmp_path):
    lab = Lab(tmp_path, trusted_header="X-User", secret="8f3a61c0d92be47715f08c6a2d94e3b1")
    accounts = Accounts(lab.settings.ledger_url)
    for name, role in (("ann", "analyst"), ("bob", "analyst"), ("root", "admin")):
        accounts.add(name, role, None)
    as_user = lambda name, *asked, **options: lab.ask(*asked, headers={"X-User": name}, **options)  # noqa: E731
    begun = as_user("ann", "POST", "/uploads", json={"name": "birds.zip", "bytes": len(SET)}).json
    assert as_user("bob", "PUT", f"/uploads/{begun['id']}", data=SET).status_code == 404
    job = as_user("ann", "PUT", f"/uploads/{begun['id']}", data=SET).json["job"]
    assert lab.ledger.job(job).who == "ann"
    marks, rows = {}, {}
    for name in ("ann", "bob", "root"):
        told = as_user(name, "GET", f"/jobs.json?shown=all&job={job}").json
        marks[name], rows[name] = told["watched"]["mark"], [row["title"] for row in told["rows"]]
    assert rows == {"ann": ["upload of birds"], "bob": [], "root": ["upload of birds"]}
    assert marks["bob"] == "gone" and "gone" not in (marks["ann"], marks["root"])
    assert as_user("bob", "GET", f"/uploads/{begun['id']}?job={job}").status_code == 404


def test_a_viewer_may_not_upload(lab):
    lab.user = User("eve", "viewer")
    answer = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 10})
    assert answer.status_code == 403
    assert "to upload pictures takes the role analyst" in answer.text


def test_an_id_that_is_none_is_not_found(lab):
    for upload_id in ("..", "%2e%2e", "0" * 24, "x", "A" * 24, "0" * 23 + "%00", "a" * 500):
        for method in ("GET", "PUT", "DELETE"):
            no = (400,) if "%00" in upload_id else (404, 405)
            assert lab.ask(method, f"/uploads/{upload_id}").status_code in no, (method, upload_id)


# --- removal


def test_its_owner_removes_an_upload_and_has_the_room_again(tmp_path):
    lab = Lab(tmp_path, upload_quota_gb=(len(SET) + len(PNG) + 2 * len(JPEG)) / 1e9)
    ready, _ = lab.send(SET)
    assert lab.work().state == "done"
    another = {"name": "a.zip", "bytes": len(SET) + 1}
    assert lab.ask("POST", "/uploads", json=another).status_code == 429
    assert lab.ask("DELETE", f"/uploads/{ready}").status_code == 204
    assert lab.left() == []
    assert lab.ask("POST", "/uploads", json=another).status_code == 201


def test_an_upload_that_a_study_is_being_made_of_stays(lab):
    upload_id, _ = lab.send(SET)
    lab.work()
    (table,) = new_study.sources(Offers(lab.settings)).values()
    study = lab.desk.submit(StudyRequest("vit", table), "ann").job
    kept = lab.ask("DELETE", f"/uploads/{upload_id}")
    assert kept.status_code == 409
    assert "the study vit-birds is being made of these pictures" in kept.text
    lab.desk.cancel(study.id, "ann")
    assert lab.ask("DELETE", f"/uploads/{upload_id}").status_code == 204


def test_removing_what_is_still_to_be_unpacked_cancels_its_job(lab):
    upload_id, job = lab.send(SET)
    assert lab.ask("DELETE", f"/uploads/{upload_id}").status_code == 204
    assert lab.ledger.job(job).state == "cancelled"
    assert lab.left() == []


def test_what_does_not_come_on_is_given_up(lab, monkeypatch):
    begun = lab.ask("POST", "/uploads", json={"name": "a.zip", "bytes": 1000}).json
    lab.ask("PUT", f"/uploads/{begun['id']}?at=0", data=b"x" * 10)
    lab.ask("GET", "/uploads")
    assert lab.left() != []
    hours_ago = time.time() - 2 * routes.STALE_SECONDS
    os.utime(lab.settings.uploads / begun["id"] / "archive.zip.part", (hours_ago, hours_ago))
    Lab(lab.settings.data)  # a server that is started anew
    assert lab.left() == []


def test_a_cancelled_job_leaves_nothing(lab):
    _, job = lab.send(SET)
    lab.desk.cancel(job, "ann")
    lab.ask("GET", "/uploads")
    assert lab.left() == []


# --- workers that die


def test_a_job_that_is_cancelled_while_it_unpacks_leaves_nothing(lab, monkeypatch):
    _, job = lab.send(SET)

    def scan_cancelled(entries, **options):
        lab.desk.cancel(job, "ann")
        time.sleep(1.5)  # until the heartbeat has seen it
        return decode.scan(entries, progress=options["progress"])

    monkeypatch.setattr(doer, "scan", scan_cancelled)
    assert lab.work().state == "cancelled"
    assert lab.left() == []


def test_what_its_owner_removes_while_it_is_unpacked_does_not_come_back(lab, monkeypatch):
    upload_id, _ = lab.send(SET)
    real = doer.chunks

    def removed(file, member):
        if member.name.endswith("<b>2.jpg"):
            assert lab.ask("DELETE", f"/uploads/{upload_id}").status_code == 204
        return real(file, member)

    monkeypatch.setattr(doer, "chunks", removed)
    assert lab.work().state == "cancelled"
    assert lab.left() == []


@pytest.mark.parametrize("stage", ["_placed", "_table"])
def test_a_worker_that_is_killed_leaves_the_archive_and_the_next_one_does_the_job(lab, stage, tmp_path):
    upload_id, job = lab.send(SET)
    lease = lab.ledger.take("bulk", "w", "bell")
    killed = (
        "import os, sys\n"
        "from jobs.ledger import Ledger\nfrom store.settings import Settings\nfrom jobs.work import Lease, Step\n"
        "from workers import upload\nfrom workers.runner import Work\n"
        f"real = upload.{stage}\n"
        "def die(*given):\n"
        "    made = real(*given)\n"
        "    next(made) if hasattr(made, '__next__') else None\n"
        "    os._exit(9)\n"
        f"upload.{stage} = die\n"
        f"settings = Settings(data={str(lab.settings.data)!r})\n"
        f"lease = {lease!r}\n"
        "if __name__ == '__main__':\n"
        "    upload.do(lease, Work(settings, Ledger(settings.ledger_url), lease))\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(killed)
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root}, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    folder = lab.settings.uploads / upload_id
    assert (folder / "archive.zip").exists()
    assert not (folder / "contents.json").exists()
    lab.ledger.lose(lease.fence, "its process died")
    assert lab.work().state == "done"
    assert lab.ledger.job(job).state == "done"
    assert find_images(uploads.find(lab.settings.uploads, upload_id).table).entries
    assert not [name for name in lab.left() if "attempt" in name or "archive" in name]


def test_a_job_that_is_done_again_after_its_end_finds_everything_there(lab):
    upload_id, _ = lab.send(SET)
    lab.work()
    before = lab.left()
    lab.desk.submit(UploadRequest(upload_id, "again"), "ann")
    assert lab.work().state == "done"
    assert lab.left() == before


def test_a_worker_that_lost_its_lease_publishes_nothing(lab):
    upload_id, _ = lab.send(SET)
    lease = lab.ledger.take("bulk", "w", "bell")
    lab.ledger.lose(lease.fence, "no heartbeat")
    with pytest.raises(LostLeaseError):
        doer.do(lease, Work(lab.settings, lab.ledger, lease))
    assert sorted(each.name for each in (lab.settings.uploads / upload_id).iterdir()) == [
        "archive.zip",
        "reserved.json",
        "upload.json",
    ]


def test_a_disk_that_is_full_keeps_the_archive_for_later(lab, monkeypatch):
    upload_id, _ = lab.send(SET)
    monkeypatch.setattr(doer.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    job = lab.work()
    assert job.state == "running"
    assert "disk full" in job.note
    assert (lab.settings.uploads / upload_id / "archive.zip").exists()


def test_a_cancelled_check_comes_out_of_the_doer(lab):
    lab.send(SET)
    lease = lab.ledger.take("bulk", "w", "bell")
    work = Work(lab.settings, lab.ledger, lease)
    work.stop(CancelledError("cancelled by ann"))
    with pytest.raises(CancelledError):
        doer.do(lease, work)
    assert lab.left() == []


# --- at full size


@pytest.mark.hostile
def test_forty_bad_pictures_among_two_thousand_are_listed_and_the_rest_are_as_they_were(lab, monkeypatch):
    monkeypatch.setattr(doer, "scan", decode.scan)
    draw = random.Random(0)
    good = {f"{n % 20}/{n:04d}.png": picture(level=n % 256, side=9 + n // 256) for n in range(2000)}
    kinds = [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>", zipped(Part()), JPEG[:-40], PNG[:50], bytes(99)]
    bad = {f"{n % 20}/bad {n}.png": kinds[n % len(kinds)] for n in range(40)}
    names = [*good, *bad]
    draw.shuffle(names)
    upload_id, _ = lab.send(zipped(*(Part(name.encode(), (good | bad)[name]) for name in names)))
    assert lab.work().state == "done"
    found = uploads.find(lab.settings.uploads, upload_id)
    assert {each["image"] for each in json.loads(found.refused.read_bytes())} == bad.keys()
    entries = find_images(found.table).entries
    assert {each.id: each.path.read_bytes() for each in entries} == good
    assert [each.id for each in entries] == sorted(good)
    assert all(each.label == each.id.split("/")[0] for each in entries)


@pytest.mark.hostile
def test_a_large_archive_costs_the_server_little_memory_and_others_little_time(tmp_path):
    port, size = a_port(), 400_000_000
    code = f"from dashboard.app import serve\nfrom store.settings import Settings\nserve(Settings(port={port}))"
    environment = os.environ | {"HEADSCOPE_DATA": str(tmp_path)}
    root = Path(__file__).parents[1]
    server = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=root)
    seconds, peak = [], []

    def ask(method, path, body=None):
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json"} if method == "POST" else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def others():
        while not over.is_set():
            began = time.perf_counter()
            assert ask("GET", "/jobs.json?shown=all")[0] == 200
            seconds.append(time.perf_counter() - began)
            peak.append(memory.memory_info().rss)
            time.sleep(0.02)

    try:
        wait_until(lambda: is_open(port), 60)
        memory = psutil.Process(server.pid)
        ask("GET", "/jobs.json?shown=all")
        before = memory.memory_info().rss
        over = threading.Event()
        other = threading.Thread(target=others)
        other.start()
        _, begun = ask("POST", "/uploads", json.dumps({"name": "large.zip", "bytes": size}))
        began = time.perf_counter()
        for at in range(0, size, routes.PIECE):
            piece = bytes(min(routes.PIECE, size - at))
            status, told = ask("PUT", f"/uploads/{begun['id']}?at={at}", piece)
            assert (status, told["received"]) == (200, at + len(piece))
        took = time.perf_counter() - began
        over.set()
        other.join()
        too_large = ask_raw(port, b"PUT /uploads/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n")
        assert b" 413 " in too_large
    finally:
        server.kill()
        server.wait()
    slow = sorted(seconds)[int(0.95 * len(seconds))]
    print(f"{size / took / 1e6:.0f} MB/s, +{(max(peak) - before) / 1e6:.0f} MB, others' p95 {1000 * slow:.0f} ms")  # noqa: T201
    assert max(peak) - before < 50_000_000
    assert slow < 0.5


def is_open(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ask_raw(port, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        return connection.recv(1000)


@pytest.mark.hostile
@pytest.mark.parametrize("kind", ["f.tif", "i.tif", "rgba.png", "rgba.webp", "cmyk.tif", "progressive.jpg"])
def test_the_largest_pictures_that_are_allowed_are_decoded_within_the_limits(tmp_path, kind):
    side = 7050  # 49.7 megapixels
    dtype = {"f.tif": "float32", "i.tif": "int32"}.get(kind, "uint8")
    channels = () if dtype != "uint8" else (4,) if kind.startswith("rgba") else (3,)
    made = Image.fromarray(np.full((side, side, *channels), 9, dtype))
    options = {"progressive": True} if kind.startswith("progressive") else {}
    (made.convert("CMYK") if kind.startswith("cmyk") else made).save(tmp_path / kind, **options)
    (found,) = decode.scan(find_images(tmp_path).entries, apart=True)
    assert isinstance(found, decode.DecodedImage), found


@pytest.mark.hostile
def test_files_of_a_gigabyte_that_are_no_pictures_are_listed_and_cost_one_of_them_at_a_time(lab, monkeypatch):
    monkeypatch.setattr(doer, "scan", decode.scan)
    monkeypatch.setattr(doer, "PROCESSES", 1)
    monkeypatch.setattr(archives, "MOST_RATIO", 1100)  # the most that deflate does
    size = 1_000_000_000
    upload_id, _ = lab.send(
        zipped(Part(b"a.png", PNG), *(Part(b"%d.jpg" % n, bytes(size), deflated=True) for n in (1, 2)))
    )
    peak, over = [], threading.Event()

    def watch():
        me = psutil.Process()
        while not over.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                peak.append(sum(each.memory_info().rss for each in (me, *me.children(recursive=True))))

    thread = threading.Thread(target=watch)
    thread.start()
    before = psutil.Process().memory_info().rss
    job = lab.work()
    over.set()
    thread.join()
    assert job.state == "done", job
    reasons = [each["reason"] for each in lab.ask("GET", f"/uploads/{upload_id}/refused.json").json]
    assert reasons == ["not an image (1000000000 NUL bytes)"] * 2
    assert max(peak) - before < 2.5 * size  # the file, and a copy without its NULs
    assert sum(each.stat().st_size for each in lab.settings.uploads.rglob("*") if each.is_file()) < 100_000
