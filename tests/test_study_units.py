"""A study by the queue: several processes at once, killed and stopped anywhere, cancelled, out of room: same bytes."""

import json
import multiprocessing
import os
import re
import signal
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import timm
import torch
from safetensors.torch import save_file

from analyses.analysis import Analysis
from analyses.registry import ANALYSES
from jobs.ledger import CLEAN, UNFIT_SECONDS, Ledger
from jobs.requests import BULK, key_of, steps_of, to_json
from jobs.work import CancelledError, Lease, Step
from store import failpoints, paths, schema
from store.attempt import Attempt
from store.bucket import BucketBusyError, BucketConflictError, BucketError
from store.errors import LostLeaseError, StudyBusyError, StudyNotFoundError
from store.lock import StudyLock
from store.manifest import Manifest, verify
from store.settings import Settings
from store.study import open_published
from tests.pictures import picture_folder
from tests.test_ledger import pass_time
from tests.test_pipeline import MODEL, quiet, request_for
from workers import after as after_module
from workers import prepare as preparation
from workers import study as pipeline
from workers import study_units
from workers.after import after
from workers.decode import ImageChangedError
from workers.prepare import prepare
from workers.runner import DeclineError, MistakeError, UnfitError, run_unit

pytestmark = pytest.mark.usefixtures("no_flush", "small_units")
LOST = 42  # exit code
# Forked from a process that has only imported: what has computed with torch's threads cannot be forked.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class Queue:
    """A stand-in for the ledger, in files: the units of one job, their fencing numbers, and what became of each."""

    def __init__(self, folder, request=None):
        self.folder = folder
        self.settings = Settings(data=folder / "data")
        self.job = f"job {folder.name}"
        folder.mkdir(exist_ok=True)
        if request is not None:
            self.write("request", to_json(request))
            self.write("facts", {})
            self.write("steps", [[0, 0, "plan", 0]])

    def write(self, name, value):
        partial = self.folder / f"{name}.{os.getpid()}"
        partial.write_text(json.dumps(value))
        partial.rename(self.folder / f"{name}.json")

    def read(self, name, default=None):
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except FileNotFoundError:
            return default

    def steps(self):
        return [Step(*step) for step in self.read("steps")]

    def is_done(self, step):
        return self.read(f"done-{step.phase}-{step.number}") is not None

    def named(self, name):
        return next(step for step in self.steps() if step.name == name)

    def result(self):
        return self.read(f"done-{self.named('publish').phase}-0")

    def undone(self):
        return [step for step in self.steps() if not self.is_done(step)]

    def lease(self, step):
        """Take a unit, whoever had it."""
        fence = 1
        while True:
            try:
                (self.folder / f"lease-{step.phase}-{step.number}.{fence}").touch(exist_ok=False)
            except FileExistsError:
                fence += 1
            else:
                return Lease(fence, self.job, "study", "key", self.read("request"), step, self.read("facts"))

    def take(self):
        """The next unit that nobody took, or None while those before it are under way, or when all is done."""
        undone = self.undone()
        for step in undone:
            first = self.folder / f"lease-{step.phase}-{step.number}.1"
            if step.phase == undone[0].phase and not first.exists():
                try:
                    first.touch(exist_ok=False)
                except FileExistsError:
                    continue
                return Lease(1, self.job, "study", "key", self.read("request"), step, self.read("facts"))
        return None

    def do(self, step):
        lease = self.lease(step)
        study_units.do(lease, Work(self, lease))

    def finish_all(self):
        while undone := self.undone():
            self.do(undone[0])

    def work(self):
        while self.undone():
            lease = self.take()
            if lease is None:
                time.sleep(0.02)
                continue
            study_units.do(lease, Work(self, lease))


class Work:
    """What a doer is given, over a Queue."""

    def __init__(self, queue, lease):
        self.queue, self.lease, self.settings = queue, lease, queue.settings

    def check(self):
        if self.queue.read("cancelled") and self.lease.step != CLEAN:
            raise CancelledError("cancelled by ada")

    def hold(self):
        self.check()
        step = self.lease.step
        fences = [int(path.suffix[1:]) for path in self.queue.folder.glob(f"lease-{step.phase}-{step.number}.*")]
        if max(fences) > self.lease.fence:
            raise LostLeaseError("taken over")

    def progress(self, done, total, counted=""):
        pass

    def plan(self, steps, facts):
        self.hold()
        first = [[0, 0, "plan", 0]]
        self.note(facts)
        self.queue.write("steps", first + [[s.phase, s.number, s.name, s.images] for s in steps])

    def note(self, facts):
        self.queue.write("facts", self.queue.read("facts") | facts)

    def finish(self, facts=None, result=None):
        self.hold()
        self.queue.write(f"done-{self.lease.step.phase}-{self.lease.step.number}", result or {})


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(preparation, "MOST_UNIT_IMAGES", 2)


@pytest.fixture(autouse=True)
def forget_prepared():
    study_units._prepared.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("pictures") / "pictures")


@pytest.fixture(scope="module")
def content(tmp_path_factory, folder):
    """The manifest hash of an undisturbed run of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "MOST_UNIT_IMAGES", 2)
        prepared = prepare(request_for(folder), Settings(data=tmp_path_factory.mktemp("undisturbed")), quiet)
        return pipeline.run(prepared, quiet, lambda price: None, lambda: None).content


@pytest.fixture
def queue(tmp_path, folder):
    return Queue(tmp_path / "queue", request_for(folder))


def study_of(queue):
    return queue.settings.studies / "small"


def planned(queue):
    queue.do(Step(0, 0, "plan"))
    return queue.steps()[1:]


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def forked(do, stops_at=None):
    """A process that does it, and exits with 0, with LOST if it lost its lease, or with 1.

    Args:
        stops_at: Failpoint at which it is stopped as by SIGSTOP.
    """
    point = f"{stops_at}:kill" if stops_at else os.environ.get(failpoints.VARIABLE)
    child = PROCESSES.Process(target=_in_child, args=(do, point, stops_at is not None))
    child.start()
    return child


def _in_child(do, point, stops):
    code = 1
    try:
        preparation.MOST_UNIT_IMAGES = 2
        if stops:
            failpoints._act = lambda name, action: os.kill(os.getpid(), signal.SIGSTOP)
        if point:
            os.environ[failpoints.VARIABLE] = point
        do()
        code = 0
    except LostLeaseError:
        code = LOST
    except BaseException:  # noqa: BLE001  whatever it is, the parent hears of it
        traceback.print_exc()
    finally:
        os._exit(code)


def until_stopped(child):
    while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
        assert child.exitcode is None
        time.sleep(0.01)


def end_of(child):
    child.join()
    return child.exitcode


def test_a_plan_says_what_is_to_be_done_in_order_and_the_first_images_tell_the_price(queue, content):
    steps = planned(queue)
    assert [step.name for step in steps] == [
        *("images 0 to 1", "images 2 to 3", "images 4 to 5", "images 6 to 7", "image 8"),
        *("gather", "layouts", "publish"),
    ]
    assert [step.images for step in steps] == [2, 2, 2, 2, 1, 0, 0, 0]
    assert [step.phase for step in steps[:6]] == [1, 1, 1, 1, 1, 2]
    assert queue.read("facts") == {"study": "small", "images": 9, "attempt": 1}
    queue.do(steps[3])
    assert queue.read("facts")["price"]["images"] == 9
    queue.finish_all()
    manifest = Manifest.load(study_of(queue))
    assert manifest.content == content
    assert queue.result() == {"study": "small", "content": content}
    assert queue.read("facts")["price"]["bytes"] == pytest.approx(manifest.size, rel=0.3)
    assert verify(study_of(queue)) == []


def test_three_processes_at_once_publish_what_one_alone_does(queue, content):
    assert [end_of(child) for child in [forked(queue.work) for _ in range(3)]] == [0, 0, 0]
    assert queue.undone() == []
    manifest = Manifest.load(study_of(queue))
    assert manifest.content == content
    assert verify(study_of(queue)) == []
    seconds = manifest.run["seconds"]
    assert {"model", "images", "certificate", "heads", "layouts"} <= set(seconds)
    assert manifest.run["images_per_second"] == pytest.approx(9 / seconds["heads"])
    assert manifest.run["peak_mb"]["heads"] > 0
    assert manifest.run["began"] <= manifest.run["finished"]
    assert files_below(study_of(queue)) == sorted([*_objects(queue), "MANIFEST.json", "lock"])


def _objects(queue):
    manifest = Manifest.load(study_of(queue))
    return [f"{manifest.attempt}/{key}" for key in manifest.objects]


def test_seconds_of_the_heads_count_what_several_do_at_once_only_once():
    assert pipeline._covered([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.7)]) == 5


STEP_OF = {"unit": 2, "gather": 6, "stage": 7, "manifest": 8}
POINTS = [name for name in failpoints.NAMES if name.split("-")[1] in STEP_OF] + ["after-hold", "half-placed"]


def test_killed_at_any_point_of_a_unit_another_process_finishes_the_same_bytes(tmp_path, folder, content, monkeypatch):
    """Each child of this process is killed in one step of a job of its own; then the parent goes on with the job."""
    for name in POINTS:
        queue = Queue(tmp_path / name, request_for(folder, name=name))
        kinds = [kind for kind in STEP_OF if kind in name] or ["unit", "gather", "stage", "manifest"]
        planned(queue)
        for kind in kinds:
            for step in queue.steps()[1 : STEP_OF[kind]]:
                if not queue.is_done(step):
                    queue.do(step)
            monkeypatch.setenv(failpoints.VARIABLE, f"{name}:kill")
            code = end_of(forked(partial(queue.do, queue.steps()[STEP_OF[kind]])))
            monkeypatch.delenv(failpoints.VARIABLE)
            # Only where it has two files to place can it be half-placed.
            assert code == (0 if (name, kind) == ("half-placed", "manifest") else -signal.SIGKILL), (name, kind)
        queue.finish_all()
        assert Manifest.load(queue.settings.studies / name).content == content, name
        assert verify(queue.settings.studies / name) == [], name
        assert not paths.work_path(queue.settings.studies / name, 1).exists()


@pytest.mark.parametrize("point", ["after-unit-write", "after-hold", "half-placed", "before-unit-ack"])
def test_a_process_stopped_past_its_lease_and_woken_places_nothing(queue, content, point):
    """It is stopped before its fence check, right behind it, between two files, or before its ack."""
    steps = planned(queue)
    zombie = forked(partial(queue.do, steps[1]), stops_at=point)
    until_stopped(zombie)
    queue.do(steps[1])
    ack = paths.ack_path(study_of(queue), 1, 1)
    before = {path: path.stat().st_mtime_ns for path in study_of(queue).rglob("c.*") if path.is_file()}
    noted = ack.read_bytes()
    os.kill(zombie.pid, signal.SIGCONT)
    assert end_of(zombie) == LOST
    assert {path: path.stat().st_mtime_ns for path in study_of(queue).rglob("c.*") if path.is_file()} == before
    assert ack.read_bytes() == noted
    assert list(paths.staging_path(study_of(queue), 1).iterdir()) == []
    queue.finish_all()
    assert Manifest.load(study_of(queue)).content == content


@pytest.mark.parametrize("point", ["before-manifest", "after-hold:2"])
def test_a_publisher_stopped_past_its_lease_and_woken_publishes_nothing(queue, content, point):
    steps = planned(queue)
    for step in steps[:-1]:
        queue.do(step)
    zombie = forked(partial(queue.do, steps[-1]), stops_at=point)
    until_stopped(zombie)
    queue.do(steps[-1])
    published = paths.manifest_path(study_of(queue)).read_bytes()
    os.kill(zombie.pid, signal.SIGCONT)
    assert end_of(zombie) == LOST
    assert paths.manifest_path(study_of(queue)).read_bytes() == published
    assert Manifest.load(study_of(queue)).content == content
    assert verify(study_of(queue)) == []


def test_a_unit_of_a_job_whose_study_was_published_meanwhile_is_done_at_once(queue, folder, content, monkeypatch):
    steps = planned(queue)
    queue.do(steps[0])
    prepared = prepare(request_for(folder), queue.settings, quiet)
    assert pipeline.run(prepared, quiet, lambda price: None, lambda: None).content == content
    monkeypatch.setattr(pipeline, "do", None)
    queue.finish_all()
    assert queue.result() == {"study": "small", "content": content}


def test_a_job_whose_study_is_there_with_the_very_same_settings_is_done_with_its_plan(queue, tmp_path, folder, content):
    queue.finish_all()
    again = Queue(tmp_path / "again", request_for(folder))
    again.settings = queue.settings
    planned(again)
    assert again.undone() == []
    assert again.read("done-0-0") == {"study": "small", "content": content}


def test_a_job_adds_the_stages_that_were_skipped_through_the_same_pieces(queue, tmp_path, folder):
    queue.finish_all()
    whole = Queue(tmp_path / "whole", request_for(folder, skip=frozenset()))
    whole.settings = queue.settings
    names = [step.name for step in planned(whole)]
    assert names == ["autoencoder", "patterns", "latents", "cls-map", "patch-map", "publish"]
    whole.finish_all()
    opened = open_published(study_of(queue))
    assert opened.manifest.attempt == "attempt-2"
    assert "patch_layout" in opened
    assert opened.manifest.run["seconds"].keys() >= {"model", "heads", "layouts", "patch-map"}
    at_once = prepare(request_for(folder, name="at-once", skip=frozenset()), queue.settings, quiet)
    assert pipeline.run(at_once, quiet, lambda price: None, lambda: None).content == opened.manifest.content


@pytest.mark.parametrize("spoil", [lambda part: part.write_bytes(part.read_bytes()[:-1] + b"\1"), Path.unlink])
def test_what_the_disk_lost_of_a_finished_unit_is_computed_again_before_it_is_gathered(queue, content, spoil):
    steps = planned(queue)
    for step in steps[:5]:
        queue.do(step)
    spoil(paths.part_path(study_of(queue), 1, 2))
    while queue.undone():
        try:
            queue.do(queue.undone()[0])
        except OSError as error:
            assert "was changed after it was written" in str(error)
    assert Manifest.load(study_of(queue)).content == content


def test_a_cancelled_job_stops_between_batches_and_its_cleaning_leaves_nothing(queue):
    steps = planned(queue)
    queue.do(steps[0])
    queue.write("cancelled", True)
    with pytest.raises(CancelledError):
        queue.do(steps[1])
    assert paths.acked_units(study_of(queue), 1) == [0]
    queue.do(CLEAN)
    queue.do(CLEAN)
    assert not study_of(queue).exists()


@pytest.mark.parametrize("point", POINTS)
def test_a_job_cancelled_at_any_point_stays_so_when_all_starts_again_and_leaves_nothing(
    tmp_path, folder, point, monkeypatch
):
    """By the ledger itself; only what was published before the cancellation is there."""
    settings, request = Settings(data=tmp_path / "data"), request_for(folder)
    ledger = Ledger(settings.ledger_url)
    job, _ = ledger.submit(
        "study", BULK, to_json(request), key_of(request), "small", "ada", steps_of(request), answered_once=False,
        study="small",
    )  # fmt: skip
    cancelled = []
    monkeypatch.setattr(failpoints, "_act", lambda *given: cancelled.append(ledger.cancel(job.id, "ada")))
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:kill")
    while lease := ledger.take(BULK, "worker", "bell"):
        run_unit(settings, ledger, lease)
    again = Ledger(settings.ledger_url)
    assert len(cancelled) == 1
    assert (again.job(job.id).state, again.job(job.id).cause) == ("cancelled", "cancelled by ada")
    assert again.take(BULK, "worker", "bell") is None and again.leases() == []
    study = settings.studies / "small"
    if point == "after-manifest":
        assert verify(study) == []
    else:
        assert not study.exists()


def test_a_plan_that_is_cancelled_discards_what_it_began(queue, monkeypatch):
    begin = pipeline.begin

    def cancelled_meanwhile(*arguments):
        attempt = begin(*arguments)
        queue.write("cancelled", True)
        return attempt

    monkeypatch.setattr(pipeline, "begin", cancelled_meanwhile)
    with pytest.raises(CancelledError):
        planned(queue)
    assert paths.attempt_numbers(study_of(queue)) == []


@pytest.mark.parametrize("resumed", [False, True])
def test_a_plan_that_lost_its_lease_leaves_only_what_it_found(queue, monkeypatch, resumed):
    if resumed:
        planned(queue)
    begin, step = pipeline.begin, Step(0, 0, "plan")

    def slow(*arguments):
        attempt = begin(*arguments)
        queue.lease(step)
        return attempt

    monkeypatch.setattr(pipeline, "begin", slow)
    with pytest.raises(LostLeaseError):
        queue.do(step)
    assert paths.attempt_numbers(study_of(queue)) == [1] * resumed


def test_cleaning_never_removes_what_is_published_or_what_another_job_goes_on_with(queue, content):
    queue.finish_all()
    queue.do(CLEAN)
    assert Manifest.load(study_of(queue)).content == content
    with Attempt.extend(study_of(queue), {"another": "plan"}, {"job": queue.job}):
        pass
    queue.do(CLEAN)
    assert paths.attempt_numbers(study_of(queue)) == [1]


def test_an_attempt_that_another_job_resumed_is_not_cleaned_with_the_first(queue):
    steps = planned(queue)
    queue.do(steps[0])
    queue.job, first = "job 2", queue.job
    assert [step.number for step in planned(queue) if step.phase == 1] == [1, 2, 3, 4]
    queue.job = first
    queue.do(CLEAN)
    assert paths.acked_units(study_of(queue), 1) == [0]


def test_workers_share_the_study_and_who_wants_it_alone_waits_for_them(queue):
    steps = planned(queue)
    shared = StudyLock(study_of(queue), shared=True)
    queue.do(steps[0])
    with pytest.raises(StudyBusyError, match="workers of the queue"):
        StudyLock(study_of(queue))
    with pytest.raises(DeclineError, match="workers of the queue") as declined:
        queue.do(CLEAN)
    assert declined.value.seconds == 5
    shared.release()
    alone = StudyLock(study_of(queue))
    with pytest.raises(DeclineError, match=f"by process {os.getpid()}"):
        queue.do(steps[1])
    alone.release()
    queue.do(steps[1])


def test_a_full_disk_declines_the_unit_and_with_room_the_job_goes_on(queue, content, monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "before-unit-write:2:enospc")
    with pytest.raises(DeclineError, match=r"^disk full: about \d.* MB needed, .* goes on when there is room") as full:
        queue.finish_all()
    assert full.value.seconds == 15
    monkeypatch.delenv(failpoints.VARIABLE)
    assert list(paths.staging_path(study_of(queue), 1).iterdir()) == []
    queue.finish_all()
    assert Manifest.load(study_of(queue)).content == content


def test_a_disk_too_small_for_the_measured_study_stops_the_job_after_its_first_unit(queue, content, monkeypatch):
    steps = planned(queue)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
        for _ in range(2):
            with pytest.raises(DeclineError, match=r"^disk full: the study needs about .* MB and .* free; the job"):
                queue.do(steps[0])
    queue.finish_all()
    assert Manifest.load(study_of(queue)).content == content


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"images": Path("nowhere")}, "images"),
        ({"model": "resnet50"}, "model"),
        ({"model": "vit_of_mine"}, "model"),
        ({"checkpoint": Path("none.safetensors"), "random_weights": False}, "checkpoint"),
        ({"image_size": (65, 64)}, "image_size"),
        ({"name": "../up"}, "name"),
        ({"per_class": -1}, "per_class"),
        ({"classes": Path("none.txt")}, "classes"),
        ({"masks": Path("none"), "skip": frozenset()}, "masks"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_a_persons_mistake_ends_the_job_and_names_the_field(tmp_path, folder, monkeypatch, changes, field):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    queue = Queue(tmp_path / "queue", replace(request_for(folder), **changes))
    with pytest.raises(MistakeError) as mistake:
        planned(queue)
    assert mistake.value.field == field


def test_a_name_that_is_taken_is_a_mistake(queue, tmp_path, folder):
    queue.finish_all()
    other = Queue(tmp_path / "other", request_for(folder, seed=1))
    other.settings = queue.settings
    with pytest.raises(MistakeError, match="published already") as mistake:
        planned(other)
    assert mistake.value.field == "name"


def other_versions(**versions):
    real = preparation.versions()
    return lambda: real | versions


def test_a_worker_that_would_compute_otherwise_says_what_differs_and_may_be_mended(queue, monkeypatch):
    steps = planned(queue)
    study_units._prepared.clear()
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "versions", other_versions(torch="1.0"))
        with pytest.raises(UnfitError, match=r"^PyTorch was \d\S* when this job was planned and is 1\.0 now$"):
            queue.do(steps[0])
    queue.do(steps[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"device": "cpu", "seed": 0}}, "the device was cuda when this job was planned and is cpu now"),
        ({"weights": {"sha256": "b"}}, "the weights are not those that this job was planned with"),
        ({"images": {"kept": 8}}, "the pictures are not those that this job was planned with"),
        ({"labels": "b"}, "the classes of the pictures are not those that this job was planned with"),
        ({"schema": 2}, "the version of the store's layout was 1 when this job was planned and is 2 now"),
        ({"batch": [1], "labels": "b", "schema": 2}, "the classes of .* with; the version of .* now"),
    ],
)
def test_what_differs_from_the_plan_is_said_in_words(changes, said):
    settings = {"device": "cuda", "seed": 0}
    planned = {"settings": settings, "weights": {"sha256": "a"}, "images": {"kept": 9}, "labels": "a", "schema": 1}
    assert re.fullmatch(said, study_units._difference(planned | changes, planned | {"batch": [2]}))


@pytest.mark.parametrize("change", ["package", "checkpoint", "pictures"])
def test_a_job_that_fits_no_worker_any_more_ends_with_words_and_asked_for_again_it_is_computed(
    tmp_path, monkeypatch, change
):
    pictures, weights = picture_folder(tmp_path / "pictures"), tmp_path / "weights.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(timm.create_model(MODEL).state_dict(), tmp_path / f"{seed}.safetensors")
    weights.symlink_to(tmp_path / "0.safetensors")
    lab = Lab(tmp_path, request_for(pictures, checkpoint=weights, random_weights=False))
    first = lab.ask()
    lab.do(2)
    study_units._prepared.clear()
    match change:
        case "package":
            monkeypatch.setattr(preparation, "versions", other_versions(torch="2.0", timm="1.0"))
            said = "PyTorch was"
        case "checkpoint":
            weights.unlink()
            weights.symlink_to(tmp_path / "1.safetensors")
            said = "the weights are not"
        case "pictures":
            (pictures / "1" / "1.png").unlink()
            said = "the pictures are not"
    lab.do(1)
    waits = lab.ledger.job(first.id)
    assert (waits.state, waits.note.partition(said)[0]) == ("running", "waits for a worker that fits its plan: ")
    pass_time(lab.ledger, UNFIT_SECONDS)
    lab.do(1)
    failed = lab.ledger.job(first.id)
    assert failed.state == "failed" and failed.cause.startswith(said)
    assert failed.cause.endswith("ask for the same again, which makes a new plan")

    again = lab.ask()
    lab.do()
    assert again.id != first.id and lab.ledger.job(again.id).state == "done"
    assert open_published(lab.study).manifest.attempt == "attempt-2"
    assert verify(lab.study) == []


def test_a_picture_that_changed_since_the_plan_is_declined_by_name(tmp_path, monkeypatch):
    pictures = picture_folder(tmp_path / "pictures")
    queue = Queue(tmp_path / "queue", request_for(pictures))
    steps = planned(queue)
    picture = pictures / "1" / "1.png"
    before = picture.read_bytes()
    picture.write_bytes((pictures / "2" / "2.png").read_bytes())
    with pytest.raises(UnfitError, match=r"1/1\.png") as declined:
        queue.do(steps[2])
    assert isinstance(declined.value.__cause__, ImageChangedError)
    with pytest.raises(UnfitError, match="the pictures are not those that this job was planned with"):
        queue.do(steps[2])
    picture.write_bytes(before)
    queue.do(steps[2])


def test_a_host_with_another_memory_computes_in_the_batches_of_the_plan(queue, content, monkeypatch):
    steps = planned(queue)
    study_units._prepared.clear()
    monkeypatch.setattr(preparation, "MOST_UNIT_IMAGES", 1)
    real = preparation.analysis.batch_for
    monkeypatch.setattr(preparation.analysis, "batch_for", lambda vit: real(vit).halved())
    queue.do(steps[0])
    assert study_units._prepared[queue.job].unit_images == 2
    queue.finish_all()
    assert Manifest.load(study_of(queue)).content == content


def test_a_study_that_was_removed_meanwhile_ends_the_job(queue):
    steps = planned(queue)
    Attempt.unfinished(study_of(queue), study_units._prepared[queue.job].plan).discard()
    with pytest.raises(MistakeError, match="removed meanwhile"):
        queue.do(steps[0])


# --- a job that another version planned ---


class Lab:
    """A data folder with a ledger, and a worker that takes what is next."""

    def __init__(self, folder, request, **settings):
        self.settings = Settings(data=folder / "data", **settings)
        self.ledger, self.request = Ledger(self.settings.ledger_url), request
        self.study = self.settings.studies / "small"

    def ask(self):
        request = self.request
        job, new = self.ledger.submit(
            "study", BULK, to_json(request), key_of(request), "small", "ada", steps_of(request), answered_once=False,
            study="small",
        )  # fmt: skip
        assert new
        return job

    def do(self, most=1000):
        """So many units, or all that can be taken."""
        for _ in range(most):
            lease = self.ledger.take(BULK, "worker", "bell")
            if lease is None:
                return
            run_unit(self.settings, self.ledger, lease)


SPEC = replace(schema.SCHEMA["image_layout"], dims=("image",))


@pytest.fixture
def made_up(monkeypatch):
    """An analysis that other versions have, and the array that it writes."""
    monkeypatch.setitem(schema.SCHEMA, "made_up", SPEC)
    return Analysis("made-up", "Made up", {"made_up": SPEC}, function="tests.test_study_units:numbers")


def numbers(unit):
    return {"made_up": np.arange(len(unit.images), dtype=np.float32)}


def positions_of_0_1(prepared, attempt, steps=pipeline.steps):
    """The plan as Headscope 0.1 wrote it: each stage in a phase that its position gave it."""
    phases = {"gather": 2, "publish": 3 + len(after())}
    phases |= {each.name: 3 + position for position, each in enumerate(after())}
    return [replace(step, phase=phases.get(step.name, 1)) for step in steps(prepared, attempt)]


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("does", ["adds", "removes"])
def test_a_version_that_adds_or_removes_a_stage_goes_on_with_the_plan_it_finds(
    tmp_path, folder, content, monkeypatch, made_up, place, does
):
    pushed = []
    monkeypatch.setattr(study_units, "Bucket", str)
    monkeypatch.setattr(study_units.exchange, "push", lambda bucket, folder, *given: pushed.append(folder))
    without, own = ANALYSES, {"made-up": made_up}
    with_it = own | without if place == "first" else without | own
    lab = Lab(tmp_path, request_for(folder), bucket="s3://lab")
    job = lab.ask()
    with monkeypatch.context() as before:
        before.setattr(after_module, "ANALYSES", without if does == "adds" else with_it)
        before.setattr(pipeline, "steps", positions_of_0_1)
        lab.do(2)
    monkeypatch.setattr(after_module, "ANALYSES", with_it if does == "adds" else without)
    lab.do()
    ended = lab.ledger.job(job.id)
    assert (ended.state, ended.cause, ended.units_done) == ("done", None, ended.units_total)
    assert pushed == [lab.study]
    study = open_published(lab.study)
    assert verify(lab.study) == []
    assert ("made_up" in study) == (does == "adds")
    if does == "removes":
        assert study.manifest.content == content
    else:
        assert study.read("made_up").tolist() == list(range(9))
        assert lab.ledger.result(key_of(lab.request)) == {"study": "small", "content": study.manifest.content}


def test_a_plan_that_an_older_version_began_and_did_not_end_is_made_anew(tmp_path, folder, monkeypatch, made_up):
    lab = Lab(tmp_path, request_for(folder))
    job = lab.ask()
    lease = lab.ledger.take(BULK, "worker", "bell")
    monkeypatch.setattr(lab.ledger, "finish", lambda *given: None)  # it is killed right before
    run_unit(lab.settings, lab.ledger, lease)
    monkeypatch.undo()
    monkeypatch.setattr(preparation, "MOST_UNIT_IMAGES", 2)
    monkeypatch.setitem(schema.SCHEMA, "made_up", SPEC)
    monkeypatch.setattr(after_module, "ANALYSES", {"made-up": made_up} | ANALYSES)
    lab.ledger.lose(lease.fence, "killed")
    lab.do()
    assert lab.ledger.job(job.id).state == "done"
    assert "made_up" in open_published(lab.study)


# --- the bucket ---


@pytest.mark.parametrize("bucket", ["s3://lab", None])
def test_a_plan_ends_with_the_push_where_there_is_a_bucket(queue, bucket):
    queue.settings = Settings(data=queue.folder / "data", bucket=bucket)
    *_, last = planned(queue)
    assert last.name == ("publish" if bucket is None else "push")
    assert queue.named("publish").phase <= last.phase < CLEAN.phase


@pytest.mark.parametrize(
    ("found", "raised", "said"),
    [
        (BucketBusyError("s3://lab is not reached"), DeclineError, "published, but not pushed yet: s3://lab is not"),
        (BucketError("the key has expired"), DeclineError, "published, but not pushed yet: the key has expired"),
        (
            BucketConflictError("s3://lab has another"),
            MistakeError,
            "published here, but not pushed: s3://lab has another",
        ),
        (StudyNotFoundError("removed meanwhile"), None, ""),
        (None, None, ""),
    ],
)
def test_a_push_waits_for_a_bucket_that_is_away_and_tells_of_another_study_there(
    queue, monkeypatch, found, raised, said
):
    def push(bucket, folder, progress, check):
        assert (bucket, folder) == ("s3://lab", study_of(queue))
        progress(1, 2)
        if found is not None:
            raise found

    monkeypatch.setattr(study_units, "Bucket", str)
    monkeypatch.setattr(study_units.exchange, "push", push)
    queue.settings = Settings(data=queue.folder / "data", bucket="s3://lab")
    step = Step(77, 0, "push")  # in whichever phase it was planned
    if raised is None:
        queue.do(step)
    else:
        with pytest.raises(raised, match=said):
            queue.do(step)
    assert queue.is_done(step) == (raised is None)
