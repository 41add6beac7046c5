"""What is somebody else's: every id that a request can name, sent by who may not have to do with it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyses.pruning import PruneRequest
from dashboard.accounts import Accounts
from dashboard.app import create_app
from dashboard.data import Shelf, facts
from dashboard.selection import default
from dashboard.views import jobs, new_study, pruning
from jobs import uploads
from jobs.client import Desk
from jobs.requests import PriceRequest, StudyRequest
from jobs.uploads import Contents
from jobs.work import Job
from store.settings import Settings
from tests.studies import write_tiny_study
from tests.test_dashboard_app import bodies

SECRET = "8f3a61c0d92be47715f08c6a2d94e3b1"
NAME = "a-secret-bird"  # of what ann sends
MODEL = "vit_tiny_patch16_224"
OTHERS = ("bob", "vic")  # an analyst and a viewer


class Lab:
    """A page on which ann has an upload that is ready, one that comes, one that waits, and a job of every kind."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data, trusted_header="X-User", secret=SECRET)
        write_tiny_study(self.settings.studies / "tiny")
        accounts = Accounts(self.settings.ledger_url)
        for name, role in {"ann": "analyst", "bob": "analyst", "vic": "viewer", "root": "admin"}.items():
            accounts.add(name, role, None)
        self.desk = Desk(self.settings)
        self.desk.ledger.keep("models", [MODEL])
        self.app = create_app(self.settings, self.desk)
        self.ready = uploads.begin(self.settings.uploads, "ann", NAME, 10)
        (self.ready.folder / f"{NAME}.csv").write_text("path,label,id\n")
        self.ready.refused.write_text(f'["{NAME}"]')
        uploads.publish(self.ready, Contents(f"{NAME}.csv", 3, 1, 0, 0, 10))
        self.coming = self.ask("ann", "POST", "/uploads", json={"name": NAME, "bytes": 10}).json["id"]
        self.waiting = self.ask("ann", "POST", "/uploads", json={"name": NAME, "bytes": 3}).json["id"]
        upload = self.ask("ann", "PUT", f"/uploads/{self.waiting}?at=0", data=b"zip").json["job"]
        study = StudyRequest(MODEL, self.settings.uploads.absolute() / self.ready.id / f"{NAME}.csv", name="theirs")
        asked = [
            PriceRequest(StudyRequest(MODEL, study.images)),
            study,
            PruneRequest(study="tiny", content="0" * 64, images=("i",), heads=((0, 0),)),
        ]
        self.jobs = {"upload": upload} | {
            kind: self.desk.submit(request, "ann").job.id
            for kind, request in zip(("price", "study", "prune"), asked, strict=True)
        }

    def ask(self, name: str, method: str, path: str, **more: Any) -> Any:
        return self.app.server.test_client().open(path, method=method, headers={"X-User": name}, **more)

    def call(self, name: str, output: str, values: dict[str, Any], changed: str) -> Any:
        """What the callback answers whose output begins so."""
        body = copy.deepcopy(next(each for key, each in bodies(self.app).items() if key.lstrip(".").startswith(output)))
        for place in [*body["inputs"], *body["state"]]:
            place["value"] = values.get(f"{place['id']}.{place['property']}")
        return self.ask(name, "POST", "/_dash-update-component", json=body | {"changedPropIds": [changed]})

    def all_jobs(self) -> list[Job]:
        return self.desk.ledger.jobs()

    def files(self) -> list[Path]:
        return sorted(self.settings.uploads.rglob("*"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, nobody_works: None) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(autouse=True)
def nothing_of_hers_is_changed(lab: Lab) -> Iterator[None]:
    before = {job.id: (job.state, job.who) for job in lab.all_jobs()}, lab.files()
    yield
    states = {job.id: (job.state, job.who) for job in lab.all_jobs() if job.id in before[0]}
    assert (states, lab.files()) == before


def test_what_is_tried_below_is_there_for_its_owner_and_for_an_admin(lab: Lab):
    for name in ("ann", "root"):
        assert len(lab.ask(name, "GET", "/uploads").json["uploads"]) == 3
        assert lab.ask(name, "GET", f"/uploads/{lab.ready.id}/refused.json").status_code == 200
        assert lab.ask(name, "GET", f"/uploads/{lab.coming}").status_code == 200
        for kind, job in lab.jobs.items():
            values = {f"{jobs.CHOSEN}.data": {"job": job}}
            assert "Asked for" in lab.call(name, jobs.DETAIL, values, f"{jobs.CHOSEN}.data").text, (name, kind)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("which", ["ready", "coming", "waiting"])
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("GET", "?job=JOB"), ("PUT", "?at=0"), ("DELETE", ""), ("GET", "/refused.json")],
)
def test_no_route_of_an_upload_is_anothers(lab: Lab, name: str, which: str, method: str, rest: str):
    upload_id = {"ready": lab.ready.id, "coming": lab.coming, "waiting": lab.waiting}[which]
    for job in lab.jobs.values():
        answer = lab.ask(name, method, f"/uploads/{upload_id}{rest.replace('JOB', job)}", data=b"x" * 10)
        assert answer.status_code in ((404, 403) if name == "vic" else (404,)), answer.text
        assert NAME not in answer.text and "ann" not in answer.text


@pytest.mark.parametrize("name", OTHERS)
def test_no_list_has_what_is_anothers(lab: Lab, name: str):
    assert NAME not in lab.ask(name, "GET", "/uploads").text
    told = lab.ask(name, "GET", "/jobs.json?shown=all")
    assert NAME not in told.text
    assert sorted(row["kind"] for row in told.json["rows"]) == ["pruning", "study"]
    assert all(row["actions"] == "" for row in told.json["rows"])
    values = {f"{new_study.OPENED}.data": {"visit": 1}, f"{new_study.UPLOADED}.data": {"id": lab.ready.id}}
    for changed in (f"{new_study.OPENED}.data", f"{new_study.UPLOADED}.data"):
        offered = lab.call(name, f"{new_study.field_id('model')}.options", values, changed)
        assert offered.status_code == 200
        assert NAME not in offered.text and lab.ready.id not in offered.text


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["upload", "price"])
def test_a_job_of_anothers_upload_is_as_if_it_were_not_there(lab: Lab, name: str, kind: str):
    job = lab.jobs[kind]
    assert lab.ask(name, "GET", f"/jobs.json?job={job}").json["watched"]["mark"] == "gone"
    for place, output in ((jobs.CHOSEN, jobs.DETAIL), (jobs.CANCEL, jobs.SAID)):
        hers = lab.call(name, output, {f"{place}.data": {"job": job}}, f"{place}.data")
        none = lab.call(name, output, {f"{place}.data": {"job": "0" * 12}}, f"{place}.data")
        assert hers.status_code == 200
        assert hers.json == none.json


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["study", "prune"])
def test_what_all_may_see_only_its_owner_and_admins_may_cancel(lab: Lab, name: str, kind: str):
    job = lab.jobs[kind]
    assert lab.ask(name, "GET", f"/jobs.json?job={job}").json["watched"]["mark"] != "gone"
    said = lab.call(name, jobs.SAID, {f"{jobs.CANCEL}.data": {"job": job}}, f"{jobs.CANCEL}.data").text
    assert ("only ann or an admin can cancel it" if name == "bob" else "takes the role analyst") in said


@pytest.mark.parametrize("name", OTHERS)
def test_no_study_is_made_and_no_price_found_of_anothers_upload(lab: Lab, name: str):
    values = {f"{new_study.field_id(field)}.value": value for field, value in new_study.FIELDS.items()}
    values |= {f"{new_study.field_id('model')}.value": MODEL, f"{new_study.FORM}.n_submit": 1}
    values |= {f"{new_study.ASKED}.data": {"key": "x", "job": lab.jobs["price"], "known": {"x": lab.jobs["price"]}}}
    for pictures in (f"uploads/{lab.ready.id}", f"uploads/{lab.ready.id}/{NAME}.csv", str(lab.ready.folder)):
        values[f"{new_study.field_id('images')}.value"] = pictures
        followed = lab.call(name, new_study.problem_id("model"), values, f"{new_study.SETTLED}.data")
        assert "pick one of the list" in followed.text
        submitted = lab.call(name, f"{new_study.GO}.data", values, f"{new_study.FORM}.n_submit")
        assert "Wait until the price" in json.dumps(submitted.json, ensure_ascii=False)
    assert len(lab.all_jobs()) == len(lab.jobs)


@pytest.mark.parametrize("name", OTHERS)
def test_a_pruning_that_another_waits_for_goes_on(lab: Lab, name: str):
    picked = default(facts(Shelf(lab.settings.studies).open("tiny"))).data()
    values: dict[str, Any] = {f"{pruning.SETTLED}.data": picked}
    waited = lab.call("ann", pruning.FOUND, values, f"{pruning.SETTLED}.data").json["response"]
    hers = waited[pruning.STATE]["data"]["jobs"]
    assert hers and waited[pruning.STATE]["data"]["waits"]
    values |= {f"{pruning.STATE}.data": waited[pruning.STATE]["data"], f"{pruning.RUN}.n_clicks": 1}
    answer = lab.call(name, pruning.FOUND, values, f"{pruning.RUN}.n_clicks")
    said = "only ann or an admin can cancel it" if name == "bob" else "to cancel jobs takes the role analyst"
    assert said in answer.text
    assert {lab.desk.ledger.job(job).state for job in hers.values()} == {"queued"}
