"""How long does a person wait for a pruning? From asking to the answer, through the queue, idle and beside a study."""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from analyses.pruning import ANALYSIS, PruneRequest
from analyses.vocabulary import MODES
from benchmarks.measuring import Table, Timed
from dashboard.data import facts
from dashboard.pruned import Pruning, result_of
from jobs.client import Desk
from jobs.requests import INTERACTIVE, StudyRequest
from jobs.work import ENDED, Job
from precompute.demo.model import WEIGHTS
from precompute.demo.pictures import write_picture_set
from store.paths import study_path
from store.settings import Settings
from store.study import Study, open_published
from workers.embedded import Embedded
from workers.prepare import prepare
from workers.study import run

DEMO = "demo"
# What runs beside: long enough for every click, and stopped when they are done.
OTHER_MODEL, OTHER_STUDY = "vit_small_patch16_224", "benchmark-beside"
HEADS = 4  # clicks on each image
CLICKS = 8  # images for each round
SOON = 300.0  # seconds in which workers must have come
LOOK = 0.005


def prune_table(rounds: int, data: Path | None, study: str, beside: bool) -> Table:
    """The six modes of heads drawn at random, on images drawn at random, one after the other.

    Args:
        data: The data folder with the study; without it the demo's study is made in a folder of its own.
        beside: Whether to ask the same while a study is computed.
    """
    table = Table(
        f"A pruning from asking to the answer, study {study}",
        ("machine is", "click", "clicks", "p50, ms", "p95, ms", "of it computing, p50, ms", "p95, beside ÷ idle"),
        notes=[
            "Desk.submit, the bell through the embedded queue, a worker of its own, the result looked for every "
            f"{LOOK * 1000:.0f} ms and read. Six modes of one head on one image; mode 0 and the whole head are the "
            "study's own.",
            "First: the first head of an image, with its base pass. Again: another head of the same image.",
            f"Beside: while {OTHER_MODEL}, untrained, is computed by a worker for studies.",
            "Target: p95 at most 2,000 ms, and beside a study at most 1.5 times as much as idle.",
        ],
    )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data=data or scratch / "data")
        if data is None:
            _make_demo(settings, scratch / "set")
        opened = open_published(study_path(settings.studies, study))
        stack.enter_context(Embedded(settings, print))
        desk = Desk(settings)
        _wait_for(lambda: any(each.queue == INTERACTIVE for each in desk.ledger.workers()), "a worker")
        idle = _clicks(desk, opened, rounds * CLICKS, seed=0)
        table.rows += _rows("idle", idle, None)
        if beside:
            with _busy(desk, scratch / "other"):
                table.rows += _rows("computing a study", _clicks(desk, opened, rounds * CLICKS, seed=1), idle)
    return table


def _clicks(desk: Desk, study: Study, images: int, seed: int) -> dict[str, tuple[Timed, list[float]]]:
    """Seconds from asking to the answer, and of computing in it, by sort of click."""
    draw, known = random.Random(seed), facts(study)
    sizes = study.sizes
    every = [(layer, head) for layer in range(sizes["layer"]) for head in range(sizes["head"])]
    found: dict[str, tuple[Timed, list[float]]] = {"first": (Timed([], []), []), "again": (Timed([], []), [])}
    chosen = draw.sample(study.image_ids, min(images + 1, len(study.image_ids)))
    for number, image in enumerate(chosen):
        for turn, head in enumerate(draw.sample(every, min(HEADS, len(every)))):
            content = study.content_of(ANALYSIS.reads)
            request = PruneRequest(study=study.name, content=content, images=(image,), heads=(head,), regions=MODES)
            began = time.perf_counter()
            submitted = desk.submit(request, "benchmark")
            while (result := result_of(study, request)) is None:
                time.sleep(LOOK)
                if time.perf_counter() - began > SOON:
                    raise RuntimeError(f"a pruning {desk.ledger.job(submitted.job.id).cause}")
            Pruning.joined(known, [result])
            took = time.perf_counter() - began
            job = _ended(desk, submitted.job)
            if job.state != "done":
                raise RuntimeError(f"a pruning {job.state}: {job.cause}")
            if number and submitted.new:  # the first image opens the model; what was asked before costs nothing
                timed, computing = found["again" if turn else "first"]
                timed.wall.append(took)
                computing.append(study.derived(ANALYSIS.name, request).manifest.run["seconds"])
    return found


def _ended(desk: Desk, job: Job) -> Job:
    while job.state not in ENDED:
        time.sleep(LOOK)
        job = desk.ledger.job(job.id)
    return job


def _rows(
    when: str, found: dict[str, tuple[Timed, list[float]]], idle: dict[str, tuple[Timed, list[float]]] | None
) -> Iterator[tuple[str, ...]]:
    for click, (timed, computing) in found.items():
        if not timed.wall:
            continue
        p95 = timed.quantile(0.95)
        yield (
            when,
            click,
            f"{len(timed.wall)}",
            f"{timed.seconds * 1000:.0f}",
            f"**{p95 * 1000:.0f}**",
            f"{statistics.median(computing) * 1000:.0f}",
            f"{p95 / idle[click][0].quantile(0.95):.2f}" if idle and idle[click][0].wall else "",
        )


@contextmanager
def _busy(desk: Desk, folder: Path) -> Iterator[None]:
    """A study is computed meanwhile; it is cancelled afterwards, and leaves nothing."""
    write_picture_set(folder)
    request = StudyRequest(OTHER_MODEL, folder / "images", OTHER_STUDY, random_weights=True, no_labels=True)
    job = desk.submit(request, "somebody else").job
    try:
        _wait_for(lambda: desk.ledger.job(job.id).images_total > 0, "the study's plan")
        yield
        if desk.ledger.job(job.id).state != "running":
            raise RuntimeError("the study beside ended before the clicks did; use fewer rounds")
    finally:
        desk.cancel(job.id, "benchmark")
        _wait_for(lambda: not study_path(desk.settings.studies, OTHER_STUDY).exists(), "the study's end")


def _wait_for(holds, what: str) -> None:
    until = time.monotonic() + SOON
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not come in {SOON:.0f} s; the logs are in the data folder")
        time.sleep(0.05)


def _make_demo(settings: Settings, folder: Path) -> None:
    """The demo's study, without names and maps."""
    write_picture_set(folder)
    request = StudyRequest(
        "headscope_demo", folder / "images", DEMO, checkpoint=WEIGHTS, device="cpu", skip=frozenset({"patterns"})
    )
    run(prepare(request, settings, lambda *step: None), lambda *step: None, lambda price: None, lambda: None)
