"""How is a job asked for? The ledger keeps it, once; the bell is rung, and when nobody hears it the answer says so."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.backends.base import DisabledBackend

from jobs import client as queue
from jobs.client import TRANSPORT, UNHEARD, Desk, ring_on
from jobs.requests import BULK, INTERACTIVE, PriceRequest, StudyRequest
from jobs.work import JobNotFoundError, StudyAskedError
from store.settings import Settings
from tests.queue_help import a_queue, toy


@pytest.fixture
def q(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A queue's server and a desk, and nobody who works."""
    with a_queue(tmp_path) as each:
        yield each


@pytest.fixture
def deserted(tmp_path: Path) -> Desk:
    """A desk with no queue at all."""
    return Desk(Settings(data=tmp_path))


def bells(q: SimpleNamespace, name: str = INTERACTIVE) -> list[dict[str, object]]:
    """The messages that wait, the oldest last."""
    return [json.loads(each) for each in q.server.client().lrange(name, 0, -1)]


def test_a_request_becomes_a_job_with_its_units_and_one_bell_that_carries_only_its_id(q: SimpleNamespace) -> None:
    submitted = q.desk.submit(toy("a", images=12), "ann")
    job = submitted.job
    assert submitted.new and submitted.unheard is None
    assert (job.kind, job.queue, job.who, job.state) == ("prune", INTERACTIVE, "ann", "queued")
    assert (job.units_total, job.images_total, job.title) == (4, 12, "L0·H0 of a on 12 images")
    (bell,) = bells(q)
    assert bell["content-type"] == "application/json" and bell["headers"]["task"] == "headscope.work"  # type: ignore[index]
    assert job.id in bell["headers"]["argsrepr"]  # type: ignore[index]


def test_studies_wait_in_a_queue_of_their_own(q: SimpleNamespace) -> None:
    of = StudyRequest("vit_tiny_patch16_224", Path("images"), name="s")
    assert q.desk.submit(of, "ann").job.queue == BULK
    assert q.desk.submit(PriceRequest(of), "ann").job.queue == INTERACTIVE
    assert len(bells(q, BULK)) == len(bells(q)) == 1


def test_equal_requests_are_one_job_however_many_ask_at_once(deserted: Desk) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: deserted.submit(toy("same"), f"person {n}"), range(16)))
    assert len({answer.job.id for answer in answers}) == 1 and sum(answer.new for answer in answers) == 1


def test_what_was_answered_once_is_not_computed_again_and_rings_no_more(
    q: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.client.derived.is_whole", lambda folder: True)  # its result lies in the store
    first = q.desk.submit(toy("same"), "ann")
    q.desk.ledger.finish(q.desk.ledger.take(INTERACTIVE, "w", "bell"), result={"answer": 42})
    again = q.desk.submit(toy("same"), "bob")
    assert (again.job.id, again.job.state, again.new, again.unheard) == (first.job.id, "done", False, None)
    assert len(bells(q)) == 1 and q.desk.ledger.result(again.job.key) == {"answer": 42}
    monkeypatch.undo()
    assert q.desk.submit(toy("same"), "bob").new, "its result is gone"


def test_two_different_requests_cannot_write_one_study(deserted: Desk) -> None:
    job = deserted.submit(StudyRequest("vit_tiny_patch16_224", Path("images"), name="s"), "ann").job
    with pytest.raises(StudyAskedError) as refused:
        deserted.submit(StudyRequest("vit_tiny_patch16_224", Path("images"), name="s", seed=1), "bob")
    assert refused.value.job == job.id


def test_a_request_that_asks_for_nothing_is_refused_and_leaves_nothing(deserted: Desk) -> None:
    with pytest.raises(ValueError, match="0 images; give 1 to 5,000"):
        deserted.submit(toy("a", images=0), "ann")
    assert deserted.ledger.jobs() == []


@pytest.mark.parametrize("fault", ["down", "frozen", "full", "never there"])
def test_a_job_is_kept_and_the_answer_does_not_wait_for_a_queue_that_is(
    q: SimpleNamespace, tmp_path: Path, fault: str
) -> None:
    desk = q.desk
    if fault == "down":
        q.server.kill()
    if fault == "frozen":
        q.server.send(signal.SIGSTOP)
    if fault == "full":
        q.server.client().config_set("maxmemory", "1")
    if fault == "never there":
        desk = Desk(Settings(data=tmp_path / "other", broker="redis://127.0.0.1:1/0"))
    submitted = desk.submit(toy("a"), "ann")
    assert submitted.new and submitted.unheard == UNHEARD
    assert desk.ledger.job(submitted.job.id).state == "queued"


def test_what_hangs_is_given_up_within_five_seconds() -> None:
    assert TRANSPORT["socket_timeout"] + TRANSPORT["socket_connect_timeout"] < 5 and TRANSPORT["max_retries"] == 0


@pytest.mark.parametrize("fault", ["restarted", "wiped"])
def test_the_same_desk_is_heard_again_when_the_queue_was(q: SimpleNamespace, fault: str) -> None:
    assert q.desk.submit(toy("a"), "ann").unheard is None
    if fault == "restarted":
        q.server.kill()
        assert q.desk.submit(toy("b"), "ann").unheard is not None
        q.server.start()
    else:
        q.server.client().flushall()
    before = len(bells(q))
    assert q.desk.submit(toy("c"), "ann").unheard is None
    assert len(bells(q)) == before + 1


def test_what_was_never_rung_is_rung_later_and_one_bell_is_enough(q: SimpleNamespace) -> None:
    app, ledger = queue.celery_app(q.settings), q.desk.ledger
    assert not ring_on(app, ledger, INTERACTIVE) and not bells(q)
    q.server.kill()
    for n in range(5):
        q.desk.submit(toy(f"{n}"), "ann")
    q.server.start()
    assert not ring_on(app, ledger, INTERACTIVE) and len(bells(q)) == 1
    assert ring_on(app, ledger, INTERACTIVE) and len(bells(q)) == 1
    q.server.kill()
    assert not ring_on(app, ledger, INTERACTIVE)


def test_cancelling_is_for_good_and_may_be_said_twice(deserted: Desk) -> None:
    job = deserted.submit(toy("a"), "ann").job
    for who in ("bob", "cid"):
        job = deserted.cancel(job.id, who)
        assert (job.state, job.cause) == ("cancelled", "cancelled by bob")
    assert deserted.ledger.take(INTERACTIVE, "w", "bell") is None
    with pytest.raises(JobNotFoundError):
        deserted.cancel("no such", "bob")


def test_neither_a_password_nor_anything_of_the_environment_gets_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://another.program/0")
    desk = Desk(Settings(data=tmp_path, broker="redis://:a%20secret@127.0.0.1:1/0"))
    assert desk.submit(toy("a"), "ann").unheard == UNHEARD
    assert "127.0.0.1:1" in caplog.text and "secret" not in caplog.text and "another" not in caplog.text


def test_a_result_that_somebody_put_into_the_queue_is_read_by_nobody(q: SimpleNamespace) -> None:
    job = q.desk.submit(toy("a"), "ann").job
    (bell,) = bells(q)
    forged = {"exc_type": "system", "exc_module": "os", "exc_message": ["touch harm"]}  # CVE-2021-23727
    for key in (job.id, bell["headers"]["id"]):  # type: ignore[index]
        told = {"status": "FAILURE", "result": forged, "task_id": key, "traceback": None, "children": []}
        q.server.client().set(f"celery-task-meta-{key}", json.dumps(told))
    assert isinstance(queue.celery_app(q.settings).backend, DisabledBackend)
    assert (q.desk.ledger.job(job.id).state, q.desk.ledger.job(job.id).cause) == ("queued", None)


def test_asking_and_waiting_for_work_load_neither_torch_nor_dash() -> None:
    modules = "jobs.client, workers.runner, workers.tasks, workers.doers"
    tell = f"import sys, {modules}; print(*{{'torch', 'timm', 'dash'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""
