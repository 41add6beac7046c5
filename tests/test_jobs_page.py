"""Jobs and new studies on the page: what is offered, asked for and told, without a browser."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from analyses.pruning import PruneRequest
from dashboard import access
from dashboard import offers as offers_module
from dashboard.app import ASSETS, create_app
from dashboard.data import Shelf
from dashboard.offers import PICTURES, Offers
from dashboard.views import header, jobs, new_study
from dashboard.views.new_study import FIELDS, PICKED, Form, Priced, ask_price, priced, read_form, submitted
from jobs.client import UNHEARD, Desk
from jobs.requests import PriceRequest, StudyRequest, key_of
from jobs.work import Job, Step, WorkerSeen
from store.settings import Settings
from tests.studies import write_tiny_study
from workers.images import READ_SUFFIXES, UNREAD_SUFFIXES

MODELS = ["deit_tiny_patch16_224", "vit_small_patch16_224"]
PRICE = {
    "study": "x",
    "bytes": 1.03e9,
    "attention_bytes": 6.4e8,
    "attention": "stored",
    "seconds": 840.0,
    "images": 250,
    "mapped": 36_000,
    "after_seconds": 300.0,
    "measured": 4,
    "labels": "class names",
    "classes": 12,
    "exists": False,
}


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data folder with two classes of pictures, their masks, a list of them, weights and class names."""
    for name in ("cats/1.png", "cats/2.JPG", "dogs/1.webp", "dogs/readme.txt"):
        picture(tmp_path / "images" / "pets" / name)
    picture(tmp_path / "images" / "pet-masks" / "cats" / "1.png")
    picture(tmp_path / "images" / "pets.csv")
    picture(tmp_path / "models" / "mine" / "best.safetensors")
    picture(tmp_path / "models" / "classes.txt")
    return Settings(data=tmp_path)


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger, to copy: making one anew takes longer than most tests."""
    folder = tmp_path_factory.mktemp("ledger")
    Desk(Settings(data=folder)).ledger.keep("models", MODELS)
    return folder


@pytest.fixture
def desk(settings: Settings, empty_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose bell is heard."""
    for file in empty_ledger.glob("headscope.db*"):
        shutil.copy(file, settings.data)
    monkeypatch.setattr(Desk, "ring", lambda *given: None)
    monkeypatch.setattr(access.getpass, "getuser", lambda: "ann")
    return Desk(settings)


# --- what is offered ---


def offered_below(root: Path, *names: str) -> dict[str, tuple[int, int]]:
    """Pictures and classes of every folder that is offered."""
    for name in names:
        picture(root / "images" / name)
    return {name: (found.pictures, found.classes) for name, found in Offers(Settings(data=root)).folders().items()}


def test_a_folder_a_class_is_offered_and_its_classes_are_not(tmp_path: Path):
    assert offered_below(tmp_path, "pets/cats/1.png", "pets/cats/2.png", "pets/dogs/1.jpg", "pets/notes.txt") == {
        "pets": (3, 2)
    }


def test_a_flat_folder_is_offered_with_no_classes(tmp_path: Path):
    assert offered_below(tmp_path, "flat/1.png", "flat/2.png")["flat"] == (2, 0)


def test_of_nested_sets_the_ones_with_classes_are_offered(tmp_path: Path):
    found = offered_below(tmp_path, *(f"net/{split}/{kind}/1.png" for split in ("train", "val") for kind in "abc"))
    assert found == {"net/train": (3, 3), "net/val": (3, 3)}


def test_the_folder_of_images_is_offered_where_classes_lie_in_it(tmp_path: Path):
    assert offered_below(tmp_path, "cats/1.png", "dogs/1.png") == {".": (2, 2), "cats": (1, 0), "dogs": (1, 0)}


def test_no_link_is_followed_and_nothing_hidden_is_offered(tmp_path: Path):
    picture(tmp_path / "elsewhere" / "secret" / "1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "images" / ".hidden" / "1.png")
    picture(Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/caf\xe9/1.png")))
    assert offered_below(tmp_path) == {}
    (tmp_path / "models").symlink_to(tmp_path / "elsewhere")  # the folder itself may be one: the operator made it
    picture(tmp_path / "elsewhere" / "a.pth")
    (tmp_path / "elsewhere" / "b.pth").symlink_to("/etc/passwd")
    assert list(Offers(Settings(data=tmp_path)).checkpoints()) == ["a.pth"]


def test_files_that_trainers_leave_are_offered_by_their_usual_names(tmp_path: Path):
    names = ["best.ckpt", "last.pth.tar", "m.bin", "m.pt", "m.pth", "m.safetensors"]
    for name in [*names, "logs.tar", "notes.txt"]:
        picture(tmp_path / "models" / name)
    assert list(Offers(Settings(data=tmp_path)).checkpoints()) == names


def test_without_the_folders_nothing_is_offered(tmp_path: Path):
    found = Offers(Settings(data=tmp_path / "nothing"))
    assert (found.folders(), found.tables(), found.checkpoints(), found.class_lists()) == ({}, {}, {}, {})


def test_a_folder_is_listed_again_only_when_it_changed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    listed: list[str] = []
    whole = offers_module._list
    monkeypatch.setattr(
        offers_module, "_list", lambda folder, stamp: listed.append(folder.name) or whole(folder, stamp)
    )
    found = Offers(settings)
    assert found.folders()["pets"].pictures == 3
    listed.clear()
    assert found.folders()["pets"].pictures == 3
    assert listed == []
    picture(settings.images / "pets" / "dogs" / "2.png")
    os.utime(settings.images / "pets" / "dogs", ns=(0, 7))
    assert found.folders()["pets"].pictures == 4
    assert listed == ["dogs"]


def test_what_counts_as_a_picture_is_what_the_workers_take_for_one():
    assert set(PICTURES) == {*READ_SUFFIXES, *UNREAD_SUFFIXES}


def test_an_endless_tree_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(offers_module, "MOST_FOLDERS", 5)
    assert len(offered_below(tmp_path, *(f"set-{n}/1.png" for n in range(20)))) <= 5


# --- the form ---


def form(at: Desk | Settings, **given: Any) -> Form:
    settings = at.settings if isinstance(at, Desk) else at
    values = {**FIELDS, "model": MODELS[0], "images": "images/pets", **given}
    return read_form(values, Offers(settings), MODELS, settings.studies)


def test_a_whole_form_is_a_request_for_what_was_offered(settings: Settings):
    asked = form(
        settings,
        weights="checkpoint",
        checkpoint="mine/best.safetensors",
        per_class=5.0,
        masks="images/pet-masks",
        classes="models/classes.txt",
        label_map="images/pets.csv",
        no_labels=["no"],
        image_size="224x336",
        seed=7,
        attention="rebuilt",
        skip=["patterns"],
        name="mine",
    ).request
    data = settings.data.absolute()
    assert asked == StudyRequest(
        model=MODELS[0],
        images=data / "images/pets",
        name="mine",
        checkpoint=data / "models/mine/best.safetensors",
        image_size=(224, 336),
        classes=data / "models/classes.txt",
        label_map=data / "images/pets.csv",
        no_labels=True,
        per_class=5,
        attention="rebuilt",
        seed=7,
        masks=data / "images/pet-masks",
        skip=frozenset({"patterns"}),
    )


def test_the_least_that_is_picked_is_the_same_request_as_on_the_command_line(settings: Settings):
    found = form(settings)
    assert found.request == StudyRequest(MODELS[0], settings.images.absolute() / "pets")
    assert found.proposed == "deit_tiny_patch16_224-pets"
    assert form(settings, name=found.proposed).request == found.request
    assert form(settings, images="images/pets.csv").request.images.name == "pets.csv"
    assert form(settings, weights="random").request.random_weights


def test_what_must_still_be_picked_is_said(settings: Settings):
    assert form(settings, model=None, images=None).missing == ("a model", "pictures")
    assert form(settings, weights="checkpoint").missing == ("a checkpoint",)
    assert form(settings, model=None).request is None


PATHS = [
    "/etc",
    "../etc",
    "images/../../etc",
    "pets",
    "images/pets/cats",
    "images/pets\0",
    "%2e%2e",
    "hf-hub:evil/x",
    "x" * 9999,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:20])
@pytest.mark.parametrize("name", PICKED)
def test_nothing_that_is_typed_becomes_a_path(settings: Settings, name: str, path: str):
    found = form(settings, **{"weights": "checkpoint", "checkpoint": "mine/best.safetensors", name: path})
    assert found.request is None
    assert set(found.problems) == {name}
    assert len(found.problems[name]) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_class", 0),
        ("per_class", 1.5),
        ("per_class", True),
        ("seed", -1),
        ("seed", 1e308),
        ("image_size", "big"),
        ("image_size", "0x5"),
        ("image_size", "224x"),
        ("attention", "some"),
        ("weights", "best"),
        ("name", "Mine"),
        ("name", "a/b"),
        ("name", ".."),
        ("name", "x" * 81),
    ],
)
def test_a_wrong_value_is_said_beside_its_field(settings: Settings, name: str, value: object):
    found = form(settings, **{name: value})
    assert found.request is None
    assert set(found.problems) == {name}


def test_masks_are_not_the_pictures_themselves(settings: Settings):
    assert set(form(settings, masks="images/pets").problems) == {"masks"}


def test_a_name_is_taken_by_a_published_study_and_not_by_an_unfinished_one(settings: Settings):
    write_tiny_study(settings.studies / "mine")
    assert "there is a study mine already" in form(settings, name="mine").problems["name"]
    (settings.studies / "begun").mkdir()
    assert form(settings, name="begun").problems == {}


@pytest.mark.parametrize("odd", [None, 0, -1, 1e308, float("nan"), True, "x", "\0", "\ud800", [], {}, [[]], {"a": 1}])
def test_no_value_of_a_field_breaks_the_form(settings: Settings, odd: object):
    for name in FIELDS:
        assert isinstance(form(settings, **{name: odd}), Form)


def test_what_can_be_picked_is_counted_and_an_empty_folder_says_what_to_do(desk: Desk, tmp_path: Path):
    models, weights, pictures, masks, lists, tables, said, *_ = new_study.offered(desk, Offers(desk.settings))
    assert (models, weights) == (MODELS, ["mine/best.safetensors"])
    assert [each["value"] for each in pictures] == ["images/pet-masks", "images/pets", "images/pets.csv"]
    assert "3 pictures · 2 classes" in str(pictures[1])
    assert [each["value"] for each in masks] == ["images/pet-masks", "images/pets"]
    assert "models/classes.txt" in lists
    assert tables == ["images/pets.csv"]
    assert said == "2 models of timm that Headscope takes."
    bare = Desk(Settings(data=tmp_path / "bare"))
    of_models, of_pictures, of_checkpoints = new_study.offered(bare, Offers(bare.settings))[-3:]
    assert "headscope worker" in str(of_models)
    assert f"{tmp_path}/bare/images" in str(of_pictures)
    assert f"{tmp_path}/bare/models" in str(of_checkpoints)


# --- the price ---


def answered(desk: Desk, result: dict[str, Any]) -> None:
    """A worker answers the price that waits."""
    lease = desk.ledger.take("interactive", "w", "bell")
    desk.ledger.finish(lease, result=result)


def price_of(desk: Desk, request: StudyRequest, asked: dict[str, Any]) -> Priced:
    return new_study._price_of(desk, request, asked)


def test_a_price_goes_from_waiting_to_measuring_to_a_number(desk: Desk):
    request = form(desk).request
    asked = ask_price(desk, request, None, again=False)
    assert "No worker is running" in str(price_of(desk, request, asked).said)
    desk.ledger.here("w", "interactive", "cpu")
    assert price_of(desk, request, asked).said == "waits for a worker …"
    lease = desk.ledger.take("interactive", "w", "bell")
    desk.ledger.renew(lease, 5, 32, "images")
    assert price_of(desk, request, asked) == Priced("measuring … price images 16\u202f%")
    desk.ledger.finish(lease, result=PRICE)
    found = price_of(desk, request, asked)
    assert found.ready
    wanted = "1,030 MB, of which attention 640 MB · about 14 min on this worker"
    assert f"{wanted}, then about 5 min for names and maps of 36,000 heads" in str(found.said)


def test_a_refusal_is_said_beside_its_field_or_where_the_price_would_be(desk: Desk):
    request = form(desk).request
    asked = ask_price(desk, request, None, again=False)
    answered(desk, {"refused": {"field": "label_map", "message": "no such label"}})
    found = price_of(desk, request, asked)
    assert (found.problems, found.ready) == ({"label_map": "no such label"}, False)
    asked = ask_price(desk, request, asked, again=True)
    answered(desk, {"refused": {"field": "device", "message": "there is no GPU"}})
    found = price_of(desk, request, asked)
    assert (found.problems, found.ready) == ({}, False)
    assert "there is no GPU" in str(found.said)


def test_a_price_that_failed_says_why_and_can_be_measured_again(desk: Desk):
    request = form(desk).request
    asked = ask_price(desk, request, None, again=False)
    desk.ledger.fail(desk.ledger.take("interactive", "w", "bell"), "the weights are cut short", final=True)
    found = price_of(desk, request, asked)
    assert found.ended
    assert not found.ready
    assert "the weights are cut short" in str(found.said)
    again = ask_price(desk, request, asked, again=True)
    assert again["job"] != asked["job"]


def test_a_price_that_is_needed_no_more_is_cancelled_and_one_that_is_there_is_not_asked_for_twice(desk: Desk):
    first, second = form(desk).request, form(desk, seed=1).request
    asked = ask_price(desk, first, None, again=False)
    assert ask_price(desk, first, asked, again=False)["job"] == asked["job"]
    later = ask_price(desk, second, asked, again=False)
    assert desk.ledger.job(asked["job"]).state == "cancelled"
    answered(desk, PRICE)
    back = ask_price(desk, first, later, again=False)
    answered(desk, PRICE)
    assert ask_price(desk, second, back, again=False)["job"] == later["job"]
    assert len(desk.ledger.jobs(kinds=["price"])) == 3


@pytest.mark.parametrize("odd", [None, 3, "x", [], {}, {"job": 3}, {"job": "gone"}, {"key": [], "known": {"a": []}}])
def test_what_a_browser_makes_up_of_its_price_is_no_price(desk: Desk, odd: object):
    request = form(desk).request
    assert new_study._price_of(desk, request, odd) is None
    assert ask_price(desk, request, odd, again=False)["key"] == key_of(PriceRequest(request))


def test_a_page_cancels_nobody_elses_price_and_no_study(desk: Desk):
    request = form(desk).request
    theirs = desk.submit(PriceRequest(form(desk, seed=3).request), "bob").job
    study = desk.submit(form(desk, name="other").request, "ann").job
    for job in (theirs, study):
        ask_price(desk, request, {"job": job.id}, again=False)
        assert desk.ledger.job(job.id).state == "queued"


# --- asking for the study ---


def test_a_study_is_asked_for_once_and_a_second_person_learns_of_the_job(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    request = form(desk).request
    went, said = submitted(desk, request)
    (job,) = desk.ledger.jobs(kinds=["study"])
    assert (went, said) == ({"href": f"/jobs?job={job.id}", "said": ""}, "")
    monkeypatch.setattr(access.getpass, "getuser", lambda: "bob")
    went, _ = submitted(desk, request)
    assert went["href"].endswith(job.id)
    assert went["said"] == "ann asked for this very study just now: this is that job"


def test_another_study_of_the_same_name_is_refused_with_the_job_in_its_way(desk: Desk):
    submitted(desk, form(desk, name="mine").request)
    (job,) = desk.ledger.jobs(kinds=["study"])
    _, said = submitted(desk, form(desk, name="mine", seed=1).request)
    assert f"/jobs?job={job.id}" in str(said)
    assert len(desk.ledger.jobs(kinds=["study"])) == 1


def test_a_queue_that_does_not_answer_is_said_and_the_job_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Desk, "ring", lambda *given: UNHEARD)
    went, _ = submitted(desk, form(desk).request)
    assert went["said"] == UNHEARD


# --- what the page is told ---


@pytest.fixture
def client(desk: Desk) -> Any:
    return create_app(desk.settings, desk).server.test_client()


def study_job(desk: Desk, name: str = "mine", who: str = "ann") -> Job:
    return desk.submit(StudyRequest(MODELS[0], desk.settings.images / "pets", name=name), who).job


def begun(desk: Desk, units: int = 4) -> Job:
    """A study whose plan is done and whose first unit is."""
    job = study_job(desk)
    lease = desk.ledger.take("bulk", "w", "bell")
    desk.ledger.plan(lease, [Step(1, n, f"images {n} to {n}", 1) for n in range(units)], {"price": PRICE})
    desk.ledger.finish(lease)
    desk.ledger.finish(desk.ledger.take("bulk", "w", "bell"))
    return desk.ledger.job(job.id)


def test_a_page_is_told_no_rows_unless_it_asks_for_them(desk: Desk, client: Any):
    study_job(desk)
    desk.submit(PruneRequest(study="mine", content="0" * 64, images=("a",), heads=((0, 1),)), "bob")
    told = client.get("/jobs.json").json
    assert (told["live"], told["running"], "rows" in told) == (2, 0, False)
    for shown, kinds in (("study", {"study"}), ("prune", {"pruning"}), ("all", {"study", "pruning"})):
        assert {row["kind"] for row in client.get(f"/jobs.json?shown={shown}").json["rows"]} == kinds
    assert "rows" not in client.get("/jobs.json?shown=../etc&job=%01").json


def test_what_has_not_changed_is_not_sent_again(desk: Desk, client: Any):
    first = client.get("/jobs.json?shown=study")
    again = client.get("/jobs.json?shown=study", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    study_job(desk)
    changed = client.get("/jobs.json?shown=study", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


def test_the_mark_of_a_job_changes_when_the_job_does(desk: Desk, client: Any):
    job = study_job(desk)

    def mark() -> str:
        return client.get(f"/jobs.json?job={job.id}").json["watched"]["mark"]

    before = mark()
    assert mark() == before
    desk.cancel(job.id, "ann")
    assert mark() != before
    assert client.get("/jobs.json?job=nobody").json["watched"] == {"job": "nobody", "mark": "gone"}


def test_a_study_that_is_published_or_removed_changes_the_mark_of_the_studies(tmp_path: Path):
    shelf = Shelf(tmp_path / "studies")
    marks = [jobs.studies_mark(shelf)]
    write_tiny_study(tmp_path / "studies" / "one")
    marks.append(jobs.studies_mark(shelf))
    assert jobs.studies_mark(shelf) == marks[-1]
    (tmp_path / "studies" / "one").rename(tmp_path / "gone")
    marks.append(jobs.studies_mark(shelf))
    assert len(set(marks)) == 3


def test_a_row_says_how_far_a_study_is(desk: Desk):
    job = begun(desk)
    now = desk.ledger.now()
    row = jobs.row(job, now)
    assert row["state"] == {"mark": "◐", "word": "running"}
    assert row["progress"]["said"] == "units 2 of 5 · images"
    assert row["progress"]["share"] == pytest.approx(2 / 5)
    assert row["actions"] == "cancel"
    lease = desk.ledger.take("bulk", "w", "bell")
    desk.ledger.renew(lease, 1, 2, "images")
    assert jobs.row(desk.ledger.job(job.id), now)["progress"]["share"] == pytest.approx(2.5 / 5)
    json.dumps(row, allow_nan=False)


def test_a_stage_has_its_own_percentage(desk: Desk):
    job = begun(desk, units=1)
    lease = desk.ledger.take("bulk", "w", "bell")
    assert lease is None or lease.step.name
    made = {
        **vars(job),
        "state": "running",
        "stage": "patch-map",
        "stage_done": 43,
        "stage_total": 100,
        "counted": "steps",
    }
    assert jobs.stage_line(Job(**made)) == "patch map steps 43\u202f%"


def test_rows_stand_in_the_order_of_what_concerns_people(desk: Desk):
    done, failed = study_job(desk, "done"), study_job(desk, "failed", "bob")
    desk.ledger.finish(desk.ledger.take("bulk", "w", "bell"), result={"study": "done"})
    desk.ledger.fail(desk.ledger.take("bulk", "w", "bell"), "no", final=True)
    study_job(desk, "running")
    desk.ledger.take("bulk", "w", "bell")
    study_job(desk, "first", "bob")
    study_job(desk, "second", "bob")
    rows = jobs.heard(Shelf(desk.settings.studies), desk, "study", "")["rows"]
    assert [row["title"] for row in rows] == ["running", "first", "second", "failed", "done"]
    by_title = {row["title"]: row for row in rows}
    assert (by_title["first"]["place"], by_title["second"]["place"]) == ("1 before", "2 before")
    assert by_title["done"]["href"] == "/?study=done"
    assert by_title["done"]["actions"] == "open"
    assert by_title["failed"]["progress"]["said"].endswith("no")
    assert by_title["failed"]["actions"] == "again"
    assert {done.id, failed.id} <= {row["id"] for row in rows}


def test_who_works_is_one_line_and_a_queue_without_anybody_says_what_to_do():
    interactive, bulk = (WorkerSeen(f"w:{queue}", queue, "cpu", 0.0) for queue in ("interactive", "bulk"))
    assert jobs.workers_line([interactive, bulk]) == ("1 interactive, 1 bulk workers (cpu)", False)
    on_gpu = WorkerSeen("g", "bulk", "cuda", 0.0)
    assert (
        jobs.workers_line([interactive, bulk, on_gpu])[0] == "1 interactive (cpu), 1 bulk (cuda), 1 bulk (cpu) workers"
    )
    line, short = jobs.workers_line([interactive])
    assert short
    assert "headscope worker --queue bulk" in line
    assert "No worker is running" in jobs.workers_line([])[0]


def test_the_detail_of_a_failed_job_has_its_cause_its_log_and_what_was_asked_for(desk: Desk):
    job = begun(desk)
    desk.ledger.fail(
        desk.ledger.take("bulk", "w", "bell"), "the disk is broken", "line one\nline <b>two</b>", final=True
    )
    said = str(jobs.detail(desk.ledger.job(job.id), desk.ledger.now(), desk.settings))
    for part in ("the disk is broken", "line <b>two</b>", MODELS[0], "images/pets", "1,030 MB", "2 of 5"):
        assert part in said, part


def test_a_request_is_told_in_words_and_only_what_is_unusual(desk: Desk):
    plain = dict(jobs.asked_for(desk.submit(form(desk).request, "ann").job, desk.settings))
    assert plain == {"Model": MODELS[0], "Weights": "timm's own", "Images": "images/pets"}
    odd = desk.submit(
        form(desk, name="odd", weights="random", seed=3, per_class=2, skip=["patterns"]).request, "ann"
    ).job
    words = dict(jobs.asked_for(odd, desk.settings))
    assert words["Weights"] == "random, untrained"
    assert (words["Seed"], words["Per class"], words["Left out"]) == ("3", "the first 2", "patterns")
    pruning = desk.submit(
        PruneRequest(study="mine", content="0" * 64, images=("a", "b"), heads=((0, 1), (2, 3))), "ann"
    ).job
    assert dict(jobs.asked_for(pruning, desk.settings))["Heads"] == "L0·H1, L2·H3"
    price = desk.submit(PriceRequest(form(desk).request), "ann").job
    assert dict(jobs.asked_for(price, desk.settings))["Model"] == MODELS[0]


# --- wiring ---


def call(client: Any, output: str, values: dict[str, Any], changed: str) -> Any:
    """Call the callback that writes `output`, with values by "id.property"."""
    dependencies = client.get("/_dash-dependencies").json
    found = next(each for each in dependencies if output in each["output"])

    def filled(part: str) -> list[dict[str, Any]]:
        return [{**each, "value": values.get(f"{each['id']}.{each['property']}")} for each in found[part]]

    names = found["output"].strip(".").split("...")
    outputs = [dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)) for name in names]
    body = {
        "output": found["output"],
        "outputs": outputs if found["output"].startswith("..") else outputs[0],
        "inputs": filled("inputs"),
        "state": filled("state"),
        "changedPropIds": [changed],
    }
    return client.post("/_dash-update-component", json=body)


def test_every_id_that_the_scripts_write_is_in_the_layout(settings: Settings):
    ids = {str(getattr(each, "id", None)) for each in create_app(settings).validation_layout._traverse()}
    written = {name for path in ASSETS.glob("*.js") for name in re.findall(r'\bset\("([^"]+)"', path.read_text())}
    assert len(written) > 8
    assert written <= ids
    fields = re.findall(r'"([a-z-]+)",', (ASSETS / "new_study.js").read_text().split("FIELDS = [")[1].split("]")[0])
    assert [f"new-study-{name}" for name in fields] == [new_study.field_id(name) for name in FIELDS]


def test_a_press_on_cancel_cancels_that_job(desk: Desk, client: Any):
    job = study_job(desk)
    pressed = {"job": job.id, "times": 1}
    name = f"{jobs.CANCEL}.data"
    answer = call(client, f"{jobs.SAID}.children", {name: pressed}, name)
    assert answer.json["response"][jobs.SAID]["children"] == "mine is cancelled"
    assert desk.ledger.job(job.id).cause == "cancelled by ann"
    gone = call(client, f"{jobs.SAID}.children", {name: {**pressed, "job": "x"}}, name)
    assert "no such job" in gone.text
    assert call(client, f"{jobs.SAID}.children", {name: {**pressed, "job": 7}}, name).status_code == 204


def test_a_press_on_compute_again_asks_for_a_study_that_failed_and_for_no_other_job(desk: Desk, client: Any):
    job = study_job(desk)
    name = f"{jobs.CANCEL}.data"

    def pressed(job_id: str) -> str:
        told = call(client, f"{jobs.SAID}.children", {name: {"job": job_id, "act": "again", "times": 1}}, name)
        return str(told.json["response"][jobs.SAID]["children"])

    assert "mine is queued; only a study that failed is computed again" in pressed(job.id)
    desk.ledger.fail(desk.ledger.take("bulk", "w", "bell"), "PyTorch was 2.14 and is 2.15 now", final=True)
    assert pressed(job.id).startswith("mine is computed again")
    again, failed = desk.ledger.jobs()
    assert (again.state, again.request, again.key) == ("queued", failed.request, job.key)
    assert "mine was asked for already, by " in pressed(job.id)
    assert "there is no such job" in pressed("x")
    assert len(desk.ledger.jobs()) == 2


def test_a_form_that_has_settled_asks_for_its_price_and_only_then_may_be_asked_for(desk: Desk, client: Any):
    values = {f"{new_study.field_id(name)}.value": value for name, value in FIELDS.items()}
    values |= {"new-study-model.value": MODELS[0], "new-study-images.value": "images/pets"}
    settled, pressed = f"{new_study.SETTLED}.data", f"{new_study.FORM}.n_submit"

    def follow(changed: str) -> dict[str, Any]:
        return call(client, f"{new_study.PRICE}.children", values, changed).json["response"]

    first = follow(settled)
    assert first[new_study.SUBMIT]["disabled"]
    values[f"{new_study.ASKED}.data"] = first[new_study.ASKED]["data"]
    early = call(client, f"{new_study.GO}.data", {**values, pressed: 1}, pressed)
    assert "Wait until the price" in early.text
    assert desk.ledger.jobs(kinds=["study"]) == []
    answered(desk, PRICE)
    assert not follow(f"{new_study.HEARD}.data")[new_study.SUBMIT]["disabled"]
    other = call(client, f"{new_study.GO}.data", {**values, pressed: 1, "new-study-seed.value": 5}, pressed)
    assert "Wait until the price" in other.text
    went = call(client, f"{new_study.GO}.data", {**values, pressed: 1}, pressed)
    (job,) = desk.ledger.jobs(kinds=["study"])
    assert went.json["response"][new_study.GO]["data"]["href"] == f"/jobs?job={job.id}"


def test_the_picker_has_a_study_that_was_published_since(desk: Desk, client: Any):
    write_tiny_study(desk.settings.studies / "fresh")
    name = f"{header.STUDIES}.data"
    answer = call(client, f"{header.STUDY}.options", {name: "mark"}, name)
    assert [each["value"] for each in answer.json["response"][header.STUDY]["options"]] == ["fresh"]


def test_who_asks_is_the_user_of_the_server_even_without_a_name(monkeypatch: pytest.MonkeyPatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr(access.getpass, "getuser", nameless)
    assert access.current().name == "someone"


@pytest.mark.parametrize("address", ["/jobs", "/new", "/jobs?job=%01", "/new?x=<script>"])
def test_every_page_is_the_one_document(client: Any, address: str):
    answer = client.get(address)
    assert answer.status_code == 200
    assert 'id="react-entry-point"' in answer.text
    assert "x=<script>" not in answer.text


def test_every_live_job_is_told_and_of_the_ended_ones_the_last(
    desk: Desk, client: Any, monkeypatch: pytest.MonkeyPatch
):
    for n in range(250):
        desk.submit(PruneRequest(study="mine", content="0" * 64, images=("a",), heads=((0, n),)), f"bob {n % 5}")
    told = client.get("/jobs.json?shown=prune").json
    assert len(told["rows"]) == told["live"] == 250
    monkeypatch.setattr(jobs, "MOST_ENDED", 3)
    for row in told["rows"][:3]:
        desk.cancel(row["id"], "bob")
    study_job(desk)  # of another kind
    told = client.get("/jobs.json?shown=prune").json
    assert (len(told["rows"]), told["older"]) == (250, "")
    for row in told["rows"][:4]:
        desk.cancel(row["id"], "bob")
    told = client.get("/jobs.json?shown=prune").json
    assert [row["state"]["word"] for row in told["rows"]] == ["queued"] * 243 + ["cancelled"] * 3
    assert "that ended are shown" in told["older"]


def test_priced_says_when_nothing_will_be_computed(desk: Desk):
    request = form(desk).request
    ask_price(desk, request, None, again=False)
    answered(desk, PRICE | {"exists": True, "quarantined": 2})
    (job,) = desk.ledger.jobs(kinds=["price"])
    said = str(priced(job, desk.ledger.result(job.key)).said)
    assert "nothing will be computed" in said
    assert "2 pictures cannot be read" in said
