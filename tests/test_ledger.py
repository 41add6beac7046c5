"""What the ledger promises of jobs, units and leases, in SQLite and in PostgreSQL."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from jobs import tables
from jobs.ledger import CLEAN, LEASE_SECONDS, MOST_COUNTED, MOST_FAILED, MOST_LOST, UNFIT_SECONDS, Ledger
from jobs.work import CancelledError, Job, JobNotFoundError, Lease, Step, StudyAskedError, TooManyJobsError
from store.errors import LostLeaseError

PLAN = Step(0, 0, "plan")
IMAGES = [Step(1, number, f"images {16 * number} to {16 * number + 15}", 16) for number in range(3)]
GATHER = Step(2, 0, "gather")


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


def submit(ledger: Ledger, key: str = "key", who: str = "ann", *steps: Step, kind: str = "price", **other) -> Job:
    job, _ = ask(ledger, key, who, *steps, kind=kind, **other)
    return job


def ask(
    ledger: Ledger,
    key: str = "key",
    who: str = "ann",
    *steps: Step,
    kind: str = "price",
    queue: str = "bulk",
    study: str | None = None,
    once: bool = False,
    most: int | None = None,
) -> tuple[Job, bool]:
    asked, title = {"of": key}, f"job {key}"
    steps = steps or (PLAN,)
    return ledger.submit(kind, queue, asked, key, title, who, steps, answered_once=once, study=study, most=most)


def take(ledger: Ledger, worker: str = "worker", bell: str = "bell") -> Lease:
    lease = ledger.take("bulk", worker, bell)
    assert lease is not None
    return lease


def pass_time(ledger: Ledger, seconds: float) -> None:
    """What the ledger looks like, so many seconds later in which nobody did anything."""
    with ledger._database.write() as (conn, _):
        for table in tables.metadata.sorted_tables:
            times = [column for column in table.c if isinstance(column.type, tables.Double) and column.name != "rate"]
            if times:
                conn.execute(update(table).values({column: column - seconds for column in times}))


def outcomes(ledger: Ledger) -> list[str | None]:
    with ledger._database.read() as (conn, _):
        return list(conn.scalars(select(tables.attempts.c.outcome).order_by(tables.attempts.c.fence)))


# Jobs


def test_a_job_waits_then_runs_then_is_done_and_its_result_is_kept(ledger):
    job = submit(ledger)
    assert (job.state, job.place, job.stage, job.units_done, job.units_total) == ("queued", 0, "plan", 0, 1)
    lease = take(ledger)
    assert (lease.job, lease.kind, lease.key, lease.request, lease.step) == (
        job.id,
        "price",
        "key",
        {"of": "key"},
        PLAN,
    )
    running = ledger.job(job.id)
    assert (running.state, running.place, running.workers, running.stage) == ("running", None, 1, "plan")
    ledger.finish(lease, result={"found": [1, None, 0.5]})
    done = ledger.job(job.id)
    assert (done.state, done.units_done, done.workers, done.stage, done.cause) == ("done", 1, 0, None, None)
    assert done.submitted <= done.started <= done.finished == done.beat
    assert ledger.result("key") == {"found": [1, None, 0.5]}
    assert ledger.result("other") is None
    assert ledger.take("bulk", "worker", "bell") is None


def test_equal_requests_are_one_job_while_it_waits_or_runs(ledger):
    first, new = ask(ledger)
    assert new
    assert ask(ledger, who="bob") == (ledger.job(first.id), False)
    lease = take(ledger)
    assert ask(ledger) == (ledger.job(first.id), False)
    ledger.finish(lease, result={})
    again, new = ask(ledger)
    assert new and again.id != first.id


def test_fifty_people_who_ask_the_same_at_once_get_one_job(ledger, ledger_url):
    start = threading.Barrier(50)

    def one(number: int) -> tuple[str, bool]:
        start.wait()
        job, new = ask(ledger, who=f"person {number}")
        return job.id, new

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(one, range(50)))
    assert len({job for job, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert ledger.counts() == {"queued": 1}


def test_what_is_answered_once_is_answered_by_the_job_that_found_it(ledger):
    job = submit(ledger, once=True)
    ledger.finish(take(ledger), result={"x": 1})
    assert ask(ledger, once=True) == (ledger.job(job.id), False)
    assert ask(ledger, once=False)[1]


def test_a_job_that_failed_answers_nothing_even_if_it_had_found_something(ledger):
    job = submit(ledger, "key", "ann", PLAN, GATHER, once=True)
    ledger.finish(take(ledger), result={"x": 1})
    ledger.fail(take(ledger), "no", final=True)
    again, new = ask(ledger, once=True)
    assert new and again.id != job.id


def test_one_person_has_so_many_jobs_at_a_time_and_keeps_nobody_else_waiting(ledger):
    jobs = [submit(ledger, f"job {number}", "ann", most=3) for number in range(3)]
    with pytest.raises(TooManyJobsError, match="3 jobs of ann wait or run, and one person may have 3"):
        submit(ledger, "one more", "ann", most=3)
    assert ask(ledger, "job 1", "ann", most=3) == (ledger.job(jobs[1].id), False)  # what is there already
    submit(ledger, "another's", "bob", most=3)
    ledger.cancel(jobs[0].id, "ann")
    submit(ledger, "one more", "ann", most=3)


def test_a_study_is_written_by_one_job_at_a_time(ledger):
    job = submit(ledger, "a", "ann", study="deit")
    with pytest.raises(StudyAskedError, match=f"job {job.id} of ann.*'deit'") as refused:
        submit(ledger, "b", study="deit")
    assert refused.value.job == job.id
    assert ask(ledger, "a", study="deit") == (job, False)
    submit(ledger, "c", study="demo")
    ledger.cancel(job.id, "ann")
    submit(ledger, "b", study="deit")


def test_a_job_that_is_not_there_is_said_to_be_missing(ledger):
    for ask_for in (ledger.job, lambda job: ledger.cancel(job, "ann")):
        with pytest.raises(JobNotFoundError, match="no job 'none'"):
            ask_for("none")


def test_jobs_are_listed_running_first_then_waiting_then_ended_and_the_newest_first(ledger):
    for key in "abcde":
        submit(ledger, key, kind="study" if key == "b" else "price")
    for key in "ab":
        assert take(ledger).key == key
    with ledger._database.read() as (conn, _):
        fence = conn.scalar(select(tables.attempts.c.fence))
    ledger.lose(fence, "gone")
    ledger.finish(take(ledger))
    ledger.cancel(next(job.id for job in ledger.jobs() if job.key == "d"), "ann")
    listed = [(job.key, job.state) for job in ledger.jobs()]
    assert listed == [("b", "running"), ("e", "queued"), ("c", "queued"), ("d", "cancelled"), ("a", "done")]
    assert [job.key for job in ledger.jobs(limit=4)] == ["b", "e", "c", "d"]
    assert [job.key for job in ledger.jobs(limit=1)] == ["b"]
    assert [job.key for job in ledger.jobs(kinds=["study"])] == ["b"]
    assert [ledger.job(job.id) for job in ledger.jobs()] == ledger.jobs()
    assert ledger.counts() == {"running": 1, "queued": 2, "cancelled": 1, "done": 1}


def test_names_that_no_database_takes_are_kept_as_far_as_they_can_be(ledger):
    job = submit(ledger, who="ann\udce9")
    assert job.who == "ann?"
    ledger.fail(take(ledger), "photo\udcff.jpg\0 is not a picture", "line\0", final=True)
    assert ledger.job(job.id).cause == "photo?.jpg\ufffd is not a picture"
    submit(ledger)
    ledger.finish(take(ledger), result={"image": "photo\udcff.jpg\0"})
    assert ledger.result("key") == {"image": "photo\udcff.jpg\0"}


# Units and phases


def test_units_of_a_phase_wait_for_all_units_of_the_phases_below(ledger):
    submit(ledger, "key", "ann", *IMAGES, GATHER)
    leases = [take(ledger) for _ in IMAGES]
    assert [lease.step for lease in leases] == IMAGES
    assert ledger.take("bulk", "worker", "bell") is None and ledger.ready("bulk") == 0
    for lease in leases[:2]:
        ledger.finish(lease)
    assert ledger.take("bulk", "worker", "bell") is None
    ledger.lose(leases[2].fence, "gone")
    ledger.finish(take(ledger))
    assert ledger.ready("bulk") == 1
    assert take(ledger).step == GATHER


def test_a_plan_gives_units_and_facts_and_one_that_is_made_anew_takes_its_place(ledger):
    job = submit(ledger)
    lease = take(ledger)
    ledger.plan(lease, [*IMAGES, GATHER, Step(3, 0, "of another version")], {"price": 1, "kept": True})
    for _ in range(2):
        ledger.plan(lease, [*IMAGES, GATHER], {"price": 2})
    ledger.note(lease, {"device": "cpu"})
    planned = ledger.job(job.id)
    assert (planned.units_total, planned.images_total, planned.state) == (5, 48, "running")
    assert planned.facts == {"price": 2, "kept": True, "device": "cpu"}
    ledger.finish(lease)
    assert take(ledger).facts == planned.facts


@pytest.mark.parametrize("phase", [0, 1, CLEAN.phase])
def test_a_plan_for_a_phase_that_has_begun_is_refused(ledger, phase):
    submit(ledger, "key", "ann", Step(1, 0, "plan"))
    with pytest.raises(ValueError, match=f"'gather' is of phase {phase}; .*2 to 999"):
        ledger.plan(take(ledger), [Step(phase, 7, "gather")], {})


def test_a_study_is_done_only_with_the_result_of_its_own_job(ledger):
    first = submit(ledger, "key", "ann", study="deit")
    ledger.finish(take(ledger), result={"study": "deit"})
    assert ledger.job(first.id).state == "done"
    second = submit(ledger, "key", "ann", study="deit")
    ledger.finish(take(ledger))
    failed = ledger.job(second.id)
    assert (failed.state, failed.units_done, failed.finished is not None) == ("failed", 1, True)
    assert failed.cause == (
        "every step is done, and yet the study 'deit' is not published; "
        "ask for the same study again, which goes on with what is there"
    )
    third = submit(ledger, "key", "ann", PLAN, GATHER, study="deit")
    ledger.finish(take(ledger), result={"study": "deit"})
    ledger.finish(take(ledger))
    assert ledger.job(third.id).state == "done"


# A worker that would compute something else


def unfit(ledger: Ledger, worker: str, cause: str = "PyTorch was 2.14 and is 2.15 now") -> Job:
    lease = take(ledger, worker)
    ledger.decline(lease, cause, 15, unfit=True)
    return ledger.job(lease.job)


def test_a_job_that_does_not_fit_its_only_worker_fails_in_time_and_leaves_its_name_to_others(ledger):
    ledger.here("bulk", "bulk", "cpu")
    job = submit(ledger, "key", "ann", study="deit")
    for _ in range(4):
        waits = unfit(ledger, "bulk m 1/1 2/2")
        assert (waits.state, waits.cause) == ("running", None)
        assert waits.note == "waits for a worker that fits its plan: PyTorch was 2.14 and is 2.15 now"
        assert ledger.take("bulk", "bulk m 1/1 2/2", "bell") is None
        pass_time(ledger, UNFIT_SECONDS / 4)
    failed = unfit(ledger, "bulk m 1/1 2/2")
    assert (failed.state, failed.note) == ("failed", None)
    assert failed.cause == (
        "PyTorch was 2.14 and is 2.15 now. No worker fits the plan of this job any more; "
        "ask for the same again, which makes a new plan"
    )
    assert outcomes(ledger) == ["unfit"] * 5
    assert submit(ledger, "key", "ann", study="deit").id != job.id


def test_a_worker_that_fits_keeps_a_job_from_failing_for_those_that_do_not(ledger):
    """For as long as it is there: whether it has not tried yet, has done a unit, is at one, or could not just then."""
    submit(ledger, "key", "ann", *(Step(0, number, "images", 1) for number in range(9)))

    def cpu(*others: str) -> str:
        """The state after another UNFIT_SECONDS, in which the others were there."""
        pass_time(ledger, UNFIT_SECONDS)
        for name in ("cpu", *others):
            ledger.here(name, "bulk", "?")
        return unfit(ledger, "cpu m 1/1 2/2").state

    assert [cpu("gpu"), cpu("gpu")] == ["running"] * 2
    ledger.finish(take(ledger, "gpu m 3/3 4/4"))
    assert [cpu(), cpu("gpu")] == ["running"] * 2
    at_it = take(ledger, "gpu m 3/3 4/4")
    assert cpu() == "running"
    ledger.decline(at_it, "disk full", 0)
    assert cpu("gpu") == "running"
    assert unfit(ledger, "gpu m 3/3 4/4").state == "running"
    assert cpu("gpu") == "failed"


def test_a_worker_of_another_queue_or_one_that_is_gone_is_not_waited_for(ledger):
    submit(ledger, "key", "ann")
    ledger.here("gone", "bulk", "cuda")
    unfit(ledger, "bulk m 1/1 2/2")
    pass_time(ledger, UNFIT_SECONDS)
    ledger.here("other", "interactive", "cuda")
    assert unfit(ledger, "bulk m 1/1 2/2").state == "failed"


def test_a_worker_that_has_just_started_waits_for_others_as_long_again(ledger):
    submit(ledger, "key", "ann")
    unfit(ledger, "bulk m 1/1 2/2")
    pass_time(ledger, 3600)
    assert unfit(ledger, "bulk m 5/5 6/6").state == "running"
    pass_time(ledger, UNFIT_SECONDS)
    assert unfit(ledger, "bulk m 5/5 6/6").state == "failed"


def test_facts_of_units_are_read_by_their_number(ledger):
    job = submit(ledger, "key", "ann", *IMAGES)
    leases = [take(ledger) for _ in IMAGES]
    for lease in reversed(leases[1:]):
        ledger.finish(lease, facts={"number": lease.step.number})
    assert ledger.unit_facts(job.id, 1) == [{"number": 1}, {"number": 2}]
    ledger.finish(leases[0])
    assert ledger.unit_facts(job.id, 1) == [{}, {"number": 1}, {"number": 2}]
    assert ledger.unit_facts(job.id, 2) == []


def test_queues_do_not_see_each_other(ledger):
    submit(ledger, queue="interactive")
    assert ledger.take("bulk", "worker", "bell") is None
    assert (ledger.ready("bulk"), ledger.ready("interactive")) == (0, 1)
    assert ledger.take("interactive", "worker", "bell") is not None


def test_people_take_turns_whoever_asked_first(ledger):
    for number in range(4):
        submit(ledger, f"ann {number}", "ann")
    submit(ledger, "bob", "bob")
    assert [ledger.job(job.id).place for job in reversed(ledger.jobs())] == [0, 2, 3, 4, 1]
    order = []
    while lease := ledger.take("bulk", "one worker", "bell"):
        order.append(lease.key)
        ledger.finish(lease)
    assert order == ["ann 0", "bob", "ann 1", "ann 2", "ann 3"]


def test_who_has_fewest_units_under_way_comes_first(ledger):
    submit(ledger, "ann", "ann", *IMAGES)
    first = take(ledger)
    ledger.finish(first)
    under_way = [take(ledger), take(ledger)]
    submit(ledger, "bob", "bob", *IMAGES)
    submit(ledger, "ann again", "ann", *IMAGES)
    assert [lease.key for lease in under_way] == ["ann", "ann"]
    assert [take(ledger).key for _ in range(5)] == ["bob", "bob", "ann again", "bob", "ann again"]


def test_no_unit_is_taken_twice_however_many_take(ledger):
    for key in "abcd":
        submit(ledger, key, key, *(Step(0, number, "unit") for number in range(25)))

    def work(worker: int) -> list[tuple[str, int]]:
        mine = []
        while lease := ledger.take("bulk", f"worker {worker}", "bell"):
            mine.append((lease.key, lease.step.number))
            ledger.finish(lease)
        return mine

    with ThreadPoolExecutor(8) as threads:
        taken = [unit for units in threads.map(work, range(8)) for unit in units]
    assert sorted(taken) == [(key, number) for key in "abcd" for number in range(25)]
    assert ledger.counts() == {"done": 4}


# Leases


def test_a_lease_that_is_not_renewed_lapses_and_its_unit_is_anothers(ledger):
    job = submit(ledger)
    first = take(ledger, "slow")
    pass_time(ledger, LEASE_SECONDS - 2)
    assert ledger.reap() == 0 and ledger.leases() == [(first.fence, "slow")]
    pass_time(ledger, 4)
    assert ledger.reap() == 1 and ledger.reap() == 0 and ledger.leases() == []
    assert ledger.job(job.id).note == "plan, once more: no heartbeat for 30 s"
    second = take(ledger)
    assert second.step == first.step and second.fence > first.fence
    assert outcomes(ledger) == ["lost", None]


def test_a_lease_that_is_renewed_stays(ledger):
    job = submit(ledger)
    lease = take(ledger)
    for done in range(3):
        pass_time(ledger, LEASE_SECONDS - 2)
        ledger.renew(lease, done, 3, "trees")
        assert ledger.reap() == 0
    seen = ledger.job(job.id)
    assert (seen.stage, seen.stage_done, seen.stage_total, seen.counted) == ("plan", 2, 3, "trees")
    ledger.hold(lease)
    assert ledger.job(job.id).stage_done == 2
    pass_time(ledger, LEASE_SECONDS + 2)
    ledger.renew(lease)  # it lapsed, but nobody has taken the unit
    ledger.finish(lease)


USES: dict[str, Callable[[Ledger, Lease], object]] = {
    "check": lambda ledger, lease: ledger.check(lease),
    "renew": lambda ledger, lease: ledger.renew(lease, 1, 2),
    "hold": lambda ledger, lease: ledger.hold(lease),
    "plan": lambda ledger, lease: ledger.plan(lease, IMAGES, {"a": 1}),
    "note": lambda ledger, lease: ledger.note(lease, {"a": 1}),
    "finish": lambda ledger, lease: ledger.finish(lease, {"a": 1}, {"a": 1}),
    "fail": lambda ledger, lease: ledger.fail(lease, "no", final=True),
    "decline": lambda ledger, lease: ledger.decline(lease, "no", 60),
}


@pytest.mark.parametrize("use", USES)
def test_a_lease_that_was_lost_changes_nothing_any_more(ledger, use):
    job = submit(ledger)
    zombie = take(ledger)
    ledger.lose(zombie.fence, "gone")
    lease = take(ledger)
    before = ledger.job(job.id)
    with pytest.raises(LostLeaseError, match=f"lease {zombie.fence} on 'plan'"):
        USES[use](ledger, zombie)
    ledger.lose(zombie.fence, "again")
    assert ledger.job(job.id) == before and ledger.result("key") is None
    assert outcomes(ledger) == ["lost", None]
    ledger.finish(lease)


# Failing


def test_a_unit_that_fails_three_times_ends_its_job_with_the_cause_and_the_log(ledger):
    job = submit(ledger, "key", "ann", *IMAGES)
    other = submit(ledger, "other", "bob")
    ledger.finish(take(ledger))
    for attempt in range(MOST_FAILED):
        lease = next(lease for lease in iter(lambda: take(ledger), None) if lease.step == IMAGES[1])
        ledger.fail(lease, f"RuntimeError: {attempt}", f"log of {attempt}")
        if attempt == 0:
            assert ledger.job(job.id).note == "images 16 to 31 failed, once more: RuntimeError: 0"
    failed = ledger.job(job.id)
    assert (failed.state, failed.note, failed.log) == ("failed", None, "log of 2")
    assert failed.cause == "images 16 to 31 failed 3 times: RuntimeError: 2"
    assert failed.finished and failed.eta is None and failed.stage is None
    assert ledger.job(other.id).state == "running"
    assert ledger.take("bulk", "worker", "bell") is None


def test_when_a_job_fails_its_other_leases_end(ledger):
    submit(ledger, "key", "ann", *IMAGES)
    first, second = take(ledger), take(ledger)
    ledger.fail(first, "no such class", final=True)
    with pytest.raises(LostLeaseError):
        ledger.hold(second)
    assert outcomes(ledger) == ["failed", "cancelled"] and ledger.leases() == []


def test_a_persons_mistake_ends_the_job_at_once_in_its_own_words(ledger):
    job = submit(ledger)
    ledger.fail(take(ledger), "there is no folder there", final=True)
    assert (ledger.job(job.id).state, ledger.job(job.id).cause) == ("failed", "there is no folder there")


def test_a_unit_that_is_lost_again_and_again_ends_its_job(ledger):
    job = submit(ledger)
    for _ in range(MOST_LOST - 1):
        ledger.lose(take(ledger).fence, "killed")
    assert ledger.job(job.id).state == "running"
    ledger.lose(take(ledger).fence, "killed")
    assert (ledger.job(job.id).state, ledger.job(job.id).cause) == (
        "failed",
        f"plan was lost {MOST_LOST} times: killed",
    )


def test_losses_and_failures_are_counted_apart_and_of_each_unit(ledger):
    job = submit(ledger, "key", "ann", *IMAGES)
    for step in IMAGES:
        for _ in range(MOST_FAILED - 1):
            ledger.fail(take(ledger), "no")
        for _ in range(MOST_LOST - 1):
            ledger.lose(take(ledger).fence, "killed")
        lease = take(ledger)
        assert lease.step == step
        ledger.finish(lease)
    assert ledger.job(job.id).state == "done"


def test_a_unit_that_is_declined_waits_with_a_note_and_that_never_counts(ledger):
    job = submit(ledger)
    for _ in range(MOST_LOST + 1):
        ledger.decline(take(ledger), "the disk is full", 20)
        assert ledger.take("bulk", "worker", "bell") is None and ledger.ready("bulk") == 0
        assert (ledger.job(job.id).state, ledger.job(job.id).note) == ("running", "the disk is full")
        pass_time(ledger, 21)
    lease = take(ledger)
    ledger.renew(lease, 1, 2)
    assert ledger.job(job.id).note is None
    ledger.finish(lease)
    assert ledger.job(job.id).state == "done"


@pytest.mark.parametrize(("counts", "outcome", "note"), [
    (True, "failed", "plan failed, once more: SIGSEGV"), (False, "lost", "plan, once more: SIGSEGV"),
])  # fmt: skip
def test_the_unit_of_a_process_that_died_is_known_by_its_bell(ledger, counts, outcome, note):
    submit(ledger, "a", "ann")
    submit(ledger, "b", "bob")
    take(ledger, bell="of a")
    other = take(ledger, bell="of b")
    ledger.crashed("of a", "SIGSEGV", counts=counts)
    ledger.crashed("of a", "SIGSEGV", counts=counts)
    ledger.crashed("of none", "SIGSEGV", counts=counts)
    assert outcomes(ledger) == [outcome, None]
    assert {job.key: job.note for job in ledger.jobs()} == {"a": note, "b": None}
    ledger.finish(other)


# Cancelling


def test_a_job_that_waits_is_cancelled_for_good(ledger, ledger_url):
    job = submit(ledger, "key", "ann", kind="study")
    cancelled = ledger.cancel(job.id, "bob")
    assert (cancelled.state, cancelled.cause, cancelled.stage) == ("cancelled", "cancelled by bob", None)
    assert cancelled.finished and cancelled.place is None
    assert ledger.cancel(job.id, "carl") == cancelled
    again = Ledger(ledger_url)
    assert again.job(job.id) == cancelled
    assert again.take("bulk", "worker", "bell") is None and again.ready("bulk") == 0


def test_a_job_that_has_ended_is_not_cancelled(ledger):
    job = submit(ledger)
    ledger.finish(take(ledger))
    assert ledger.cancel(job.id, "bob") == ledger.job(job.id)
    assert ledger.job(job.id).state == "done"


@pytest.mark.parametrize("use", ["check", "renew", "hold", "plan", "note", "finish"])
def test_whoever_is_at_a_cancelled_job_learns_of_it(ledger, use):
    job = submit(ledger)
    lease = take(ledger)
    ledger.cancel(job.id, "bob")
    with pytest.raises(CancelledError, match=f"job {job.id} was cancelled by bob"):
        USES[use](ledger, lease)
    assert ledger.job(job.id).state == "cancelled" and ledger.result("key") is None
    assert outcomes(ledger) == ["cancelled" if use == "finish" else None]


GIVE_BACK: dict[str, Callable[[Ledger, Lease], object]] = {
    "fail": lambda ledger, lease: ledger.fail(lease, "no", final=True),
    "decline": lambda ledger, lease: ledger.decline(lease, "no", 60),
    "lose": lambda ledger, lease: ledger.lose(lease.fence, "no"),
    "crashed": lambda ledger, lease: ledger.crashed("bell", "no", counts=True),
    "finish": lambda ledger, lease: finish_cancelled(ledger, lease),
}


def finish_cancelled(ledger: Ledger, lease: Lease) -> None:
    with pytest.raises(CancelledError):
        ledger.finish(lease)


@pytest.mark.parametrize("how", GIVE_BACK)
def test_a_study_is_cleaned_away_when_nobody_is_at_it_any_more(ledger, how):
    job = submit(ledger, "key", "ann", kind="study", study="deit")
    plan = take(ledger)
    ledger.plan(plan, IMAGES, {})
    ledger.finish(plan)
    leases = [take(ledger), take(ledger, bell="of another")]
    submit(ledger, "older", "bob")
    ledger.cancel(job.id, "ann")
    GIVE_BACK[how](ledger, leases[0])
    assert ledger.ready("bulk") == 1 and take(ledger).key == "older"
    ledger.lose(leases[1].fence, "gone")
    submit(ledger, "newer", "carl")
    clean = take(ledger)
    assert (clean.job, clean.step) == (job.id, CLEAN)
    assert (ledger.job(job.id).stage, ledger.job(job.id).workers) == ("clean", 1)
    for use in ("check", "renew", "hold", "note"):
        USES[use](ledger, clean)
    ledger.finish(clean)
    cleaned = ledger.job(job.id)
    assert (cleaned.state, cleaned.cause, cleaned.units_done, cleaned.units_total) == (
        "cancelled",
        "cancelled by ann",
        1,
        4,
    )
    assert take(ledger).key == "newer"


def test_a_study_is_not_begun_again_before_it_was_cleaned_away(ledger):
    job = submit(ledger, "key", "ann", kind="study", study="deit")
    lease = take(ledger)
    ledger.cancel(job.id, "ann")
    again = submit(ledger, "key", "bob", kind="study", study="deit")
    assert again.id != job.id
    assert ledger.take("bulk", "worker", "bell") is None
    ledger.decline(lease, "stopped", 0)
    clean = take(ledger)
    assert clean.step == CLEAN and ledger.take("bulk", "worker", "bell") is None
    ledger.finish(clean)
    assert take(ledger).job == again.id


def test_a_study_that_nobody_began_leaves_nothing_to_clean(ledger):
    job = submit(ledger, "key", "ann", kind="study", study="deit")
    ledger.cancel(job.id, "ann")
    assert ledger.take("bulk", "worker", "bell") is None


def test_when_cleaning_fails_the_job_stays_cancelled_and_says_so(ledger):
    job = submit(ledger, "key", "ann", kind="study", study="deit")
    lease = take(ledger)
    ledger.cancel(job.id, "ann")
    ledger.lose(lease.fence, "gone")
    for _ in range(MOST_FAILED):
        ledger.fail(take(ledger), "OSError: it is read-only", "log")
    failed = ledger.job(job.id)
    assert (failed.state, failed.cause) == ("cancelled", "cancelled by ann")
    assert failed.note == "what it had written is still there: OSError: it is read-only"
    assert submit(ledger, "key", "ann", kind="study", study="deit").id == take(ledger).job


# What people see


def test_a_rate_is_of_the_units_that_ended_lately_and_gives_the_time_left(ledger):
    job = submit(ledger, "key", "ann", *(Step(0, number, "images", 16) for number in range(6)), GATHER)
    first = take(ledger)
    assert ledger.job(job.id).images_per_second is None and ledger.job(job.id).eta is None
    pass_time(ledger, 10)
    ledger.finish(first)
    assert ledger.job(job.id).images_per_second == pytest.approx(1.6, rel=0.2)
    pass_time(ledger, 600)
    second, third = take(ledger), take(ledger)
    pass_time(ledger, 20)
    ledger.finish(second)
    ledger.finish(third)
    seen = ledger.job(job.id)
    assert (seen.images_done, seen.images_total, seen.units_done, seen.units_total) == (48, 96, 3, 7)
    assert seen.images_per_second == pytest.approx(32 / 20, rel=0.2)
    assert seen.eta == pytest.approx(48 / seen.images_per_second)


def test_of_several_units_under_way_the_first_is_shown(ledger):
    job = submit(ledger, "key", "ann", *IMAGES)
    first, second = take(ledger), take(ledger)
    ledger.renew(second, 5, 16, "images")
    ledger.renew(first, 3, 16, "images")
    seen = ledger.job(job.id)
    assert (seen.workers, seen.stage, seen.stage_done, seen.stage_total) == (2, IMAGES[0].name, 3, 16)
    ledger.lose(first.fence, "gone")
    assert (ledger.job(job.id).workers, ledger.job(job.id).stage) == (1, IMAGES[1].name)


def test_workers_are_listed_while_they_say_they_are_there(ledger):
    ledger.here("b", "bulk", "cuda")
    ledger.here("a", "interactive", "cpu")
    ledger.here("b", "bulk", "cpu")
    assert [(worker.name, worker.queue, worker.device) for worker in ledger.workers()] == [
        ("a", "interactive", "cpu"),
        ("b", "bulk", "cpu"),
    ]
    pass_time(ledger, 61)
    ledger.here("a", "interactive", "cpu")
    assert [worker.name for worker in ledger.workers()] == ["a"]
    assert [worker.name for worker in ledger.workers(within=90)] == ["a", "b"]


def test_what_is_kept_is_kept_until_it_is_kept_anew(ledger, ledger_url):
    assert ledger.kept("models") is None
    ledger.keep("models", ["a"])
    ledger.keep("models", ["a", "b"])
    assert Ledger(ledger_url).kept("models") == ["a", "b"]


def test_a_ledger_that_is_opened_again_knows_all_that_it_knew(ledger, ledger_url):
    submit(ledger, "a", "ann", *IMAGES)
    lease = take(ledger)
    ledger.renew(lease, 1, 2, "images")
    submit(ledger, "b", "bob")
    again = Ledger(ledger_url)
    assert again.jobs() == ledger.jobs() and again.leases() == [(lease.fence, "worker")]
    again.finish(lease)
    assert ledger.job(lease.job).units_done == 1


def test_of_very_many_units_the_first_thousand_are_counted(ledger):
    submit(ledger, "key", "ann", *(Step(0, number, "unit") for number in range(MOST_COUNTED + 1)))
    assert ledger.ready("bulk") == MOST_COUNTED


def test_a_pruning_of_many_images_gives_way_to_one_that_takes_a_moment(ledger):
    images = [Step(0, number, f"image {number}", 1) for number in range(3)]
    whole_set = submit(ledger, "set", "ann", *images, kind="prune")
    assert take(ledger).job == whole_set.id
    single = submit(ledger, "single", "ann", kind="prune")
    assert (ledger.job(single.id).place, take(ledger).job) == (0, single.id)
    assert take(ledger).job == whole_set.id
