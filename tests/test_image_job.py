"""A picture that a person drops: computed as the study's own images were, private to that person, and gone in time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from urllib.parse import parse_qs

import numpy as np
import pytest

from analyses.pruning import PruneRequest
from dashboard import access
from dashboard import pictures as routes
from dashboard.accounts import Accounts, User
from dashboard.app import DRAWINGS, create_app
from dashboard.data import Shelf, facts
from dashboard.drawing import anew
from dashboard.selection import to_search
from dashboard.views import header, studies
from dashboard.writer import from_address
from jobs import sweep, uploads
from jobs.client import Desk
from jobs.requests import ImageRequest, StudyRequest, key_of, steps_of, to_json
from jobs.work import CancelledError, Lease
from precompute import autoencoder, maps
from precompute.demo.model import WEIGHTS
from store import pictures
from store.append import Appended
from store.errors import LostLeaseError, StudyNotFoundError
from store.manifest import verify
from store.schema import SCHEMA
from store.settings import Settings
from store.study import open_published
from tests.pictures import picture_folder
from tests.studies import write_tiny_study
from tests.test_prune_job import loud_checkpoint
from workers import decode
from workers import image as doer
from workers import study as pipeline
from workers.decode import DecodedImage, Quarantined
from workers.images import Entry
from workers.prepare import prepare
from workers.runner import MistakeError, run_unit

CLS, AVERAGED = "with-cls", "without-cls"


def decoded_here(entry):
    """As decode_apart, without a process for it, which takes seconds to start."""
    (scanned,) = decode.scan([entry])
    return scanned if isinstance(scanned, Quarantined) else (scanned, decode.load(scanned))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No bells, and pictures are decoded here."""
    monkeypatch.setattr(Desk, "ring", lambda *given: None)
    monkeypatch.setattr(decode, "decode_apart", decoded_here)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A data folder with a study of the small model, rebuilt, one of a model without CLS, stored; and the pictures."""
    base = tmp_path_factory.mktemp("dropped")
    settings = Settings(data=base / "data")
    folder = picture_folder(base / "pictures", each=5, size=64)
    with pytest.MonkeyPatch.context() as patch:  # quickly: neither how good a map is matters here nor an autoencoder
        patch.setattr(maps, "_trust", lambda *given: {})
        patch.setattr(autoencoder, "STEPS", 10)
        patch.setattr(autoencoder, "FEWEST_EPOCHS", 1)
        compute("headscope_demo", folder, settings, name=CLS, checkpoint=WEIGHTS, attention="rebuilt")
        loud = loud_checkpoint("test_vit2", settings.models / "test_vit2.safetensors")
        compute("test_vit2", folder, settings, name=AVERAGED, checkpoint=loud, image_size=(64, 64))
    return settings, folder


def compute(model, folder, settings, **options):
    request = StudyRequest(model, folder, no_labels=True, device="cpu", **options)
    pipeline.run(prepare(request, settings, lambda *step: None), lambda *step: None, lambda price: None, lambda: None)


class Work:
    """A unit's side of the ledger that remembers what it was told."""

    def __init__(self, settings):
        self.settings = settings
        self.steps = []
        self.result = None

    def check(self):
        pass

    hold = check

    def progress(self, done, total, counted=""):
        self.steps.append((done, total, counted))

    def finish(self, facts=None, result=None):
        self.result = result


def dropped(settings, file, study, owner="ann", name=None):
    """The request for the study of a picture that came whole."""
    upload = uploads.begin(settings.pictures, owner, name or file.name, file.stat().st_size)
    shutil.copy(file, upload.archive)
    content = open_published(settings.studies / study).manifest.content
    return ImageRequest(study, content, upload.id, upload.name)


def lease_of(request, fence=1):
    return Lease(fence, "job", "image", key_of(request), to_json(request), steps_of(request)[0], {})


def done(settings, request):
    work = Work(settings)
    doer.do(lease_of(request), work)
    return open_published(settings.studies / work.result["study"]), work


@pytest.mark.parametrize("name", [CLS, AVERAGED])
def test_of_a_picture_that_the_study_has_the_private_study_says_the_same_twice(lab, name):
    settings, folder = lab
    parent = open_published(settings.studies / name)
    index = 7
    made, work = done(settings, dropped(settings, folder / parent.image_ids[index], name))
    assert made.sizes["image"] == parent.sizes["image"] + 1
    assert made.image_ids == [*parent.image_ids, "2.png"]
    assert made.arrays == parent.arrays
    for array in made.arrays:
        axis = SCHEMA[array].image_axis
        known, now = parent.read(array), made.read(array)
        if axis is None:
            assert now.tolist() == known.tolist()
            continue
        old, new = np.split(now, [parent.sizes["image"]], axis)
        np.testing.assert_array_equal(old, known, array)
        if array != "image" and not array.endswith("layout"):  # its places are below
            new, same = np.asarray(new.take(0, axis)), np.asarray(known.take(index, axis))
            if new.dtype.kind == "f":
                np.testing.assert_allclose(new.astype(float), same.astype(float), atol=2e-5, rtol=2e-3, err_msg=array)
            else:
                np.testing.assert_array_equal(new, same, array)
    assert verify(made.path.parent) == []
    assert [step[2] for step in work.steps] == list(doer.STEPS)


@pytest.mark.parametrize("name", [CLS, AVERAGED])
def test_its_place_is_beside_the_same_picture(lab, name):
    settings, folder = lab
    parent = open_published(settings.studies / name)
    for index in (3, 12):
        made, _ = done(settings, dropped(settings, folder / parent.image_ids[index], name))
        for layout in (array for array in made.arrays if array.endswith("layout")):
            axis = SCHEMA[layout].image_axis
            places = np.moveaxis(parent.read(layout), axis, 0)
            known, now = places[index], np.moveaxis(made.read(layout), axis, 0)[-1]
            apart = np.linalg.norm(now - known, axis=-1)
            spread = np.linalg.norm(places - places.mean(axis=0), axis=-1).mean()
            assert apart.max() < 0.15 * spread, layout


def test_the_files_of_the_study_are_shared_and_its_own_stay_as_they_were(lab):
    settings, folder = lab
    before = open_published(settings.studies / CLS)
    bytes_before = {key: (before.path / key).read_bytes() for key in before.manifest.objects}
    made, _ = done(settings, dropped(settings, folder / "0/0.png", CLS))
    again = open_published(settings.studies / CLS)
    assert verify(settings.studies / CLS) == []
    assert {key: (again.path / key).read_bytes() for key in again.manifest.objects} == bytes_before
    same = [key for key, told in before.manifest.objects.items() if made.manifest.objects[key] == told]
    assert all((made.path / key).samefile(before.path / key) for key in same)
    assert {"autoencoder", "query_weight", "content_relevance", "residual"} <= {key.partition("/")[0] for key in same}
    assert len(same) > 0.6 * len(before.manifest.objects)


def test_of_a_partly_filled_shard_the_studys_images_come_along(lab, tmp_path):
    parent = open_published(write_tiny_study(tmp_path / "tiny", images=5, unit_images=2))
    made = Appended(parent, tmp_path / "staging")
    rows = {name: parent.read(name) for name in parent.arrays if SCHEMA[name].image_axis is not None}
    rows = {name: array.take([1], SCHEMA[name].image_axis) for name, array in rows.items()}
    with pytest.raises(ValueError, match=r"pixels of one image is \(12, 12, 3\); it should be \(1, 12, 12, 3\)"):
        made.write({"pixels": rows["pixels"][0]})
    with pytest.raises(ValueError, match="metric is no array of images of study tiny"):
        made.write({"metric": rows["image"]})
    with pytest.raises(ValueError, match=r"image, .* not written"):
        made.publish(tmp_path / "made", parent.attrs, {})
    made.write(rows)
    made.publish(tmp_path / "made", parent.attrs, {})
    found = open_published(tmp_path / "made")
    for name, row in rows.items():
        axis = SCHEMA[name].image_axis
        expected = np.concatenate([parent.read(name), row], axis)
        np.testing.assert_array_equal(found.read(name), expected)
    assert verify(tmp_path / "made") == []


def test_a_picture_of_a_name_that_the_study_has_gets_another_and_no_path(lab):
    settings, folder = lab
    study = open_published(settings.studies / CLS)
    assert doer._free("0/0.png", study) == "0 (2).png"
    file = folder / "0/0.png"
    made, _ = done(settings, dropped(settings, file, CLS, name="..\\..\\a/=<b>é.png"))
    assert made.image_ids[-1] == "=<b>é.png"


# --- what is no picture, and what goes wrong


def test_what_is_no_picture_is_refused_and_nothing_is_left(lab, tmp_path):
    settings, _ = lab
    for content, why in (
        (b"not a picture", "text"),
        (b"", "zero bytes"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 90, "truncated"),
    ):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(MistakeError, match=f"bad.png cannot be used: .*{why}"):
            done(settings, dropped(settings, tmp_path / "bad.png", CLS))
    assert left(settings) == []


def test_a_picture_is_decoded_in_a_process_of_its_own_that_may_die_of_it(lab, monkeypatch):
    _, folder = lab
    file = folder / "1/3.png"
    monkeypatch.undo()
    scanned, picture = decode.decode_apart(Entry("x.png", file, None))
    assert isinstance(scanned, DecodedImage)
    assert np.array_equal(np.asarray(picture), np.asarray(decode.decode(file.read_bytes())))
    bad = decode.decode_apart(Entry("x.png", file.with_name("none.png"), None))
    assert bad == Quarantined("x.png", "cannot be read: No such file or directory")
    monkeypatch.setattr(decode, "_picture_limited", dies)
    assert decode.decode_apart(Entry("x.png", file, None)) == Quarantined("x.png", "the decoder crashed")


def dies(entry):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_study_that_was_computed_anew_or_is_gone_is_said(lab):
    settings, folder = lab
    request = dropped(settings, folder / "0/0.png", CLS)
    for wrong, why in (({"content": "0" * 64}, "was computed anew"), ({"study": "gone"}, "study gone is gone")):
        with pytest.raises(MistakeError, match=why):
            done(settings, replace(request, **wrong))
        request = dropped(settings, folder / "0/0.png", CLS)
    uploads.remove(uploads.find(settings.pictures, request.upload))
    with pytest.raises(MistakeError, match="was removed; send it again"):
        done(settings, request)


def test_who_loses_the_lease_places_nothing_and_the_next_one_does_it_all(lab, monkeypatch):
    settings, folder = lab
    request = dropped(settings, folder / "0/0.png", CLS)
    target = settings.studies / pictures.study_name(request.upload)
    work = Work(settings)

    def lost():
        raise LostLeaseError("taken over")

    work.hold = lost
    with pytest.raises(LostLeaseError):
        doer.do(lease_of(request), work)
    assert not target.exists() and not list((settings.studies / ".pictures").iterdir())
    pictures.staging(settings.studies, request.upload, 1).mkdir()  # of one that was killed
    made, _ = done(settings, request)
    assert made.path.parent == target
    assert not list((settings.studies / ".pictures").iterdir())
    work = Work(settings)
    doer.do(lease_of(request, fence=3), work)  # of one that was killed before it told the ledger
    assert work.result == {"study": target.name, "image": "0.png"}


def test_a_cancelled_picture_leaves_nothing(lab):
    settings, folder = lab
    for step in doer.STEPS:
        work = Work(settings)
        work.check = work.hold = lambda work=work, step=step: _cancelled_at(work, step)
        with pytest.raises(CancelledError):
            doer.do(lease_of(dropped(settings, folder / "0/0.png", CLS)), work)
        assert left(settings) == []


def _cancelled_at(work, step):
    if (work.steps and work.steps[-1][2] == step) or step == doer.STEPS[0]:
        raise CancelledError("cancelled by ann")


def left(settings):
    """What there is of pictures that are not studies."""
    roots = (settings.pictures, settings.studies / ".pictures")
    return [each for root in roots if root.is_dir() for each in root.iterdir()]


# --- the page


class Page:
    """The page over a copy of a small study, and people; the tests are its workers."""

    def __init__(self, data, **settings):
        self.settings = Settings(data=data, **settings)
        self.desk = Desk(self.settings)
        self.server = create_app(self.settings, self.desk).server
        self.user = User("ann", "analyst")

    def ask(self, method, path, **options):
        options["environ_overrides"] = {"wsgi.input_terminated": True}
        return self.server.test_client().open(path, method=method, **options)

    def send(self, file, study=AVERAGED, piece=1000):
        """The path of a picture that came whole, and its job."""
        data = file.read_bytes()
        begun = self.ask("POST", "/uploads/pictures", json={"name": file.name, "bytes": len(data)})
        assert begun.status_code == 201, begun.text
        path = f"/uploads/pictures/{begun.json['id']}"
        for at in range(0, len(data), piece):
            answer = self.ask("PUT", f"{path}?at={at}&study={study}", data=data[at : at + piece])
            assert answer.status_code == 200, answer.text
        return path, answer.json["job"]

    def work(self):
        lease = self.desk.ledger.take("interactive", "w", "bell")
        assert lease is not None
        run_unit(self.settings, self.desk.ledger, lease)
        return self.desk.ledger.job(lease.job)

    def drop(self, file, study=AVERAGED):
        """The name of the private study of a picture."""
        path, job = self.send(file, study)
        assert self.work().state == "done", self.desk.ledger.job(job).cause
        search = self.ask("GET", f"{path}?job={job}").json["search"]
        return parse_qs(search[1:])["study"][0]


@pytest.fixture
def page(lab, tmp_path, monkeypatch):
    settings, _ = lab
    shutil.copytree(settings.studies / AVERAGED, tmp_path / "studies" / AVERAGED)
    made = Page(tmp_path)
    monkeypatch.setattr(access, "current", lambda: made.user)
    return made


def test_a_picture_becomes_a_study_of_its_owner_and_its_file_goes(lab, page):
    file = lab[1] / "1/2.png"
    path, job = page.send(file)
    told = page.ask("GET", f"{path}?job={job}").json
    assert (told["state"], told["said"]) == ("queued", "waits for a worker")
    assert page.work().state == "done"
    told = page.ask("GET", f"{path}?job={job}").json
    upload_id = path.rpartition("/")[2]
    assert told["search"] == f"?study=picture-{upload_id}&image=2.png"
    assert left(page.settings) == []
    shelf = Shelf(page.settings.studies)
    written = from_address(shelf, told["search"])
    assert (written.chosen.image, written.notice) == ("2.png", "")
    known = facts(shelf.open(written.chosen.study))
    assert all(view is not None for view in anew(DRAWINGS, known, written.chosen, {}))
    labels = {pick["value"]: pick["label"] for pick in header.options(shelf.entries())}
    assert labels[known.name] == f"{AVERAGED} + your picture 2.png"
    row = next(each for each in studies.listed(shelf.entries(), []) if each.name == known.name)
    assert row.told.private.startswith("private, until ")
    assert shelf.first().name == AVERAGED
    again = page.drop(file, known.name)
    assert open_published(page.settings.studies / again).sizes == known.study.sizes, "beside the study, not its picture"


def test_to_others_a_private_study_is_as_if_it_were_not_there(lab, page):
    name = page.drop(lab[1] / "1/2.png")
    study = open_published(page.settings.studies / name)
    shelf, digest = Shelf(page.settings.studies), study.manifest.content[:16]
    known = facts(shelf.open(name))
    selection = from_address(shelf, f"?study={name}").chosen
    routes = (
        *(f"/studies/{name}/{digest}/{kind}" for kind in ("image/0.png", "thumbnail/15.webp", "image/15.json")),
        f"/studies/{name}/{digest}/attention/15/0/0.f16",
        f"/export/head-importance.csv{to_search(selection, known)}",
    )
    image_job = page.desk.ledger.jobs(kinds=["image"])[0]
    asked = PruneRequest(study=name, content=study.manifest.content, images=("2.png",), heads=((0, 0),))
    pruning = page.desk.submit(asked, "ann").job

    def seen():
        told = page.ask("GET", "/jobs.json?shown=all").json["rows"]
        return [page.ask("GET", route).status_code for route in routes], {row["id"] for row in told}

    mine = {image_job.id, pruning.id}
    assert seen() == ([200] * 5, mine)
    page.user = User("root", "admin")
    assert seen() == ([200] * 5, mine)
    assert header.options(shelf.entries())[0]["label"] == f"{AVERAGED} + ann\u2019s picture 2.png"
    page.user = User("bob", "analyst")
    assert seen() == ([404] * 5, set())
    assert [entry.name for entry in shelf.entries()] == [AVERAGED]
    for absent in (name, pictures.study_name("0" * 24)):
        with pytest.raises(StudyNotFoundError, match=f"there is no study {absent}$"):
            shelf.open(absent)
        assert page.ask("GET", f"/studies/{absent}/{digest}/image/0.png").text == f"there is no study {absent}"
    path = f"/uploads/pictures/{name.removeprefix('picture-')}"
    assert page.ask("GET", f"{path}?job={image_job.id}").status_code == 404
    assert page.ask("PUT", f"{path}?at=0&study={AVERAGED}", data=b"x").status_code == 404
    for job in ("", f"?job={image_job.id}"):
        assert page.ask("DELETE", path + job).status_code == 404
    body = (page.settings.studies / name / "MANIFEST.json").read_bytes()
    (page.settings.studies / name / "MANIFEST.json").write_bytes(body.replace(b'"ann"', b'"bob"'))
    assert name not in [entry.name for entry in Shelf(page.settings.studies).entries()], "nobody vouches for it"


def test_a_server_starts_where_private_studies_are_and_tells_a_stranger_of_none(lab, page, monkeypatch):
    name = page.drop(lab[1] / "1/2.png")
    monkeypatch.undo()
    alone = create_app(Settings(data=page.settings.data)).server.test_client()
    assert alone.get("/").status_code == 200
    assert name in alone.get("/_dash-layout").text, "of ann, to the admin whose machine it is"
    Accounts(page.settings.ledger_url).add("bob", "viewer", "correct horse battery")
    secret = "8f3a61c0d92be47715f08c6a2d94e3b1"
    team = create_app(Settings(data=page.settings.data, sign_in=True, secret=secret)).server.test_client()
    for path, status in (("/", 302), ("/_dash-layout", 401)):
        answer = team.get(path)
        assert (answer.status_code, name in answer.text) == (status, False)


def test_a_private_study_is_gone_when_its_time_is_over(lab, page, monkeypatch):
    name = page.drop(lab[1] / "1/2.png")
    shelf, began = Shelf(page.settings.studies), time.time()
    sweep.sweep(page.settings, page.desk.ledger)
    assert shelf.open(name).name == name
    monkeypatch.setattr(time, "time", lambda: began + 24.1 * 3600)
    with pytest.raises(StudyNotFoundError, match="there is no study"):
        shelf.open(name)
    sweep.sweep(page.settings, page.desk.ledger)
    assert [each.name for each in page.settings.studies.glob("*") if each.name != ".pictures"] == [AVERAGED]
    assert verify(page.settings.studies / AVERAGED) == []


def test_what_will_not_become_a_study_is_removed(lab, page):
    file = lab[1] / "1/2.png"
    path, job = page.send(file)
    staging = pictures.staging(page.settings.studies, path.rpartition("/")[2], 7)
    staging.mkdir(parents=True)
    sweep.sweep(page.settings, page.desk.ledger)
    assert staging.is_dir() and len(left(page.settings)) == 2, "its job goes on"
    page.desk.cancel(job, "ann")
    sweep.sweep(page.settings, page.desk.ledger)
    assert left(page.settings) == []
    path, job = page.send(file)
    assert page.ask("DELETE", f"{path}?job={job}").status_code == 204
    assert page.desk.ledger.job(job).state == "cancelled"
    assert left(page.settings) == []
    path = "/uploads/pictures/" + page.ask("POST", "/uploads/pictures", json={"name": "x.png", "bytes": 5}).json["id"]
    page.user = User("vic", "viewer")
    assert page.ask("DELETE", path).status_code == 403
    page.user = User("ann", "analyst")
    assert [page.ask("DELETE", path).status_code for _ in range(2)] == [204, 404], "it is there once"
    assert left(page.settings) == []
    begun = page.ask("POST", "/uploads/pictures", json={"name": "x.png", "bytes": 5})
    folder = page.settings.pictures / begun.json["id"]
    said = json.loads((folder / "upload.json").read_bytes())
    (folder / "upload.json").write_text(json.dumps(said | {"made": time.time() - 3700}))
    sweep.sweep(page.settings, page.desk.ledger)
    assert left(page.settings) == []


def test_a_study_of_that_name_that_nobody_marked_is_everybodys_and_stays(page):
    name = pictures.study_name("1" * 24)
    write_tiny_study(page.settings.studies / name)
    sweep.sweep(page.settings, page.desk.ledger)
    page.user = User("bob", "viewer")
    assert Shelf(page.settings.studies).open(name).name == name


def test_the_limits_are_said(lab, page, monkeypatch):
    def begin(**given):
        answer = page.ask("POST", "/uploads/pictures", json={"name": "x.png", "bytes": 5} | given)
        return answer.status_code, answer.text

    assert begin(bytes=50_000_001) == (413, "this picture has 50 MB, and 50 MB are allowed")
    for wrong in ({"bytes": 0}, {"bytes": True}, {"bytes": "5"}, {"name": 3}):
        assert begin(**wrong) == (400, 'say what comes, as {"name": "bird.jpg", "bytes": 1234}')
    monkeypatch.setattr(routes, "MOST_PICTURES", 2)
    page.drop(lab[1] / "1/2.png")
    assert begin()[0] == 201
    status, said = begin()
    assert status == 429 and "you have 2 pictures, as many as are allowed; the first of them goes on" in said
    page.user = User("vic", "viewer")
    assert begin()[0] == 403
    page.user = User("bob", "analyst")
    begun = page.ask("POST", "/uploads/pictures", json={"name": "x.png", "bytes": 5}).json["id"]
    too_much = page.ask("PUT", f"/uploads/pictures/{begun}?at=0&study={AVERAGED}", data=b"x" * 9)
    assert too_much.status_code == 413
    gone = page.ask("PUT", f"/uploads/pictures/{begun}?at=0&study={AVERAGED}", data=b"x")
    assert gone.status_code == 404
    begun = page.ask("POST", "/uploads/pictures", json={"name": "x.png", "bytes": 5}).json["id"]
    no_study = page.ask("PUT", f"/uploads/pictures/{begun}?at=0&study=none", data=b"x")
    assert (no_study.status_code, no_study.text) == (404, "there is no study none")


def test_a_worker_that_is_killed_leaves_nothing_and_the_next_one_does_it(lab, page):
    path, _ = page.send(lab[1] / "1/2.png")
    script = f"""
import os, signal
from store import append
from jobs.ledger import Ledger
from store.settings import Settings
from workers.runner import run_unit
from tests import test_image_job as tests
from workers import decode
decode.decode_apart = tests.decoded_here
append.Appended.so_far = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
settings = Settings(data={str(page.settings.data)!r})
ledger = Ledger(settings.ledger_url)
run_unit(settings, ledger, ledger.take("interactive", "w", "bell"))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(left(page.settings)) == 2
    page.desk.ledger.crashed("bell", "killed", counts=False)
    assert page.work().state == "done"
    assert left(page.settings) == []
    assert pictures.study_name(path.rpartition("/")[2]) in [e.name for e in Shelf(page.settings.studies).entries()]
