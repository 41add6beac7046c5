"""Headscope's front door: the command line, and `open_study()` for notebooks.

from headscope import open_study
study = open_study("demo")
study.attention(image=0, layer=3, head=1)   # (query, key)
xarray.open_zarr(study)                     # everything, labelled
"""

import getpass
import os
import platform
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial, wraps
from importlib.util import find_spec
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from analyses.vocabulary import ATTENTION, INTERPOLATIONS, LEAST_CROP, NAMED_CLASSES, OUTPUTS, POOLS, SKIPPABLE, WEIGHTS
from jobs.requests import QUEUES, PriceRequest, StudyRequest, channels, key_of
from jobs.work import ENDED, Job, JobNotFoundError
from store import derived as derived_results
from store.derived import Entry
from store.env_file import tls_problem, write_env
from store.errors import StoreError, StudyNotFoundError
from store.manifest import Damage
from store.manifest import verify as verify_study
from store.paths import derived_path, study_path
from store.settings import Settings
from store.study import Study, delete, list_studies, open_published
from workers.terminal import (
    SHORT,
    bars,
    err,
    facts,
    followed,
    mistake,
    out,
    print_info,
    print_job,
    print_jobs,
    print_json,
    print_results,
    result_facts,
    say_how_it_is_made,
    say_published,
    stopping,
    tell_price,
)

if TYPE_CHECKING:
    from dashboard.accounts import Accounts
    from jobs.client import Desk

DEMO = "demo"  # name of the demo's study and of its folder of pictures

# Exit codes beside 0: what a script can tell apart.
MISTAKE = 1  # the person can mend it: the message says how
DAMAGED = 3  # `verify` found damage
FAILED = 4  # the job that was waited for failed or was cancelled
STOPPED = 130  # Ctrl-C, as a shell has it

LAST_JOBS, MOST_JOBS = 20, 10_000  # that `jobs` lists, without and with --all

app = typer.Typer(
    help="What every attention head of a Vision Transformer does: computed once, explored at one URL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

users = typer.Typer(help="Who may sign in, and what they may do there.", no_args_is_help=True)
app.add_typer(users, name="user")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
UserName = Annotated[str, typer.Argument(help="Of 1 to 64 letters, digits, '.', '_', '@' and '-'.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin, not the terminal.")
]
StudyName = Annotated[str, typer.Argument(help="Name of the study, as `headscope ls` shows it.")]
JobId = Annotated[str, typer.Argument(help="Id of the job, or its beginning.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder, in place of HEADSCOPE_DATA.", show_default=False)
]

BucketUrl = Annotated[
    str | None, typer.Option("--bucket", help="s3://BUCKET/FOLDER, in place of HEADSCOPE_BUCKET.", show_default=False)
]


def open_study(study: str | Path, data: Path | None = None) -> Study:
    """A published study, to read from a notebook.

    Args:
        study: Its name in the data folder, or its folder: a Path, or a text with a / in it.
        data: The data folder; by default that of the settings (HEADSCOPE_DATA, else ./data).
    Raises:
        StudyNotFoundError, DamagedError, NewerSchemaError
    """
    if isinstance(study, Path) or "/" in study or os.sep in study:
        return open_published(Path(study))
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
        if serve:
            _refuse_unsafe(settings)
        if _demo_is_there(settings):
            out.print(f"the demo study is there already (`headscope rm {DEMO}` removes it)")
        else:
            _compute_demo(settings)
        if serve:
            _serve(settings)


def _study_request(
    model: Annotated[str, typer.Argument(help="timm name of the model; `headscope models` lists them.")],
    images: Annotated[Path, typer.Argument(help="A folder a class, a flat folder, or a CSV of path,label.")],
    name: Annotated[str | None, typer.Option(help="Name of the study.", show_default="MODEL-FOLDER")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights: a .safetensors or .pth file.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Untrained, to try things out.")] = False,
    image_size: Annotated[str | None, typer.Option(help="Pixels, as 224 or 224x336 (height x width).")] = None,
    weights: Annotated[str, typer.Option(help="Which weights of a file that has both: auto, ema or plain.")] = "auto",
    pool: Annotated[
        str | None, typer.Option(help="How the head reads the tokens: token, avg, avgmax, max or map.")
    ] = None,
    outputs: Annotated[
        str, typer.Option(help="What the outputs are: auto, classes (one true class an image) or other.")
    ] = "auto",
    mean: Annotated[
        str | None, typer.Option(help="Mean of the normalisation, for pixels of 0 to 1: one number, or R,G,B.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the normalisation: one number, or R,G,B.")
    ] = None,
    crop_pct: Annotated[
        float | None, typer.Option(help="Share of the resized picture that is cropped from its middle.")
    ] = None,
    interpolation: Annotated[str | None, typer.Option(help="bicubic, bilinear, lanczos or nearest.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names: a file, in the order of the outputs, or imagenet-1k.")
    ] = None,
    label_map: Annotated[Path | None, typer.Option(help="CSV of label,class, where labels are not names.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="The folders are not labels.")] = False,
    per_class: Annotated[int | None, typer.Option(help="Only the first so many images of each class.", min=1)] = None,
    attention: Annotated[str, typer.Option(help="auto, stored or rebuilt.")] = "auto",
    precision: Annotated[str, typer.Option(help="Arithmetic of importance: float32.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[
        int, typer.Option(help="Of layouts, of the autoencoder, of random weights.", min=0, max=2**32 - 1)
    ] = 0,
    masks: Annotated[Path | None, typer.Option(help="A folder with a PNG mask of each image's object.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="patterns: leave out maps and names of patterns.")] = None,
) -> StudyRequest:
    """The study that the command line asks for. Its paths are absolute: a worker may run in another folder."""
    _one_of("--attention", attention, ATTENTION)
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    for each in skip or ():
        _one_of("--skip", each, SKIPPABLE)
    _one_of("--weights", weights, WEIGHTS)
    _one_of("--outputs", outputs, OUTPUTS)
    for option, given, allowed in (("--pool", pool, POOLS), ("--interpolation", interpolation, INTERPOLATIONS)):
        if given is not None:
            _one_of(option, given, allowed)
    if crop_pct is not None and not LEAST_CROP <= crop_pct <= 1:
        raise ValueError(f"--crop-pct {crop_pct} is not right; give a share of {LEAST_CROP} to 1, such as 0.875")
    if weights != "auto" and checkpoint is None:
        raise ValueError(f"--weights {weights} is of a file; give --checkpoint FILE, or leave it out")
    _check_precision(precision)
    if random_weights and checkpoint:
        raise ValueError("--random-weights and --checkpoint exclude each other; give one of them")
    return StudyRequest(
        model=model,
        images=_absolute(images),
        name=name,
        checkpoint=checkpoint and _absolute(checkpoint),
        random_weights=random_weights,
        image_size=_pixels(image_size),
        weights=weights,
        pool=pool,
        outputs=outputs,
        mean=channels("--mean", mean),
        std=channels("--std", std, positive=True),
        crop_pct=crop_pct,
        interpolation=interpolation,
        classes=classes and (classes if str(classes) in NAMED_CLASSES else _absolute(classes)),
        label_map=label_map and _absolute(label_map),
        no_labels=no_labels,
        per_class=per_class,
        attention=attention,
        device=device,
        seed=seed,
        masks=masks and _absolute(masks),
        skip=frozenset(skip or ()),
    )


def _of_a_study(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with the options of `_study_request` in place of its first parameter."""
    options, (_, *others) = signature(_study_request).parameters, signature(command).parameters.values()

    @wraps(command)
    def with_options(**given: Any) -> None:
        with _mistakes():
            request = _study_request(**{name: given.pop(name) for name in options})
            command(request, **given)

    parameters = [*options.values(), *others]
    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


@app.command()
@_of_a_study
def precompute(
    request: StudyRequest,
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the price and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compute a study: what every head of MODEL does on every image of IMAGES."""
    _need_worker()
    from workers.direct import compute

    compute(request, _settings(data), dry_run=dry_run, as_json=as_json)


@app.command()
@_of_a_study
def submit(
    request: StudyRequest,
    data: Data = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the progress until the study is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Have a worker tell the price, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Have workers compute a study: as `precompute`, in the queue. Prints the job's id."""
    settings = _settings(data)
    desk = _desk(settings)
    asked = PriceRequest(request) if dry_run else request
    submitted = desk.submit(asked, _who())
    job = submitted.job
    if not submitted.new:
        err.print(f"asked for already, by {job.who}", markup=False)
    if submitted.unheard:
        err.print(submitted.unheard, markup=False)
    _say_if_nobody_works(desk, job)
    if wait or dry_run:
        try:
            job = followed(desk.ledger, job, quiet=as_json)
        except KeyboardInterrupt:
            err.print(f"the job goes on; `headscope cancel {job.id[:SHORT]}` ends it")
            raise typer.Exit(STOPPED) from None
    if dry_run and job.state == "done":
        _tell_result(desk.ledger.result(key_of(asked)) or {}, as_json=as_json)
    elif as_json:
        print_json(vars(job))
    elif not wait:
        print(job.id)
        err.print(f"  headscope jobs {job.id[:SHORT]} · headscope cancel {job.id[:SHORT]}")
    elif job.state == "done":
        say_published(open_published(study_path(settings.studies, request.study)))
    if job.state in ("failed", "cancelled"):
        err.print(f"{job.title}: {job.state}: {job.cause}", markup=False)
        if job.log:
            err.print(job.log, markup=False)
        raise typer.Exit(FAILED)


@app.command()
def jobs(
    job: Annotated[str | None, typer.Argument(help="Only this one, and everything about it.")] = None,
    data: Data = None,
    every: Annotated[bool, typer.Option("--all", help="All that there ever were.")] = False,
    as_json: Json = False,
) -> None:
    """List the jobs: those that wait or run, and the last that ended."""
    with _mistakes():
        ledger = _desk(_settings(data)).ledger
        if job is not None:
            one = _found(ledger.jobs(MOST_JOBS), job)
            print_json(vars(one)) if as_json else print_job(one, ledger.now())
            return
        listed = ledger.jobs(MOST_JOBS if every else LAST_JOBS)
        if as_json:
            print_json([vars(each) for each in listed])
        elif not listed:
            out.print("no jobs yet; `headscope submit MODEL IMAGES` or the page asks for one")
        else:
            print_jobs(listed, ledger.now())


@app.command()
def cancel(job: JobId, data: Data = None) -> None:
    """Cancel a job, for good. What it has written so far is removed."""
    with _mistakes():
        desk = _desk(_settings(data))
        found = _found(desk.ledger.jobs(MOST_JOBS), job)
        told = desk.cancel(found.id, _who())
        if found.state in ENDED:
            out.print(f"{found.title} is {found.state} already", markup=False)
        else:
            out.print(f"{told.title} is cancelled", markup=False)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Name of the new file; only you will be able to read it.")],
    data: Data = None,
) -> None:
    """Copy the ledger, jobs and users, into a file, while everything runs."""
    from jobs.ledger import Ledger

    with _mistakes():
        Ledger(_settings(data).ledger_url).copy_to(file)
        out.print(f"the ledger is in {file}; studies are in folders of their own", markup=False)


@app.command()
def worker(
    queue: Annotated[str, typer.Option(help="interactive or bulk: what people wait for, or studies.")],
    name: Annotated[str | None, typer.Option(help="By which it is known.", show_default="QUEUE-HOST-PROCESS")] = None,
    data: Data = None,
) -> None:
    """Work for one queue, until Ctrl-C. `headscope serve` starts workers by itself."""
    with _mistakes():
        _one_of("--queue", queue, QUEUES)
        _need_worker()
        from workers.tasks import run_worker

        known = name or f"{queue}-{platform.node()}-{os.getpid()}"
        raise typer.Exit(run_worker(_settings(data), queue, known))


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to serve on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve on.", show_default=False)] = None,
) -> None:
    """Serve the page, with workers for what it asks for."""
    with _mistakes():
        _serve(_settings(data, host=host, port=port))


@app.command()
def init(
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which other machines call this one; may be given again.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8050,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give the workers this machine's NVIDIA GPU.")] = False,
) -> None:
    """Prepare a server for a team: write .env, with new secrets, for docker-compose.yml in this folder."""
    with _mistakes():
        written = write_env(Path(), host or (), port, gpu=gpu)
        problem = tls_problem(Path())
    if problem:
        err.print(f"the proxy will not start: {problem}", markup=False)
    out.print(f"wrote {written}, which only you can read, and made data/. Now:", markup=False)
    print("  docker compose run --rm --no-deps web headscope user add YOUR-NAME --role admin")
    print("  docker compose up --detach --build --wait")


@app.command()
def fetch(
    model: Annotated[list[str], typer.Argument(help="timm names of models; `headscope models` lists them.")],
) -> None:
    """Fetch timm's own weights of models from the hub, for workers that do not reach it."""
    _need_worker()
    from precompute.weights import hub_cache, open_model

    with _mistakes():
        for name in model:
            open_model(name)
            out.print(f"{name}: its weights are in {hub_cache()}", markup=False)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = "*",
    as_json: Json = False,
) -> None:
    """List the timm models that Headscope takes."""
    with _mistakes():
        _need_worker()
        from precompute.names import supported_names

        names = supported_names(pattern)
        if not names:
            raise ValueError(f"no supported model is named like {pattern!r}; `headscope models` lists all")
        if as_json:
            print_json(names)
        else:
            print("\n".join(names))


@app.command()
def info(study: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Show what a study is: its model, images, certificate, what is left out."""
    with _mistakes():
        opened = open_published(study_path(_settings(data).studies, study))
        if as_json:
            print_json(facts(opened))
        else:
            print_info(opened)


@app.command()
def verify(study: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Read every object of a study and compare it with the manifest; name what is damaged."""
    with _mistakes():
        folder = study_path(_settings(data).studies, study)
        with bars() as show:
            damage = verify_study(folder, lambda done, of: show("verify", done, of, "bytes"))
        results = list(derived_results.every(folder))
        for result in results:
            damage += _damage_of(result, folder)
        if as_json:
            print_json([{"object": d.object, "problem": d.problem} for d in damage])
        elif not damage:
            manifest = open_published(folder).manifest
            beside = f", {len(results):,} results beside it" if results else ""
            out.print(
                f"{study}: {len(manifest.objects):,} objects, {manifest.size / 1e6:,.1f} MB{beside}, all as published"
            )
        for each in [] if as_json else damage:
            out.print(f"damaged: {each.object}: {each.problem}", markup=False)
        of_study = [each for each in damage if not each.object.startswith(f"{derived_path(folder).name}/")]
        if of_study:
            err.print(
                f"{study}: {len(of_study)} damaged objects; compute the study again (`headscope rm {study}` first)"
            )
        if len(of_study) < len(damage):
            err.print(
                f"{study}: {len(damage) - len(of_study)} damaged objects of results beside it: asked for, these are "
                f"computed again; `headscope derived {study} --remove KEY` removes them"
            )
        if damage:
            raise typer.Exit(DAMAGED)


def _damage_of(result: Path, study: Path) -> list[Damage]:
    """What of a result beside a study is not as it was published; objects are named from the study's folder."""
    name = result.relative_to(study).as_posix()
    try:
        return [Damage(f"{name}/{each.object}", each.problem) for each in derived_results.verify(result)]
    except StoreError as error:
        return [Damage(f"{name}/MANIFEST.json", str(error))]


@app.command()
def derived(
    study: Annotated[str | None, typer.Argument(help="Results of this study; without it, of all studies.")] = None,
    data: Data = None,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove", help="Remove the result with this key (its first letters are enough), or all.", metavar="KEY"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what people asked for beside the studies, such as prunings, with size and last use; or remove it."""
    with _mistakes():
        settings = _settings(data)
        folders = [entry.path for entry in list_studies(settings.studies)] if study is None else []
        if study is not None:
            folders = [open_published(study_path(settings.studies, study)).folder]
        found = derived_results.entries(folders, derived_results.Uses(settings.derived_uses))
        if remove is not None:
            wanted = found if remove == "all" else [_result_by(found, remove)]
            for each in wanted:
                derived_results.remove(each.folder)
            out.print(f"{len(wanted):,} {'result is' if len(wanted) == 1 else 'results are'} removed")
        elif as_json:
            print_json([result_facts(each) for each in found])
        elif not found:
            out.print("no results beside the studies yet; the page asks for them")
        else:
            print_results(found)


def _result_by(found: list[Entry], start: str) -> Entry:
    """The one result whose key begins so."""
    alike = [each for each in found if each.folder.name.startswith(start.lower())]
    if len(alike) == 1:
        return alike[0]
    if not alike:
        raise ValueError(f"no result {start}; `headscope derived` lists them, with their keys")
    raise ValueError(f"{len(alike)} results begin with {start}; give more of the key")


@app.command()
def ls(data: Data = None, as_json: Json = False) -> None:
    """List the studies, published and unfinished."""
    settings = _settings(data)
    entries = list_studies(settings.studies)
    if as_json:
        print_json(
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
def push(study: StudyName, data: Data = None, bucket: BucketUrl = None) -> None:
    """Put a published study into the bucket, for other machines."""
    settings = _settings(data, bucket=bucket)
    with _mistakes():
        from store import exchange
        from store.bucket import Bucket

        folder, place = study_path(settings.studies, study), Bucket(settings.bucket)
        with stopping() as check, bars() as show:
            pushed = exchange.push(place, folder, lambda done, of: show("push", done, of, "bytes"), check)
        group = place.group(study, open_published(folder).manifest)
        out.print(f"{study} is {'there' if pushed else 'there already'}: {group}", markup=False, soft_wrap=True)


@app.command()
def pull(
    study: Annotated[str | None, typer.Argument(help="Only this one; without it, all that are not here.")] = None,
    data: Data = None,
    bucket: BucketUrl = None,
) -> None:
    """Fetch published studies from the bucket, each checked byte by byte."""
    settings, refused = _settings(data, bucket=bucket), 0
    with _mistakes():
        from store import exchange
        from store.bucket import Bucket, BucketError

        place = Bucket(settings.bucket)
        names = [study] if study is not None else list(exchange.new(place, settings.studies))
        if not names:
            out.print(f"nothing is new in {place.url}", markup=False)
        with stopping() as check, bars() as show:
            for name in names:
                try:
                    pulled = exchange.pull(place, settings.studies, name, partial(_show_bytes, show, name), check)
                    out.print(f"{name} is {'here' if pulled else 'here already'}", markup=False)
                except StoreError as error:
                    if study is not None or isinstance(error, BucketError):
                        raise
                    err.print(f"{name} is not pulled: {error}", markup=False)
                    refused += 1
    if refused:
        raise typer.Exit(MISTAKE)


@app.command()
def rm(
    study: StudyName,
    data: Data = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a study and everything computed for it."""
    with _mistakes():
        settings = _settings(data)
        folder = study_path(settings.studies, study)
        if not folder.is_dir():
            raise StudyNotFoundError(f"no study at {folder}; `headscope ls` lists them")
        if not yes and not (_at_terminal() and typer.confirm(f"Remove {folder} for good?")):
            raise ValueError(f"{study} was not removed; give --yes to remove it without being asked")
        delete(folder)
        out.print(f"{study} is removed")
        if settings.bucket:
            err.print("where the bucket has it, it is pulled again: remove it there too")


@users.command("add")
def add_user(
    name: UserName,
    role: Annotated[str, typer.Option(help="viewer, analyst or admin.")] = "viewer",
    password_stdin: PasswordStdin = False,
    data: Data = None,
) -> None:
    """Let somebody sign in: a viewer looks, an analyst has things computed too, an admin cancels anybody's jobs too."""
    with _mistakes():
        settings = _settings(data)
        accounts = _accounts(settings)
        accounts.check_new(name, role)
        # Where the lab's own proxy lets people in, nobody needs a password here.
        password = None if settings.trusted_header else _password(stdin=password_stdin)
        user = accounts.add(name, role, password)
        out.print(f"{user.name} is added, with the role {user.role}", markup=False)


@users.command("list")
def list_users(data: Data = None, as_json: Json = False) -> None:
    """List who may sign in."""
    with _mistakes():
        found = _accounts(_settings(data)).users()
        if as_json:
            print_json([{"name": user.name, "role": user.role, "added": user.added} for user in found])
        elif not found:
            out.print("no users yet; `headscope user add NAME --role admin` adds one")
        else:
            table = Table("name", "role", "added", box=None, header_style="bold")
            for user in found:
                table.add_row(user.name, user.role, f"{datetime.fromtimestamp(user.added).astimezone():%Y-%m-%d %H:%M}")
            out.print(table)


@users.command("role")
def change_role(
    name: UserName,
    role: Annotated[str, typer.Argument(help="viewer, analyst or admin.")],
    data: Data = None,
) -> None:
    """Give somebody another role. They must sign in again."""
    with _mistakes():
        user = _accounts(_settings(data)).set_role(name, role)
        out.print(f"{user.name} has the role {user.role} now", markup=False)


@users.command("password")
def change_password(name: UserName, password_stdin: PasswordStdin = False, data: Data = None) -> None:
    """Give somebody another password. They must sign in again."""
    with _mistakes():
        accounts = _accounts(_settings(data))
        accounts.check_known(name)
        user = accounts.set_password(name, _password(stdin=password_stdin))
        out.print(f"{user.name} has another password now", markup=False)


@users.command("remove")
def remove_user(name: UserName, data: Data = None) -> None:
    """Let somebody in no more, at once. Their jobs and studies stay."""
    with _mistakes():
        _accounts(_settings(data)).remove(name)
        out.print(f"{name.lower()} is removed", markup=False)


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
    from workers.direct import compute

    pictures = settings.images / DEMO
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_picture_set(pictures)
    request = StudyRequest(
        "headscope_demo", pictures / "images", name=DEMO, checkpoint=WEIGHTS, masks=pictures / "masks"
    )
    compute(request, settings, dry_run=False, as_json=False)


def _desk(settings: Settings) -> "Desk":
    from jobs.client import Desk

    return Desk(settings)


def _accounts(settings: Settings) -> "Accounts":
    from dashboard.accounts import Accounts

    return Accounts(settings.ledger_url)


def _password(*, stdin: bool) -> str:
    """A new password: the first line of stdin, or typed twice at a terminal."""
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not _at_terminal():
        raise ValueError("there is no terminal to type a password at; give --password-stdin, and the password on stdin")
    return str(typer.prompt("Password, 12 or more characters", hide_input=True, confirmation_prompt="Once more"))


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _refuse_unsafe(settings: Settings) -> None:
    """Leave with what must be mended, a line each, if the page must not be served as it is set."""
    from dashboard.accounts import obstacles

    if found := obstacles(settings):
        for each in found:
            err.print("[bold red]error:[/] ", end="")
            err.print(each, markup=False)
        raise typer.Exit(MISTAKE)


def _check_ledger(settings: Settings) -> None:
    """Find a damaged ledger before anything begins on it. Without one that can be written, studies can be viewed."""
    from jobs.database import ReadOnlyLedgerError
    from jobs.ledger import Ledger

    try:
        Ledger(settings.ledger_url).check_whole()
    except ReadOnlyLedgerError as error:
        err.print(str(error), markup=False)


def _who() -> str:
    """The person at the command line."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _found(jobs: list[Job], start: str) -> Job:
    """The one job whose id begins so."""
    found = [job for job in jobs if job.id.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise JobNotFoundError(f"no job {start}; `headscope jobs --all` lists them")
    raise ValueError(f"{len(found)} jobs begin with {start}: {', '.join(job.id for job in found[:5])}; give more of it")


def _say_if_nobody_works(desk: "Desk", job: Job) -> None:
    if job.state == "queued" and not any(seen.queue == job.queue for seen in desk.ledger.workers()):
        err.print(
            f"no worker of the {job.queue} queue has said yet that it is there, so the job waits for one: "
            f"`headscope serve` starts workers, `headscope worker --queue {job.queue}` one more",
            markup=False,
        )


def _tell_result(price: dict[str, Any], *, as_json: bool) -> None:
    """The price that a worker found, or why there is none."""
    if refused := price.get("refused"):
        raise ValueError(refused["message"])
    if as_json:
        print_json(price)
        return
    tell_price(price)
    if about := price.get("about"):
        say_how_it_is_made(about)


def _serve(settings: Settings) -> None:
    _refuse_unsafe(settings)
    _check_ledger(settings)
    from store.bucket import Bucket
    from workers.embedded import Embedded

    bucket = Bucket(settings.bucket) if settings.bucket else None
    with Embedded(settings, lambda line: err.print(line, markup=False)) as beside:
        if bucket is not None and not beside.has_workers:  # who would pull
            from store.exchange import Follower

            follower = Follower(bucket, settings.studies)
            threading.Thread(target=follower.keep_looking, name="pull", daemon=True).start()
        from dashboard.app import serve as serve_page  # while the workers start

        out.print(f"Headscope is at [bold]http://{settings.host}:{settings.port}[/] — Ctrl-C stops it")
        serve_page(settings)
        err.print("stopping")


def _show_bytes(show: Callable[[str, int, int, str], None], name: str, done: int, of: int) -> None:
    show(name, done, of, "bytes")


def _settings(data: Path | None = None, **given: Any) -> Settings:
    """Settings from the environment, and over them what the command line gave."""
    return Settings(**{name: value for name, value in {"data": data, **given}.items() if value is not None})


@contextmanager
def _mistakes() -> Iterator[None]:
    """One line for what a person can mend, without a traceback, and the right exit code."""
    try:
        yield
    except (StoreError, JobNotFoundError, ValueError, OSError, MemoryError, _MistakeError) as error:
        err.print("[bold red]error:[/] ", end="")
        err.print(mistake(error), markup=False)
        raise typer.Exit(MISTAKE) from error
    except KeyboardInterrupt as error:
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED) from error


class _MistakeError(RuntimeError):
    """A person's mistake that no other exception fits."""


def _need_worker() -> None:
    if find_spec("torch") is None or find_spec("timm") is None:
        raise _MistakeError("computing needs torch and timm, not installed here; pip install 'headscope[worker]'")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 (resolve() would follow a link that the person named)


def _one_of(option: str, given: str, allowed: Collection[str]) -> None:
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


if __name__ == "__main__":
    main()
