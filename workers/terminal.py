"""What does the command line say, and how? Bars on stderr, tables on stdout, one line for a mistake. No torch."""

import errno
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from analyses.numbers import head_numbers, image_numbers
from analyses.registry import ARRAYS, PROBLEMS
from jobs.work import ENDED, Job
from store.derived import Entry
from store.provenance_text import provenance_rows, questions
from store.study import Study

if TYPE_CHECKING:
    from jobs.ledger import Ledger
    from workers.prepare import Prepared

# Lines are wrapped for a person only: a pipe gets them whole.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def mistake(error: Exception) -> str:
    """What to say of a mistake that a person can mend."""
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{error.filename}: {error.strerror}; give --data, or set HEADSCOPE_DATA, to a folder that can be written"
        )
    return str(error) or type(error).__name__


def say_accuracy(attrs: dict[str, Any]) -> None:
    """How often the model is right on this set, and loudly if it might as well guess."""
    accuracy = attrs["accuracy"]
    if accuracy is None or attrs["weights"]["kind"] == "random":
        return
    said = f"top-1 {accuracy['top1']:.1%}, top-5 {accuracy['top5']:.1%} of {accuracy['images']} labelled images"
    if accuracy["near_chance"] and accuracy["top1"] > 0.5:
        err.print(f"[bold red]too few labelled images[/] to tell this from guessing: {said}")
    elif accuracy["near_chance"]:
        err.print(
            f"[bold red]near chance:[/] {said}. Weights can fit an architecture that they were not trained for, and "
            "labels can be matched to the wrong classes: check both before you believe this study"
        )
    else:
        out.print(f"  {said}")
    if once := once_line(accuracy):
        out.print(f"  {once}")


def once_line(accuracy: dict[str, Any]) -> str | None:
    """The accuracy with each picture counted once, where some are there more than once."""
    once = accuracy.get("once")
    if once is None:
        return None
    if not once["images"]:
        return "each picture counted once: none has one label"
    return f"each picture counted once: top-1 {once['top1']:.1%}, top-5 {once['top5']:.1%} of {once['images']:,}"


def copies_lines(images: dict[str, Any]) -> list[str]:
    """What to say of pictures that are there more than once; the fields are those of `workers.copies`."""
    copies = images.get("copies")
    if copies is None:
        return []
    pictures = f"{copies['files']:,} picture{'' if copies['files'] == 1 else 's'}"
    lines = [f"{copies['images']:,} images are copies, byte for byte, of {pictures}"]
    if copies["contradicting"]:
        lines.append(f"of {copies['contradicting']:,} of them, copies have different labels")
    return [*lines, *(f"for example {' = '.join(ids)}" for ids in copies["examples"][:1])]


def ignored_line(images: dict[str, Any]) -> str | None:
    """What to say of files that are no pictures."""
    ignored = images.get("ignored")
    if ignored is None:
        return None
    more = ignored["files"] - len(ignored["first"])
    return f"{ignored['files']:,}, by name: {', '.join(ignored['first'])}" + (f" … and {more:,} more" if more else "")


def say_published(study: Study) -> None:
    """What a study became that was computed just now."""
    seconds, rate = study.manifest.run["seconds"], study.manifest.run["images_per_second"]
    out.print(
        f"[bold]{study.name}[/] is published: {study.attrs['images']['kept']:,} images in {seconds['heads']:,.0f} s "
        f"({rate:.2f} images/s), {study.manifest.size / 1e6:,.1f} MB, manifest {study.manifest.content[:12]}"
    )
    say_accuracy(study.attrs)
    out.print(f"  headscope info {study.name} · headscope serve · xarray.open_zarr({str(study.path)!r})")


def say_how_it_is_made(attrs: Mapping[str, Any]) -> None:
    """What a study's numbers stand on, a line each, and loudly what was assumed."""
    for name, said in provenance_rows(attrs):
        err.print(f"  {name}: {said}", markup=False)
    for question in questions(attrs):
        err.print(f"[bold yellow]please check:[/] {escape(question)}")


def say_what_is_odd(prepared: "Prepared") -> None:
    """What a person should know of a study before it is computed."""
    attrs = prepared.attrs
    say_how_it_is_made(attrs)
    if attrs["weights"]["kind"] == "random":
        err.print("[bold yellow]random weights:[/] this study says nothing about a trained model")
    for odd in attrs["images"]["quarantined"][:5]:
        err.print(f"left out: {odd['image']}: {odd['reason']}", markup=False)
    if (more := len(attrs["images"]["quarantined"]) - 5) > 0:
        err.print(f"… and {more} more images left out; the study lists them all")
    if lines := copies_lines(attrs["images"]):
        err.print(f"[bold yellow]copies:[/] {escape('; '.join(lines))}")
    if ignored := attrs["images"].get("ignored"):
        first = ", ".join(ignored["first"][:3]) + (" …" if ignored["files"] > 3 else "")
        err.print(f"ignored, as no pictures by their names: {ignored['files']:,} ({first})", markup=False)
    by_reason: dict[str, list[str]] = {}
    for name, reason in attrs["left_out"].items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        err.print(f"not in this study: {', '.join(names)} ({reason})", markup=False)


def print_json(value: Any) -> None:
    """For a script."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def tell_price(price: dict[str, Any]) -> None:
    """One line: what a study would take, or takes. The fields are those of `workers.study.Price`."""
    attention = f", of which attention {price['attention_bytes'] / 1e6:,.0f}" if price["attention"] == "stored" else ""
    out.print(
        f"price: {price['bytes'] / 1e6:,.0f} MB{attention}; {_minutes(price['seconds'])} for "
        f"{price['images']:,} images (measured on the first unit of {min(price['unit_images'], price['images'])}; "
        f"attention {price['attention']})"
        + (
            f", then about {_minutes(price['after_seconds'])} for names and maps of {price['mapped']:,} heads"
            if price["mapped"]
            else ""
        )
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes" if seconds >= 60 else f"{math.ceil(seconds)} s"


def facts(study: Study) -> dict[str, Any]:
    """Everything that `info` tells, in plain JSON."""
    manifest = study.manifest
    return {
        "name": study.name,
        "path": str(study.path),
        "manifest": manifest.content,
        "objects": len(manifest.objects),
        "bytes": manifest.size,
        "headscope_version": manifest.headscope,
        "packages": manifest.packages,
        "run": manifest.run,
        "arrays": {name: list(study[name].shape) for name in study.arrays},
        "attention_source": study.attention_source,
        "numbers": titled_numbers(study),
        "packages_left_out": dict(PROBLEMS),
        **study.attrs,
    }


def titled_numbers(study: Study) -> list[dict[str, Any]]:
    """The arrays with one number a head, or an image, and a title, in plain JSON.

    Returns:
        Of each its name, dimensions and attributes; `installed`: whether its package is, so that it can be picked.
    """
    found = head_numbers(study.specs).keys() | image_numbers(study.specs).keys()
    return [
        {"name": name, "dims": list(row.dims), **row.attributes, "installed": name in ARRAYS}
        for name, row in study.specs.items()
        if name in found
    ]


def number_line(told: dict[str, Any]) -> str:
    """As "Sharpness, by image, layer, head: 1/tokens to 1"."""
    unit = f": {told['unit']}" if "unit" in told else ""
    absent = "" if told["installed"] else "; its package is not installed here, so the page cannot pick it"
    return f"{told['title']}, by {', '.join(told['dims'])}{unit}{absent}"


def print_info(study: Study) -> None:
    """A study in a table of facts."""
    attrs, manifest = study.attrs, study.manifest
    model, images, certificate = attrs["model"], attrs["images"], attrs["certificate"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")

    def row(what: str, *said: str) -> None:
        table.add_row(what, "\n".join(said))

    grid = "×".join(map(str, model["grid"]))
    row(
        "model",
        f"{model['name']}: {model['num_layers']} layers × {model['num_heads']} heads, {grid} patches",
    )
    if attrs["weights"]["kind"] == "random":
        row("weights", "[bold red]RANDOM, untrained[/]")
    for name, said in provenance_rows(attrs):
        row(name, escape(said))
    for question in questions(attrs):
        row("[yellow]please check[/]", escape(question))
    row(
        "images",
        f"{images['kept']:,} of {images['found']:,} in {escape(images['folder'])}, {images['labelled']:,} labelled",
    )
    if images["quarantined"]:
        row("quarantined", *(escape(f"{q['image']}: {q['reason']}") for q in images["quarantined"]))
    if ignored := ignored_line(images):
        row("ignored", escape(ignored))
    if copies := copies_lines(images):
        row("copies", *map(escape, copies))
    if attrs["accuracy"]:
        near = " [bold red]near chance[/]" if attrs["accuracy"]["near_chance"] else ""
        once = once_line(attrs["accuracy"])
        row(
            "accuracy",
            f"top-1 {attrs['accuracy']['top1']:.1%}, top-5 {attrs['accuracy']['top5']:.1%}{near}",
            *([] if once is None else [once]),
        )
    row(
        "certificate",
        f"on {certificate['images']} images, largest relative errors (allowed {certificate['tolerance']:.0e}):",
        f"attention·values against the module {certificate['attention']:.1e}",
        f"logits with capture against without  {certificate['logits']:.1e}",
        f"head removed against attention zeroed {certificate['pruning']:.1e}",
    )
    if attrs["left_out"]:
        row("left out", *(escape(f"{name}: {reason}") for name, reason in attrs["left_out"].items()))
    if attrs["nonfinite"]["images"]:
        row("NaN or Inf", f"{len(attrs['nonfinite']['images'])} images: {attrs['nonfinite']['values']}")
    row("attention", f"{study.attention_source}")
    for told in titled_numbers(study):
        row(escape(told["name"]), escape(number_line(told)))
    for name, why in PROBLEMS.items():
        row("[yellow]package left out[/]", escape(f"{name}: {why}"))
    for name, told in attrs.get("maps", {}).items():
        if told["trustworthiness"] is None:
            row(f"{name} map", "too few heads to tell what it is worth")
            continue
        row(
            f"{name} map",
            f"trustworthiness {told['trustworthiness']:.3f}, neighbours kept {told['neighbours_kept']:.0%}, "
            f"of the same head {told['purity']['all']:.0%} (by chance {told['purity']['chance']:.0%}), "
            f"agreement of two seeds {told['seed_agreement']:.0%}",
        )
    row("size", f"{manifest.size / 1e6:,.1f} MB in {len(manifest.objects):,} objects; manifest {manifest.content}")
    row("computed", f"{manifest.run.get('finished', '?')} by Headscope {manifest.headscope}")
    peaks = manifest.run.get("peak_mb", {})
    for step, seconds in manifest.run.get("seconds", {}).items():
        row(f"  {step}", f"{seconds:,.1f} s" + (f", at most {peaks[step]:,} MB" if peaks.get(step) else ""))
    row("Zarr group", escape(str(study.path)))
    out.print(table)


SHORT = 8  # characters of a job's id, for people


def print_jobs(jobs: Sequence[Job], now: float) -> None:
    """Jobs in a table, a line each."""
    table = Table("job", "what", "state", "progress", "images/s", "left", "asked", box=None, header_style="bold")
    for job in jobs:
        table.add_row(
            job.id[:SHORT],
            escape(job.title),
            _state(job),
            _progress(job),
            f"{job.images_per_second:.1f}" if job.images_per_second else "",
            _span(job.eta) if job.eta is not None and job.state == "running" else "",
            escape(f"{_span(now - job.submitted)} ago by {job.who}"),
        )
    out.print(table)


def print_results(results: Sequence[Entry]) -> None:
    """Results beside studies in a table, a line each."""
    table = Table("key", "what", "kB", "last used", box=None, header_style="bold")
    for each in results:
        what = each.problem or (f"{each.analysis}: {each.request.title}" if each.request else "")
        table.add_row(each.folder.name[:SHORT], escape(what), f"{each.size / 1e3:,.0f}", _when(each.used))
    total = sum(each.size for each in results)
    out.print(table)
    out.print(f"{len(results):,} results, {total / 1e6:,.1f} MB on the disk")


def result_facts(result: Entry) -> dict[str, Any]:
    """A result beside a study in plain JSON."""
    return {
        "study": result.folder.parents[2].name,
        "analysis": result.analysis,
        "key": result.folder.name,
        "path": str(result.folder),
        "request": None if result.request is None else result.request.model_dump(mode="json"),
        "bytes": result.size,
        "used": result.used,
        "problem": result.problem,
    }


def print_job(job: Job, now: float) -> None:
    """Everything about one job."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    rows: dict[str, str | None] = {
        "job": job.id,
        "what": f"{job.kind}: {job.title}",
        "state": _state(job),
        "progress": _progress(job),
        "asked": f"{_when(job.submitted)} by {job.who}",
        "started": _when(job.started) if job.started else None,
        "finished": _when(job.finished) if job.finished else None,
        "rate": f"{job.images_per_second:.2f} images/s" if job.images_per_second else None,
        "left": _span(job.eta) if job.eta is not None and job.state == "running" else None,
        "workers": f"{job.workers} at it" if job.workers else None,
        "heard of": f"{_span(now - job.beat)} ago" if job.beat and job.state == "running" else None,
        "note": job.note,
        "cause": job.cause,
        "asked for": ", ".join(f"{name}={value}" for name, value in job.request.items() if value not in (None, [], "")),
    }  # fmt: skip
    for name, said in rows.items():
        if said:
            table.add_row(name, escape(str(said)))
    out.print(table)
    if job.log:
        out.print(job.log, markup=False)


def _state(job: Job) -> str:
    if job.state == "queued" and job.place:
        return f"queued, {job.place} before it"
    return job.state if job.note is None or job.state in ENDED else f"{job.state}: {escape(job.note)}"


def _progress(job: Job) -> str:
    if job.state in ("failed", "cancelled"):
        return escape(job.cause or "")
    if job.state == "done":
        return f"{job.images_total:,} images" if job.images_total else ""
    if job.images_total and job.images_done < job.images_total:
        return f"{job.images_done:,} of {job.images_total:,} images"
    if job.stage is None:
        return f"{job.units_done:,} of {job.units_total:,} units"
    part = f" {job.stage_done / job.stage_total:.0%}" if job.stage_total else ""
    return f"{job.units_done:,} of {job.units_total:,} units, {escape(job.stage)}{part}"


def _span(seconds: float) -> str:
    """A span of time, as a person says it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def followed(ledger: "Ledger", job: Job, *, quiet: bool) -> Job:
    """The job once it has ended; meanwhile its progress is shown."""
    said = None
    with bars(quiet=quiet) as show:
        while (job := ledger.job(job.id)).state not in ENDED:
            waits = job.note or (f"{job.place} jobs come before it" if job.place else None)
            if waits not in (None, said) and not quiet:
                err.print(f"waiting: {waits}", markup=False)
            said = waits
            if job.images_total:
                show("images", job.images_done, job.images_total, "images")
            if job.stage and job.stage_total and job.images_done == job.images_total:
                show(job.stage, job.stage_done, job.stage_total, job.counted)
            time.sleep(0.5)
        if job.images_total:
            show("images", job.images_done, job.images_total, "images")
    return job


@contextmanager
def stopping() -> Iterator[Callable[[], None]]:
    """A check that raises KeyboardInterrupt once Ctrl-C was pressed: between batches. Pressed twice, at once."""
    asked = threading.Event()

    def on_interrupt(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        err.print("stopping after this batch (Ctrl-C again stops at once)")

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[str, int, int, str], None]]:
    """A progress bar a stage, on stderr, with rate and time left."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counted]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=err, disable=quiet, refresh_per_second=4)
    tasks: dict[str, TaskID] = {}
    before: dict[str, int] = {}  # done in an earlier run: no part of this one's rate

    def show(stage: str, done: int, of: int, counted: str) -> None:
        if stage not in tasks:
            progress.start()
            tasks[stage] = progress.add_task(stage, counted=counted, rate="")
            before[stage] = done
        elapsed, new = progress.tasks[tasks[stage]].elapsed or 0, done - before[stage]
        rate = f"{new / elapsed:.1f}/s" if elapsed > 1 and new else ""
        progress.update(tasks[stage], total=of, completed=done, rate=rate)

    try:
        yield show
    finally:
        if tasks:
            progress.stop()
