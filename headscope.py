"""Headscope's front door: the command line, and `open_study()` for notebooks.

from headscope import open_study
study = open_study("demo")
study.attention(image=0, layer=3, head=1)   # (query, key)
xarray.open_zarr(study)                     # everything, labelled
"""

import errno
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
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

from store.errors import StoreError, StudyNotFoundError
from store.manifest import verify as verify_study
from store.paths import study_path
from store.settings import Settings
from store.study import Study, delete, list_studies, open_published
from workers.jobs import SKIPPABLE, StudyRequest

if TYPE_CHECKING:
    from workers.prepare import Prepared
    from workers.study import Price

DEMO = "demo"  # name of the demo's study and of its folder of pictures

# Exit codes beside 0: what a script can tell apart.
MISTAKE = 1  # the person can mend it: the message says how
DAMAGED = 3  # `verify` found damage
STOPPED = 130  # Ctrl-C, as a shell has it

app = typer.Typer(
    help="What every attention head of a Vision Transformer does: computed once, explored at one URL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Lines are wrapped for a person only: a pipe gets them whole.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
StudyName = Annotated[str, typer.Argument(help="Name of the study, as `headscope ls` shows it.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder, in place of HEADSCOPE_DATA.", show_default=False)
]


def open_study(study: str | Path, data: Path | None = None) -> Study:
    """A published study, to read from a notebook.

    Args:
        study: Its name in the data folder, or its folder as a Path.
        data: The data folder; by default that of the settings (HEADSCOPE_DATA, else ./data).
    Raises:
        StudyNotFoundError, DamagedError, NewerSchemaError
    """
    if isinstance(study, Path):
        return open_published(study)
    return open_published(study_path(_settings(data).studies, study))


@app.command()
def demo(
    data: Data = None,
    serve: Annotated[bool, typer.Option(help="Open the page when the study is there.")] = True,
    host: Annotated[str | None, typer.Option(help="Address to serve on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve on.", show_default=False)] = None,
) -> None:
    """Draw the demo pictures, compute their study with the demo model, and serve the page."""
    settings = _settings(data, host=host, port=port)
    with _mistakes():
        if _demo_is_there(settings):
            out.print(f"the demo study is there already (`headscope rm {DEMO}` removes it)")
        else:
            _compute_demo(settings)
        if serve:
            _serve(settings)


@app.command()
def precompute(
    model: Annotated[str, typer.Argument(help="timm name of the model; `headscope models` lists them.")],
    images: Annotated[Path, typer.Argument(help="A folder a class, a flat folder, or a CSV of path,label.")],
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.", show_default="MODEL-FOLDER")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights: a .safetensors or .pth file.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Untrained, to try things out.")] = False,
    image_size: Annotated[str | None, typer.Option(help="Pixels, as 224 or 224x336 (height x width).")] = None,
    classes: Annotated[Path | None, typer.Option(help="The model's class names, one a line or a JSON list.")] = None,
    label_map: Annotated[Path | None, typer.Option(help="CSV of label,class, where labels are not names.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="The folders are not labels.")] = False,
    per_class: Annotated[int | None, typer.Option(help="Only the first so many images of each class.", min=1)] = None,
    attention: Annotated[str, typer.Option(help="auto, stored or rebuilt.")] = "auto",
    precision: Annotated[str, typer.Option(help="Arithmetic of importance: float32.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of layouts, of the autoencoder, of random weights.")] = 0,
    masks: Annotated[Path | None, typer.Option(help="A folder with a PNG mask of each image's object.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="patterns: leave out maps and names of patterns.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the price and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compute a study: what every head of MODEL does on every image of IMAGES."""
    settings = _settings(data)
    with _mistakes():
        _one_of("--attention", attention, ("auto", "stored", "rebuilt"))
        _one_of("--device", device, ("auto", "cpu", "cuda"))
        for each in skip or ():
            _one_of("--skip", each, SKIPPABLE)
        _check_precision(precision)
        if random_weights and checkpoint:
            raise ValueError("--random-weights and --checkpoint exclude each other; give one of them")
        request = StudyRequest(
            model=model,
            images=images,
            name=name,
            checkpoint=checkpoint,
            random_weights=random_weights,
            image_size=_pixels(image_size),
            classes=classes,
            label_map=label_map,
            no_labels=no_labels,
            per_class=per_class,
            attention=attention,
            device=device,
            seed=seed,
            masks=masks,
            skip=frozenset(skip or ()),
        )
        _need_worker()
        _compute(request, settings, dry_run=dry_run, as_json=as_json)


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to serve on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve on.", show_default=False)] = None,
) -> None:
    """Serve the page that shows the studies."""
    with _mistakes():
        _serve(_settings(data, host=host, port=port))


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = "*",
    as_json: Json = False,
) -> None:
    """List the timm models that Headscope takes."""
    with _mistakes():
        _need_worker()
        from precompute.weights import supported_names

        names = supported_names(pattern)
        if not names:
            raise ValueError(f"no supported model is named like {pattern!r}; `headscope models` lists all")
        if as_json:
            _print_json(names)
        else:
            print("\n".join(names))


@app.command()
def info(study: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Show what a study is: its model, images, certificate, what is left out."""
    with _mistakes():
        opened = open_study(study, data)
        if as_json:
            _print_json(_facts(opened))
        else:
            _print_info(opened)


@app.command()
def verify(study: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Read every object of a study and compare it with the manifest; name what is damaged."""
    with _mistakes():
        folder = study_path(_settings(data).studies, study)
        with _bars() as bars:
            damage = verify_study(folder, lambda done, of: bars("verify", done, of, "bytes"))
        if as_json:
            _print_json([{"object": d.object, "problem": d.problem} for d in damage])
        elif not damage:
            manifest = open_published(folder).manifest
            out.print(f"{study}: {len(manifest.objects):,} objects, {manifest.size / 1e6:,.1f} MB, all as published")
        for each in [] if as_json else damage:
            out.print(f"damaged: {each.object}: {each.problem}", markup=False)
        if damage:
            err.print(f"{study}: {len(damage)} damaged objects; compute the study again (`headscope rm {study}` first)")
            raise typer.Exit(DAMAGED)


@app.command()
def ls(data: Data = None, as_json: Json = False) -> None:
    """List the studies, published and unfinished."""
    settings = _settings(data)
    entries = list_studies(settings.studies)
    if as_json:
        _print_json(
            [
                {
                    "name": e.name,
                    "published": e.manifest is not None,
                    "path": str(e.path / e.manifest.attempt) if e.manifest else None,
                    "bytes": e.manifest.size if e.manifest else None,
                    "units": [e.units_done, e.units_total],
                    "problem": e.problem,
                }
                for e in entries
            ]
        )
        return
    if not entries:
        out.print(f"no studies in {settings.studies} yet; `headscope precompute MODEL IMAGES` makes one")
        return
    table = Table("study", "state", "MB", "Zarr group", box=None, header_style="bold")
    for entry in entries:
        state = entry.problem or ("published" if entry.manifest else f"{entry.units_done} of {entry.units_total} units")
        size = f"{entry.manifest.size / 1e6:,.1f}" if entry.manifest else ""
        table.add_row(entry.name, state, size, str(entry.path / entry.manifest.attempt) if entry.manifest else "")
    out.print(table)


@app.command()
def rm(
    study: StudyName,
    data: Data = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a study and everything computed for it."""
    with _mistakes():
        folder = study_path(_settings(data).studies, study)
        if not folder.is_dir():
            raise StudyNotFoundError(f"no study at {folder}; `headscope ls` lists them")
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove {folder} for good?")):
            raise ValueError(f"{study} was not removed; give --yes to remove it without being asked")
        delete(folder)
        out.print(f"{study} is removed")


def main() -> None:
    """The `headscope` command."""
    app()


def _demo_is_there(settings: Settings) -> bool:
    """Whether the demo study is published, its maps included."""
    try:
        return "patch_layout" in open_study(DEMO, settings.data)
    except StudyNotFoundError:
        return False


def _compute_demo(settings: Settings) -> None:
    _need_worker()
    from precompute.demo.model import WEIGHTS
    from precompute.demo.pictures import write_picture_set

    pictures = settings.images / DEMO
    write_picture_set(pictures)
    request = StudyRequest(
        "headscope_demo", pictures / "images", name=DEMO, checkpoint=WEIGHTS, masks=pictures / "masks"
    )
    _compute(request, settings, dry_run=False, as_json=False)


def _compute(request: StudyRequest, settings: Settings, *, dry_run: bool, as_json: bool) -> None:
    """Compute a study and say what came out, or what it would cost."""
    from workers import study as pipeline
    from workers.memory import keep_freed_memory
    from workers.prepare import prepare

    keep_freed_memory()
    added: list[str] = []
    with _stopping() as check, _bars(quiet=as_json) as show:

        def bars(stage: str, done: int, of: int, counted: str) -> None:
            show(stage, done, of, counted)
            check()

        prepared = prepare(request, settings, bars)
        _say_what_is_odd(prepared)
        known = pipeline.published(prepared)
        if dry_run:
            price = pipeline.price(prepared, bars, check)
        elif known is None or (added := pipeline.missing(prepared)):
            manifest = pipeline.run(prepared, bars, lambda price: _tell_price(price, quiet=as_json), check)
    if dry_run:
        _print_json(vars(price)) if as_json else _tell_price(price)
        return
    study = open_published(prepared.study)
    if as_json:
        _print_json(_facts(study))
    elif known is not None and not added:
        out.print(f"{study.name} is published already, with these very settings: {study.path}")
    elif known is not None:
        seconds = sum(manifest.run["seconds"][stage] for stage in added)
        out.print(
            f"[bold]{study.name}[/] is published anew, with {', '.join(added)} added in {seconds:,.0f} s: "
            f"{manifest.size / 1e6:,.1f} MB, manifest {manifest.content[:12]}"
        )
    else:
        seconds, rate = manifest.run["seconds"], manifest.run["images_per_second"]
        out.print(
            f"[bold]{study.name}[/] is published: {len(prepared.kept):,} images in {seconds['heads']:,.0f} s "
            f"({rate:.2f} images/s), {manifest.size / 1e6:,.1f} MB, manifest {manifest.content[:12]}"
        )
        _say_accuracy(study.attrs)
        out.print(f"  headscope info {study.name} · headscope serve · xarray.open_zarr({str(study.path)!r})")


def _say_what_is_odd(prepared: "Prepared") -> None:
    attrs = prepared.attrs
    if attrs["weights"]["kind"] == "random":
        err.print("[bold yellow]random weights:[/] this study says nothing about a trained model")
    for odd in attrs["images"]["quarantined"][:5]:
        err.print(f"left out: {odd['image']}: {odd['reason']}", markup=False)
    if (more := len(attrs["images"]["quarantined"]) - 5) > 0:
        err.print(f"… and {more} more images left out; the study lists them all")
    by_reason: dict[str, list[str]] = {}
    for name, reason in attrs["left_out"].items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        err.print(f"not in this study: {', '.join(names)} ({reason})", markup=False)


def _say_accuracy(attrs: dict[str, Any]) -> None:
    accuracy = attrs["accuracy"]
    if accuracy is None or attrs["weights"]["kind"] == "random":
        return
    said = f"top-1 {accuracy['top1']:.1%}, top-5 {accuracy['top5']:.1%} of {accuracy['images']} labelled images"
    if accuracy["near_chance"]:
        err.print(
            f"[bold red]near chance:[/] {said}. Weights can fit an architecture that they were not trained for, and "
            "labels can be matched to the wrong classes: check both before you believe this study"
        )
    else:
        out.print(f"  {said}")


def _tell_price(price: "Price", quiet: bool = False) -> None:
    if quiet:
        return
    attention = f", of which attention {price.attention_bytes / 1e6:,.0f}" if price.attention == "stored" else ""
    minutes = price.seconds / 60
    out.print(
        f"price: {price.bytes / 1e6:,.0f} MB{attention}; {minutes:,.1f} minutes for {price.images:,} images "
        f"(measured on the first unit of {min(price.unit_images, price.images)}; attention {price.attention})"
        + (f", then names and maps of {price.mapped:,} heads" if price.mapped else "")
    )


def _facts(study: Study) -> dict[str, Any]:
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
        **study.attrs,
    }


def _print_info(study: Study) -> None:
    attrs, manifest = study.attrs, study.manifest
    model, images, certificate = attrs["model"], attrs["images"], attrs["certificate"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")

    def row(what: str, *said: str) -> None:
        table.add_row(what, "\n".join(said))

    grid = "×".join(map(str, model["grid"]))
    prefix = ", ".join(model["prefix_tokens"]) or "none"
    row(
        "model",
        f"{model['name']}: {model['num_layers']} layers × {model['num_heads']} heads, {grid} patches, "
        f"prefix tokens: {prefix}, pooled by {model['pool']}",
    )
    weights = attrs["weights"]
    loud = "[bold red]RANDOM, untrained[/]" if weights["kind"] == "random" else weights["kind"]
    row("weights", f"{loud} {weights['file'] or ''} sha256 {weights['sha256'][:16]}…")
    row("images", f"{images['kept']:,} of {images['found']:,} in {images['folder']}, {images['labelled']:,} labelled")
    if images["quarantined"]:
        row("quarantined", *(f"{q['image']}: {q['reason']}" for q in images["quarantined"]))
    if attrs["accuracy"]:
        near = " [bold red]near chance[/]" if attrs["accuracy"]["near_chance"] else ""
        row("accuracy", f"top-1 {attrs['accuracy']['top1']:.1%}, top-5 {attrs['accuracy']['top5']:.1%}{near}")
    row(
        "certificate",
        f"on {certificate['images']} images, largest relative errors (allowed {certificate['tolerance']:.0e}):",
        f"attention·values against the module {certificate['attention']:.1e}",
        f"logits with capture against without  {certificate['logits']:.1e}",
        f"head removed against attention zeroed {certificate['pruning']:.1e}",
    )
    if attrs["left_out"]:
        row("left out", *(f"{name}: {reason}" for name, reason in attrs["left_out"].items()))
    if attrs["nonfinite"]["images"]:
        row("NaN or Inf", f"{len(attrs['nonfinite']['images'])} images: {attrs['nonfinite']['values']}")
    row("attention", f"{study.attention_source}")
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
    row("Zarr group", str(study.path))
    out.print(table)


def _serve(settings: Settings) -> None:
    from dashboard.app import serve as serve_page

    out.print(f"Headscope is at [bold]http://{settings.host}:{settings.port}[/] — Ctrl-C stops it")
    serve_page(settings)


def _settings(data: Path | None = None, **given: Any) -> Settings:
    """Settings from the environment, and over them what the command line gave."""
    return Settings(**{name: value for name, value in {"data": data, **given}.items() if value is not None})


@contextmanager
def _mistakes() -> Iterator[None]:
    """One line for what a person can mend, without a traceback, and the right exit code."""
    try:
        yield
    except (StoreError, ValueError, OSError, MemoryError, _MistakeError) as error:
        err.print("[bold red]error:[/] ", end="")
        err.print(_said(error), markup=False)
        raise typer.Exit(MISTAKE) from error
    except KeyboardInterrupt as error:
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED) from error


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{error.filename}: {error.strerror}; give --data, or set HEADSCOPE_DATA, to a folder that can be written"
        )
    return str(error) or type(error).__name__


class _MistakeError(RuntimeError):
    """A person's mistake that no other exception fits."""


def _need_worker() -> None:
    if find_spec("torch") is None or find_spec("timm") is None:
        raise _MistakeError("computing needs torch and timm, not installed here; pip install 'headscope[worker]'")


def _one_of(option: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"{option} {given} is not one of {', '.join(allowed)}")


def _check_precision(precision: str) -> None:
    if precision in ("bf16", "bfloat16", "fp16", "float16", "autocast", "tf32"):
        raise ValueError(
            f"--precision {precision} is refused: importance is a small difference of large numbers, and a typical "
            "head's value would be off by a tenth to a half of itself (docs/performance.md); use float32"
        )
    _one_of("--precision", precision, ("float32",))


def _pixels(text: str | None) -> tuple[int, int] | None:
    """(height, width) from 224 or 224x336."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"--image-size {text} is not a size; give 224, or 224x336 (height x width)")
    return int(sides[0]), int(sides[-1])


@contextmanager
def _stopping() -> Iterator[Callable[[], None]]:
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
def _bars(quiet: bool = False) -> Iterator[Callable[[str, int, int, str], None]]:
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


if __name__ == "__main__":
    main()
