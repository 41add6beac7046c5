"""What becomes of a unit: done, failed, declined, cancelled, lost or handed back, and the ledger hears which."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.client import celery_app
from jobs.database import LedgerUnavailableError
from jobs.ledger import Ledger
from jobs.requests import FIXED, INTERACTIVE, kinds
from jobs.work import CancelledError, Job, Lease, Step
from store.errors import DiskFullError, LostLeaseError
from store.settings import Settings
from workers import doers, runner, tasks
from workers.runner import DeclineError, HandBackError, MistakeError, UnfitError, Work, run_unit
from workers.tasks import cause_of_death

from .queue_help import attempts, wait_until


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a data folder of its own; lives are short here."""
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.02)
    return Settings(data=tmp_path)


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.ledger_url)


def asked(ledger: Ledger, *names: str) -> Job:
    """A job of one unit a name, all of one phase."""
    steps = [Step(0, number, name, 1) for number, name in enumerate(names or ("only",))]
    job, _ = ledger.submit("prune", "interactive", {}, "key", "title", "ann", steps, answered_once=False)
    return job


def taken(ledger: Ledger) -> Lease:
    lease = ledger.take("interactive", "w", "bell")
    assert lease is not None
    return lease


def run(settings: Settings, ledger: Ledger, do: Callable[[Lease, Work], None], **other: object) -> Job:
    """The job after one unit of it was done by `do`."""
    lease = taken(ledger)
    run_unit(settings, ledger, lease, doer=lambda kind: do, **other)  # type: ignore[arg-type]
    return ledger.job(lease.job)


def test_a_unit_that_is_finished_gives_the_jobs_result(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        work.check()
        work.note({"a": 1})
        work.hold()
        work.finish({"seconds": 1.0}, {"answer": 42})

    job = run(settings, ledger, do)
    assert job.state == "done" and job.facts == {"a": 1}
    assert ledger.result("key") == {"answer": 42}


def test_a_plan_adds_the_units_of_later_phases(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        work.plan([Step(1, 0, "later", 3)], {"price": 2})
        work.finish()

    job = run(settings, ledger, do)
    assert (job.state, job.units_done, job.units_total, job.facts) == ("running", 1, 2, {"price": 2})
    assert taken(ledger).step == Step(1, 0, "later", 3)


def test_an_error_fails_the_attempt_with_its_trace_and_the_last_lines_of_the_log(
    settings: Settings, ledger: Ledger
) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        for number in range(100):
            logging.getLogger("some.library").warning("line %d", number)
        raise KeyError("lost")

    for _ in range(3):
        job = run(settings, ledger, do)
    assert job.state == "failed" and job.cause == "only failed 3 times: KeyError: 'lost'"
    assert job.log is not None and len(job.log.splitlines()) == runner.LOG_LINES
    assert "some.library: line 99" in job.log and "line 10\n" not in job.log
    assert job.log.endswith("KeyError: 'lost'")


def test_a_doer_that_forgets_to_finish_has_failed(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)
    job = run(settings, ledger, lambda lease, work: None)
    assert job.state == "running" and "without work.finish()" in (job.note or "")


def test_a_mistake_fails_the_job_at_once_with_its_words_alone(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        raise MistakeError("model 'x' is not a timm model name", field="model")

    job = run(settings, ledger, do)
    assert (job.state, job.cause, job.log) == ("failed", "model 'x' is not a timm model name", None)


@pytest.mark.parametrize(
    "error",
    [
        DeclineError("not now", 0),
        DiskFullError("12 MB needed"),
        HandBackError("stopped"),
        LedgerUnavailableError("the ledger does not answer"),
    ],
)
def test_what_cannot_be_done_now_never_counts_and_says_why(
    settings: Settings, ledger: Ledger, error: Exception
) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        raise error

    job = run(settings, ledger, do)
    assert job.state == "running" and job.note == str(error)
    assert attempts(settings) == ["declined"]


def test_what_does_not_fit_this_worker_is_told_as_that(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        raise UnfitError("the device was cuda and is cpu now", 0)

    job = run(settings, ledger, do)
    assert job.note == "waits for a worker that fits its plan: the device was cuda and is cpu now"
    assert attempts(settings) == ["unfit"]


def test_a_full_disk_is_tried_again_later_and_what_is_declined_for_no_time_at_once(
    settings: Settings, ledger: Ledger
) -> None:
    asked(ledger, "first", "second")

    def full(lease: Lease, work: Work) -> None:
        raise DiskFullError("12 MB needed")

    def elsewhere(lease: Lease, work: Work) -> None:
        raise DeclineError("another device", 0)

    run(settings, ledger, full)
    run(settings, ledger, elsewhere)
    assert ledger.ready("interactive") == 1 and taken(ledger).step.name == "second"


def wait_for_check(work: Work) -> None:
    """As a doer between its batches."""
    wait_until(lambda: work.check(), 10)


def test_a_cancelled_job_stops_its_unit_at_the_next_check(settings: Settings, ledger: Ledger) -> None:
    job = asked(ledger)
    seen: list[Exception] = []

    def do(lease: Lease, work: Work) -> None:
        ledger.cancel(job.id, "bob")
        try:
            wait_for_check(work)
        except CancelledError as error:
            seen.append(error)
            raise

    after = run(settings, ledger, do)
    assert len(seen) == 1 and after.state == "cancelled" and after.cause == "cancelled by bob"
    assert attempts(settings) == ["cancelled"] and ledger.leases() == []


def test_a_lost_lease_stops_its_unit_and_nothing_of_it_counts(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        ledger.lose(lease.fence, "gone")
        with pytest.raises(LostLeaseError):
            wait_for_check(work)
        with pytest.raises(LostLeaseError):
            work.hold()
        with pytest.raises(LostLeaseError):
            work.finish()
        raise RuntimeError("because of that")

    job = run(settings, ledger, do)
    assert job.state == "running" and attempts(settings) == ["lost"]
    assert taken(ledger).step.name == "only"


def test_the_heartbeat_keeps_the_lease_and_tells_the_progress(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.ledger.LEASE_SECONDS", 0.5)
    asked(ledger)

    def do(lease: Lease, work: Work) -> None:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            work.progress(3, 7, "images")
            work.check()
            assert ledger.reap() == 0
            time.sleep(0.05)
        job = ledger.job(lease.job)
        assert (job.stage_done, job.stage_total, job.counted) == (3, 7, "images")
        work.finish()

    assert run(settings, ledger, do).state == "done"


def test_what_others_stop_is_handed_back_and_may_be_taken_at_once(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)

    def stop_soon(work: Work) -> None:
        threading.Timer(0.05, work.stop, [HandBackError("its worker was stopped")]).start()

    job = run(settings, ledger, lambda lease, work: wait_for_check(work), began=stop_soon)
    assert job.state == "running" and attempts(settings) == ["declined"]
    assert ledger.ready("interactive") == 1


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    ],
)
def test_after_an_error_that_spoils_the_device_the_attempt_fails_and_the_process_leaves(
    settings: Settings, ledger: Ledger, words: str
) -> None:
    asked(ledger)
    left: list[tuple[int, list[str | None]]] = []

    def do(lease: Lease, work: Work) -> None:
        try:
            raise RuntimeError(words)
        except RuntimeError:
            raise ValueError("while its layout was made")  # noqa: B904  as code that does not know of CUDA would

    run(settings, ledger, do, leave=lambda code: left.append((code, attempts(settings))))
    assert left == [(runner.SPOILED, ["failed"])]


def test_an_error_of_torchs_accelerator_spoils_the_process_by_its_class_too(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)
    left: list[int] = []

    class AcceleratorError(RuntimeError):
        pass

    def do(lease: Lease, work: Work) -> None:
        raise AcceleratorError("device lost")

    run(settings, ledger, do, leave=left.append)
    assert left == [runner.SPOILED]


def test_running_out_of_memory_spoils_no_process(settings: Settings, ledger: Ledger) -> None:
    asked(ledger)
    left: list[int] = []

    def do(lease: Lease, work: Work) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    run(settings, ledger, do, leave=left.append)
    assert left == [] and attempts(settings) == ["failed"]


def test_a_unit_that_does_not_stop_is_ended_with_its_process(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_SECONDS", 0.1)
    job = asked(ledger)
    left = threading.Event()

    def do(lease: Lease, work: Work) -> None:
        ledger.cancel(job.id, "bob")
        assert left.wait(10)

    run(settings, ledger, do, leave=lambda code: left.set() if code == runner.STUCK else None)
    assert left.is_set()


def test_a_ledger_that_is_away_for_a_while_stops_no_unit(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(ledger)
    away = threading.Event()
    refused: list[str] = []

    def refuse(*_: object) -> None:
        refused.append("x")
        raise OSError("no route to the database")

    def do(lease: Lease, work: Work) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "renew", refuse)
            patch.setattr(ledger, "check", refuse)
            wait_until(lambda: len(refused) > 2, 10)
        work.check()
        work.finish()
        away.set()

    assert run(settings, ledger, do).state == "done" and away.is_set()


def test_every_kind_of_job_has_a_doer() -> None:
    assert set(doers.DOERS) == set(FIXED)
    assert all(callable(doers.doer(kind)) for kind in kinds())


@pytest.mark.parametrize(
    ("said", "starved", "told", "counts"),
    [
        ("Worker exited prematurely: signal 6 (SIGABRT) Job: 3.", True, "ended by SIGABRT (aborted)", True),
        ("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.", False, "ended by SIGKILL (killed)", False),
        ("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.", True, "out of memory", True),
        ("Worker exited prematurely: signal 15 (SIGTERM) Job: 3.", False, "ended by SIGTERM (terminated)", False),
        ("Worker exited prematurely: exitcode 70 Job: 0.", False, "exit code 70", True),
    ],
)
def test_what_kills_a_process_from_outside_is_no_fault_of_the_unit(
    said: str, starved: bool, told: str, counts: bool
) -> None:
    cause, counted = cause_of_death(said, starved=starved)
    assert told in cause and counted == counts


def test_that_the_system_ended_a_process_for_want_of_memory_is_known_for_two_looks(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = [3]
    monkeypatch.setattr(tasks, "starved_processes", lambda: ended[0])
    monkeypatch.setattr(tasks, "ring_on", lambda *given: None)
    watch = tasks.Watch(celery_app(settings), ledger, INTERACTIVE)
    assert not watch.starved()
    ended[0] += 1
    assert watch.starved()
    watch.look()
    assert watch.starved()
    watch.look()
    assert not watch.starved()
