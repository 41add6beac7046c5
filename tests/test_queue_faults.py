"""What happens to jobs when workers, the queue's server and bells fail? Nothing is lost, nothing is done twice."""

import json
import os
import pickle
import shutil
import signal
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from jobs.requests import INTERACTIVE
from jobs.work import ENDED, Job
from tests.databases import postgres_server, postgresql  # noqa: F401
from tests.queue_help import Worker, a_port, a_queue, attempts, happened, is_dead, toy, wait_until
from workers import tasks


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A queue with two workers. One is an hour ahead, and bells are rung again soon."""
    with a_queue(tmp_path_factory.mktemp("queue")) as queue:
        queue.start("0", visibility=1)
        queue.start("1", visibility=1, skew=3600)
        yield queue


@pytest.fixture
def two(at_work: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """The queue with two workers; those that the last test ended are replaced."""
    while len(alive(at_work)) < 2:
        at_work.start(f"{len(at_work.workers)}", visibility=1)
    wait_until(lambda: all(worker.is_ready() for worker in at_work.workers))
    yield at_work
    (at_work.settings.data / "open").unlink(missing_ok=True)


def alive(queue: SimpleNamespace) -> list[Worker]:
    return [worker for worker in queue.workers if worker.process.poll() is None]


@pytest.fixture
def q(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A queue of the test's own, without workers yet."""
    with a_queue(tmp_path) as queue:
        yield queue


def ended(queue: SimpleNamespace, *jobs: Job) -> list[Job]:
    """The jobs, once all of them have ended."""
    ledger = queue.desk.ledger
    wait_until(lambda: all(ledger.job(job.id).state in ENDED for job in jobs))
    return [ledger.job(job.id) for job in jobs]


def begun(queue: SimpleNamespace, word: str, times: int = 1) -> int:
    """Process id of the last to begin a toy, once it was begun so many times."""
    wait_until(lambda: len(happened(queue.settings, "begin", word)) >= times)
    return happened(queue.settings, "begin", word)[-1][-1]


def once(queue: SimpleNamespace, word: str) -> bool:
    """Whether a toy was begun once, and ended once."""
    return len(happened(queue.settings, "begin", word)) == len(happened(queue.settings, "end", word)) == 1


def submit(queue: SimpleNamespace, word: str, images: int = 1) -> Job:
    return queue.desk.submit(toy(word, images), "ann").job


def test_a_unit_longer_than_the_bells_patience_rung_five_times_is_done_once(two: SimpleNamespace) -> None:
    job = submit(two, "sleep:5")
    for _ in range(4):
        assert two.desk.ring(INTERACTIVE, job.id) is None
    assert ended(two, job)[0].state == "done"
    assert once(two, "sleep:5") and attempts(two.settings, job.id) == ["done"]


def test_all_units_of_a_job_are_done_by_all_workers_once_each(two: SimpleNamespace) -> None:
    word = "sleep:0.1"
    job = submit(two, word, images=40)
    assert ended(two, job)[0].state == "done"
    assert len(happened(two.settings, "end", word)) == 11  # ten of images, one sums up
    assert attempts(two.settings, job.id) == ["done"] * 11
    assert len({line[-1] for line in happened(two.settings, "end", word)}) == 2


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_unit_may_start_processes_of_its_own(two: SimpleNamespace, method: str) -> None:
    assert ended(two, submit(two, f"decode:{method}"))[0].state == "done"


def test_a_unit_that_kills_its_process_is_tried_three_times_and_the_next_job_goes_on(two: SimpleNamespace) -> None:
    name = "SIGSEGV"
    poison, next_one = submit(two, f"die:{name}"), submit(two, f"after {name}")
    poison, next_one = ended(two, poison, next_one)
    assert poison.state == "failed" and name in (poison.cause or "") and "failed 3 times" in (poison.cause or "")
    assert len(happened(two.settings, "begin", f"die:{name}")) == 3
    assert next_one.state == "done"


def test_a_child_killed_from_outside_is_no_fault_of_its_unit(two: SimpleNamespace) -> None:
    word = "gate"
    job = submit(two, word)
    os.kill(begun(two, word), signal.SIGKILL)
    begun(two, word, times=2)
    (two.settings.data / "open").touch()
    assert ended(two, job)[0].state == "done"
    assert attempts(two.settings, job.id) == ["lost", "done"]


def test_a_unit_whose_job_is_cancelled_stops_and_its_worker_goes_on(two: SimpleNamespace) -> None:
    job = submit(two, "sleep:300")
    begun(two, "sleep:300")
    two.desk.cancel(job.id, "bob")
    wait_until(lambda: not two.desk.ledger.leases(), 5)
    assert attempts(two.settings, job.id) == ["cancelled"]
    assert ended(two, submit(two, "after the cancelled one"))[0].state == "done"


def send_raw(queue: SimpleNamespace, body: bytes, content_type: str, task: str, **headers: object) -> None:
    """Put a message onto the queue as anyone could who reaches the server."""
    tag = str(uuid4())
    properties = {
        "correlation_id": tag, "delivery_mode": 2, "delivery_tag": tag, "body_encoding": "base64", "priority": 0,
        "delivery_info": {"exchange": "", "routing_key": INTERACTIVE},
    }  # fmt: skip
    message = {
        "body": b64encode(body).decode(), "content-encoding": "utf-8", "content-type": content_type,
        "headers": {"lang": "py", "task": task, "id": tag, "root_id": tag} | headers, "properties": properties,
    }  # fmt: skip
    queue.server.client().lpush(INTERACTIVE, json.dumps(message))


class Harm:
    """What runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_messages_that_are_no_bells_are_refused_and_the_worker_lives_on(two: SimpleNamespace) -> None:
    harm = two.settings.data / "harm"
    plain = json.dumps([[], {}, {}]).encode()
    before = {worker.process.pid: worker.child() for worker in alive(two)}
    for _ in alive(two):
        send_raw(two, pickle.dumps(([Harm(harm)], {}, {})), "application/x-python-serialize", "headscope.work")
        send_raw(two, pickle.dumps(Harm(harm)), "application/data", "headscope.work")
        send_raw(two, plain, "application/json", "os.system")
        send_raw(two, plain, "application/json", "celery.no_such_task")
        send_raw(two, b"{", "application/json", "headscope.work")
        send_raw(two, b"7", "application/json", "headscope.work")
        send_raw(two, json.dumps([["a", "b", "c"], {"d": 1}, {}]).encode(), "application/json", "headscope.work")
        send_raw(two, json.dumps([[{"x": ["../../etc"]}], {}, {}]).encode(), "application/json", "headscope.work")
        send_raw(two, plain, "application/json", "headscope.work", id="x" * 100_000)
    wait_until(lambda: not two.server.client().llen(INTERACTIVE))
    assert ended(two, *(submit(two, f"after garbage {n}") for n in range(4)))[0].state == "done"
    assert before == {worker.process.pid: worker.child() for worker in alive(two)}
    assert not harm.exists()


def test_a_server_that_is_frozen_wiped_or_restarted_loses_and_doubles_nothing(two: SimpleNamespace) -> None:
    jobs: list[Job] = []
    server = two.server

    def ask(word: str, *, heard: bool) -> None:
        submitted = two.desk.submit(toy(word), "ann")
        assert (submitted.unheard is None) == heard
        jobs.append(submitted.job)

    ask("sleep:3", heard=True)
    begun(two, "sleep:3")
    ask("sleep:3.1", heard=True)
    server.send(signal.SIGSTOP)
    ask("while frozen", heard=False)
    server.send(signal.SIGCONT)
    ask("after the thaw", heard=True)
    server.client().flushall()
    ask("after the wipe", heard=True)
    server.kill()
    ask("while down", heard=False)
    server.start()
    ask("after the restart", heard=True)
    for _ in range(3):
        server.kill()
        server.start()
    shutil.rmtree(server.folder / "appendonlydir")
    server.kill()
    server.start()
    assert {job.state for job in ended(two, *jobs)} == {"done"}
    for job in jobs:
        assert once(two, job.request["study"]) and attempts(two.settings, job.id) == ["done"]
    for worker in alive(two):  # one that hears no bells any more would end in the midst of the next test
        worker.kill()


def holder(queue: SimpleNamespace, pid: int) -> Worker:
    """The worker whose child has that number."""
    return next(worker for worker in alive(queue) if worker.child() == pid)


def test_of_a_worker_that_is_killed_whole_another_takes_the_unit_long_before_its_lease_lapses(
    two: SimpleNamespace,
) -> None:
    job = submit(two, "gate:killed")
    pid = begun(two, "gate:killed")
    holder(two, pid).kill()
    assert begun(two, "gate:killed", times=2) != pid
    (two.settings.data / "open").touch()
    assert ended(two, job)[0].state == "done"
    assert attempts(two.settings, job.id) == ["lost", "done"] and len(happened(two.settings, "end", "gate:killed")) == 1
    assert is_dead(pid)


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_worker_that_is_asked_to_stop_hands_its_unit_back_at_once(two: SimpleNamespace, whole_group: bool) -> None:
    word = f"gate:{whole_group}"
    job = submit(two, word)
    pid = begun(two, word)
    worker = holder(two, pid)
    os.killpg(worker.process.pid, signal.SIGTERM) if whole_group else worker.process.terminate()
    assert worker.process.wait(60) == 0 and is_dead(pid)
    begun(two, word, times=2)
    (two.settings.data / "open").touch()
    assert ended(two, job)[0].state == "done" and attempts(two.settings, job.id) == ["declined", "done"]


def test_a_worker_on_another_machine_that_sleeps_past_its_lease_is_replaced_and_writes_nothing(
    q: SimpleNamespace,
) -> None:
    sleeper = q.start("sleeper", machine="elsewhere", lease=5)
    job = submit(q, "gate")
    processes = begun(q, "gate"), sleeper.process.pid
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    q.start("other", lease=5)
    begun(q, "gate", times=2)
    (q.settings.data / "open").touch()
    assert ended(q, job)[0].state == "done"
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: " left (" in sleeper.log.read_text())
    assert len(happened(q.settings, "end")) == 1 and attempts(q.settings, job.id) == ["lost", "done"]


def test_a_job_cancelled_while_it_waits_stays_so_when_everything_starts_again(q: SimpleNamespace) -> None:
    job, other = submit(q, "cancelled"), submit(q, "other")
    q.desk.cancel(job.id, "bob")
    q.server.kill()
    q.server.start()
    q.start("a")
    assert ended(q, other)[0].state == "done"
    assert q.desk.ledger.job(job.id).cause == "cancelled by bob"
    assert not happened(q.settings, "begin", "cancelled") and attempts(q.settings, job.id) == []


def test_a_worker_that_hears_no_bells_any_more_ends_so_that_another_is_started(q: SimpleNamespace) -> None:
    deaf = q.start("deaf", deaf=True, patience=1)
    job = submit(q, "unheard")
    assert deaf.process.wait(60) == tasks.DEAF
    assert q.desk.ledger.job(job.id).state == "queued"


@pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server on PATH")
def test_redis_behind_a_password_and_a_ledger_in_postgresql_serve_as_well(tmp_path: Path, postgresql: str) -> None:  # noqa: F811
    with a_queue(tmp_path, str(shutil.which("redis-server")), a_port(), postgresql) as queue:
        first = queue.start("a")
        queue.start("b")
        wait_until(lambda: len(queue.desk.ledger.workers()) == 2)
        jobs = [submit(queue, f"quick {n}") for n in range(10)] + [submit(queue, "sleep:0.05", images=160)]
        gate = submit(queue, "gate")
        begun(queue, "gate")
        first.kill()
        queue.server.kill()
        queue.server.start()
        (queue.settings.data / "open").touch()
        assert {job.state for job in ended(queue, gate, *jobs)} == {"done"}
        for job in (gate, *jobs):
            assert attempts(queue.settings, job.id).count("done") == queue.desk.ledger.job(job.id).units_total
        assert "secret" not in first.log.read_text()
