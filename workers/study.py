"""How does a study come to be? Units of images are computed and written, then what needs all of them, then published.

`run` does all of it here and now. The queue takes the same in steps: `begin` once, then `do` each of `steps`, in any
process. Each step says how far it is through `Progress`, and may be stopped between batches. Run again after a stop or
a crash, it goes on where it was.
"""

import hashlib
import logging
import math
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from analyses.analysis import Analysis
from jobs.work import Step
from precompute import analysis
from precompute.unit import Part, Unit
from store import schema
from store.attempt import Attempt
from store.errors import DiskFullError, StudyNotFoundError
from store.manifest import Manifest
from store.staging import nothing
from store.study import Study, open_published
from workers.after import after, compute, compute_whole, join, seconds_after
from workers.copies import counted_once
from workers.memory import forget_peak, peak_mb
from workers.pieces import Piece, levels, pieces_of
from workers.prepare import Prepared, Progress, nbytes, seen_pixels, versions

# A top-1 rate that guessing would reach once in a hundred tries is called near chance.
CHANCE_LEVEL = 0.01
# Attention in float16 behind Blosc's shuffle and zstd takes at least a sixth of itself on the models tried.
BEST_COMPRESSION = 6

# Names of the steps that are neither of images nor an analysis'. A step is known by its name alone: a job that another
# version planned has other analyses, in other phases.
GATHER, PUBLISH = "gather", "publish"

_log = logging.getLogger(__name__)


class StudyExistsError(ValueError):
    """A study of that name is published, made otherwise; it never changes."""


@dataclass(frozen=True)
class Price:
    """What a study costs, measured on its first unit.

    Attributes:
        seconds: Of all units of images, one after the other.
        mapped: Heads of images that get names and maps after that.
        after_seconds: About how long these take on two CPU cores.
    """

    images: int
    bytes: int
    seconds: float
    mapped: int
    after_seconds: float
    attention: str
    attention_bytes: int
    unit_images: int


def published(prepared: Prepared) -> Manifest | None:
    """The study's manifest, if these very settings published it already; `missing` tells what it may lack.

    Raises:
        StudyExistsError: it is published with other settings, images or masks.
    """
    try:
        manifest = Manifest.load(prepared.study)
    except StudyNotFoundError:
        return None
    name = prepared.study.name
    if manifest.run.get("plan") != _plan_hash(prepared):
        raise StudyExistsError(
            f"study {name} is published already, made with another model, images or settings, and a published study "
            f"never changes; give --name OTHER, or remove it with `headscope rm {name}`"
        )
    known = open_published(prepared.study).attrs.get("masks")
    if prepared.masks is not None and known is not None and known["fingerprint"] != prepared.masks[1].fingerprint:
        raise StudyExistsError(
            f"study {name} is published already, with other masks, and a published study never changes; give "
            f"--name OTHER, leave out --masks, or remove it with `headscope rm {name}`"
        )
    return manifest


def missing(prepared: Prepared) -> list[str]:
    """Analyses that are asked for and that the published study lacks."""
    return [each.name for each in _missing(prepared, open_published(prepared.study).arrays)]


def run(
    prepared: Prepared, progress: Progress, tell_price: Callable[[Price], None], check: Callable[[], None]
) -> Manifest:
    """Compute what is missing of the study, and publish it.

    Args:
        tell_price: Called once the first unit is there.
        check: Called between batches; it may raise, to stop: what is finished is kept.
    Raises:
        StudyBusyError: Another process is computing this study.
        StudyExistsError: As `published`.
        DiskFullError: There is no room for it; the message says how much is needed.
    """
    with begin(prepared) as attempt:
        count = len(prepared.kept)
        planned = steps(prepared, attempt)
        done = count - sum(step.images for step in planned)
        told = done > 0
        if attempt.units:
            progress("heads", done, count, "images")
        for step in planned:
            do(step, prepared, attempt, progress, check)
            if step.images:
                done += step.images
                progress("heads", done, count, "images")
            unit = unit_of(step, attempt)
            if not told and unit is not None:
                told = True
                first = price_of(prepared, attempt, unit)
                refuse_small_disk(prepared, first.bytes)
                tell_price(first)
    return Manifest.load(prepared.study)


def begin(prepared: Prepared, job: str | None = None) -> Attempt:
    """The attempt at what is missing of the study: the one that was interrupted, else one that adds to what is
    published, else a new one. Nobody else writes the study while it is open.

    Args:
        job: Id of the queue's job that it is begun for.
    Raises:
        StudyBusyError, StudyExistsError, DiskFullError: As `run`.
    """
    before = published(prepared)
    attempt = Attempt.unfinished(prepared.study, prepared.plan)
    if attempt is not None:
        attempt.note({"job": job})
        return attempt
    if before is not None:
        return Attempt.extend(prepared.study, prepared.plan, {"job": job, "run": before.run})
    refuse_small_disk(prepared)
    ran: dict[str, Any] = {"began": _now(), "seconds": prepared.seconds}
    if prepared.request.checkpoint is not None:
        ran["checkpoint"] = str(prepared.request.checkpoint.resolve())  # where pruning on demand looks for it
    facts = {"job": job, "run": ran}
    return _started(prepared, prepared.study, facts)


def steps(prepared: Prepared, attempt: Attempt) -> list[Step]:
    """What is still to be done, in order; those of one phase in any order, by any number of processes at once."""
    units = attempt.units
    images = [Step(1, unit, _unit_name(units[unit]), len(units[unit])) for unit in attempt.pending()]
    phases: list[list[str]] = [] if attempt.gathered else [[GATHER]]
    for level in levels(_missing(prepared, attempt.arrays)):
        cut = {each.name: pieces_of(each, prepared.sizes) for each in level}
        phases.append([piece.name for each in level for piece in cut[each.name]])
        phases[-1] += [each.name for each in level if not cut[each.name]]
        phases.append([each.name for each in level if cut[each.name]])
    phases.append([PUBLISH])
    later = enumerate((names for names in phases if names), start=2)
    return [*images, *(Step(phase, number, name) for phase, names in later for number, name in enumerate(names))]


def unit_of(step: Step, attempt: Attempt) -> int | None:
    """Which of the attempt's units of images a step is; None if it is another sort of step."""
    return next((unit for unit, images in enumerate(attempt.units) if _unit_name(images) == step.name), None)


def _unit_name(images: range) -> str:
    return f"images {images.start} to {images.stop - 1}" if len(images) > 1 else f"image {images.start}"


def do(
    step: Step,
    prepared: Prepared,
    attempt: Attempt,
    progress: Progress,
    check: Callable[[], None],
    hold: Callable[[], None] = nothing,
) -> None:
    """Do one of `steps`. One that is finished already is left as it is.

    Another version may have planned it. Analyses that come before it and are not there are computed first, so what is
    published has all that this version computes; one that this version does not know is left out.

    Args:
        check: Called between batches; it may raise, to stop: what is finished is kept.
        hold: Called right before anything of the step is placed; it raises if the step is another process's now.
    Raises:
        DiskFullError: There is no room; nothing of the step is there.
        LostLeaseError: The step was taken over.
    """
    unit = unit_of(step, attempt)
    if unit is not None:
        if not attempt.has_unit(unit):
            _unit(prepared, attempt, unit, check, hold)
        return
    asked = after()
    own, piece = next(_named(step.name, asked, prepared), (None, None))
    if own is None and step.name not in (GATHER, PUBLISH):
        _log.warning("left out %r of %s: this version has no such step", step.name, attempt.study.name)
        return
    for pending in attempt.pending():  # what the disk lost, or spoiled, since it was written
        _unit(prepared, attempt, pending, check, hold)
    if step.name == GATHER or not attempt.gathered:
        progress("gather", 0, 1, "arrays")
        attempt.gather(hold)
        progress("gather", 1, 1, "arrays")
    missing = _missing(prepared, attempt.arrays)
    for each in missing:
        if step.name == PUBLISH or (own is not None and _is_read_by(each, own, missing)):
            _after(prepared, attempt, each, progress, check, hold)
    if own is not None and own in missing:
        if piece is None:
            _after(prepared, attempt, own, progress, check, hold)
        else:
            _piece(prepared, attempt, piece, progress, check, hold)
    if step.name == PUBLISH:
        progress("publish", 0, 1, "study")
        _publish(prepared, attempt, hold)
        progress("publish", 1, 1, "study")


def _named(
    name: str, analyses: Iterable[Analysis], prepared: Prepared
) -> Iterator[tuple[Analysis | None, Piece | None]]:
    """The analysis that a step is of, and which piece of it; the piece is None if the step is of the whole."""
    for each in analyses:
        if each.name == name:
            yield each, None
        elif name.startswith(f"{each.name}: "):
            yield from ((each, piece) for piece in pieces_of(each, prepared.sizes) if piece.name == name)


def _is_read_by(other: Analysis, own: Analysis, missing: Iterable[Analysis]) -> bool:
    """Whether `own`, or another that it waits for, reads arrays of `other`."""
    wanted = set(own.reads)
    for each in reversed(list(missing)):
        if each is not own and wanted & set(each.arrays):
            if each is other:
                return True
            wanted |= set(each.reads)
    return False


def price(prepared: Prepared, progress: Progress, check: Callable[[], None]) -> Price:
    """What the study would cost: the first unit is computed and written for real, in a folder that is then removed."""
    refuse_small_disk(prepared)
    parent = prepared.study.parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".price-", dir=parent))
    try:
        with _started(prepared, scratch / prepared.study.name) as attempt:
            _unit(prepared, attempt, 0, check)
            progress("heads", len(attempt.units[0]), len(prepared.kept), "images")
            return price_of(prepared, attempt, 0)
    finally:
        shutil.rmtree(scratch)


def price_of(prepared: Prepared, attempt: Attempt, unit: int) -> Price:
    """Of the whole study, from what one finished unit took."""
    facts = attempt.unit_facts(unit)
    assert facts is not None
    count, first = len(prepared.kept), facts["images"]
    whole = sum(nbytes(n, prepared.sizes) for n in prepared.arrays if schema.SCHEMA[n].written != "unit")
    by_array = attempt.unit_bytes(unit)
    attention = by_array.get("attention", 0) * count // first
    return Price(
        images=count,
        bytes=whole + sum(by_array.values()) * count // first,
        seconds=facts["seconds"] / first * count,
        mapped=0 if prepared.request.skip else count * prepared.sizes["layer"] * prepared.sizes["head"],
        after_seconds=round(
            seconds_after(
                prepared.request.skip, prepared.attrs["left_out"], prepared.masks is not None, prepared.sizes
            ),
            1,
        ),
        attention=prepared.attention,
        attention_bytes=attention,
        unit_images=prepared.unit_images,
    )


def refuse_small_disk(prepared: Prepared, needed: int | None = None) -> None:
    """Refuse a disk that cannot hold the study.

    Args:
        needed: Bytes of the whole study, once measured; without it the least that it can take.
    Raises:
        DiskFullError
    """
    folder = prepared.study
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed is None:
        attention = nbytes("attention", prepared.sizes) if prepared.attention == "stored" else 0
        needed, what = nbytes("residual", prepared.sizes) + attention // BEST_COMPRESSION, "at least "
    else:
        written = sum(f.stat().st_size for f in prepared.study.rglob("*") if f.is_file())
        needed, what = max(0, needed - written), "about "
    if needed > free:
        raise DiskFullError(
            f"the study needs {what}{needed / 1e6:,.0f} MB and {folder} has {free / 1e6:,.0f} MB free; make room, set "
            "HEADSCOPE_DATA to a larger disk, use --attention rebuilt, or take fewer images (--per-class)"
        )


def _publish(prepared: Prepared, attempt: Attempt, hold: Callable[[], None]) -> None:
    attrs = _attrs_of_units(prepared, attempt) if attempt.units else {}
    attrs |= _attrs_of_analyses(attempt)
    attrs["left_out"] = prepared.attrs["left_out"] | _not_asked(prepared, attempt.arrays)
    facts = _run_facts(attempt) | {"packages": versions(), "plan": _plan_hash(prepared), "finished": _now()}
    attempt.publish(attrs, facts | {"headscope": version("headscope")}, hold)


def _run_facts(attempt: Attempt) -> dict[str, Any]:
    """What it took, as those say who did it, and as the run said that published what this attempt adds to.

    "seconds" of the heads are those in which at least one process was at it, by each host's own clock.
    """
    before, units, stages = attempt.begun["run"], attempt.facts(), attempt.stages()
    facts: dict[str, Any] = before | {
        "seconds": before["seconds"] | {name: told["seconds"] for name, told in stages.items()},
        "peak_mb": before.get("peak_mb", {}) | {name: told["peak_mb"] for name, told in stages.items()},
    }
    if units:
        seconds = _covered((told["began"], told["began"] + told["seconds"]) for told in units)
        peaks = [told["peak_mb"] for told in units if told["peak_mb"] is not None]
        facts["seconds"] |= {"heads": seconds}
        facts["peak_mb"] |= {"heads": max(peaks, default=None)}
        facts["images_per_second"] = sum(told["images"] for told in units) / seconds
    by = [*units, *stages.values()]
    if by:
        facts["device"] = ", ".join(sorted({told["device"] for told in by}))
        facts["threads"] = max(told["threads"] for told in by)
    return facts


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans was open."""
    covered, until = 0.0, -math.inf
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return covered


def _took(prepared: Prepared, began: float) -> dict[str, Any]:
    """Facts of what this process did since `began`, by its monotonic clock, and since the peak was forgotten."""
    seconds = round(time.perf_counter() - began, 3)
    device = _device_name(prepared.vit.device)
    return {"seconds": seconds, "peak_mb": peak_mb(), "device": device, "threads": torch.get_num_threads()}


def _attrs_of_units(prepared: Prepared, attempt: Attempt) -> dict[str, Any]:
    """Root attributes from all units."""
    return {
        "nonfinite": _nonfinite(attempt, attempt.facts()),
        "accuracy": _accuracy(prepared, attempt.so_far()),
    }


def _after(
    prepared: Prepared,
    attempt: Attempt,
    own: Analysis,
    progress: Progress,
    check: Callable[[], None],
    hold: Callable[[], None],
) -> None:
    """Compute and write an analysis of all images: in one unit, or from its pieces; missing ones come first."""
    pieces = pieces_of(own, prepared.sizes)
    done = attempt.pieces(own.name)
    for piece in pieces:
        if piece.key not in done:
            _piece(prepared, attempt, piece, progress, check, hold)
    forget_peak()
    began = time.perf_counter()
    unit = _unit_of_all(prepared, attempt, own, progress, check)
    if pieces:
        arrays, attrs = join(own, unit, (_part(attempt, piece) for piece in pieces))
    else:
        arrays, attrs = compute_whole(own, unit)
    if "masks" in own.needs and prepared.masks is not None:
        attrs["masks"] = asdict(prepared.masks[1]) | attrs.get("masks", {})
    took = _took(prepared, began)
    of_pieces = attempt.pieces(own.name).values()
    took["seconds"] = round(took["seconds"] + _covered((p["began"], p["began"] + p["seconds"]) for p in of_pieces), 3)
    took["peak_mb"] = max((t["peak_mb"] for t in (took, *of_pieces) if t["peak_mb"] is not None), default=None)
    wanted = {name: array for name, array in arrays.items() if name in _arrays(prepared, own)}
    attempt.write_stage(own.name, wanted, {"attrs": attrs, **took}, hold)


def _piece(
    prepared: Prepared,
    attempt: Attempt,
    piece: Piece,
    progress: Progress,
    check: Callable[[], None],
    hold: Callable[[], None],
) -> None:
    """Compute one piece of an analysis, and keep what it gives until all are there."""
    if piece.key in attempt.pieces(piece.analysis.name):
        return
    forget_peak()
    at, began = time.time(), time.perf_counter()
    whole = _unit_of_all(prepared, attempt, piece.analysis, progress, check)
    arrays, _ = compute(piece.analysis, replace(whole, images=piece.images, layers=piece.layers))
    facts = {"began": at, **_took(prepared, began)}
    attempt.write_piece(piece.analysis.name, piece.key, arrays, facts, hold)


def _part(attempt: Attempt, piece: Piece) -> Part:
    return Part(piece.images, piece.layers, attempt.read_piece(piece.analysis.name, piece.key))


def _unit_of_all(
    prepared: Prepared, attempt: Attempt, own: Analysis, progress: Progress, check: Callable[[], None]
) -> Unit:
    """What an analysis works on: everything that is written so far."""
    study = attempt.so_far()
    needs_model = {"model", "gradients"} & set(own.needs)
    more: dict[str, Any] = {"open_model": lambda: prepared.vit} if needs_model else {}
    return Unit(
        study=study,
        images=range(study.sizes["image"]),
        layers=range(study.sizes["layer"]),
        seed=prepared.request.seed,
        device=prepared.vit.device,
        masks=None if prepared.masks is None else prepared.masks[0],
        progress=lambda done, of: progress(own.name, done, of, own.counted),
        check=check,
        **more,
    )


def _attrs_of_analyses(attempt: Attempt) -> dict[str, Any]:
    """Root attributes from all finished analyses; each map adds its own to those that are published already."""
    attrs: dict[str, Any] = {"maps": attempt.so_far().attrs.get("maps", {})}
    for facts in attempt.stages().values():
        attrs |= {key: attrs["maps"] | value if key == "maps" else value for key, value in facts["attrs"].items()}
    return attrs


def _missing(prepared: Prepared, there: Iterable[str]) -> list[Analysis]:
    """The analyses that are asked for and that the model allows, of which not all arrays are among those there."""
    asked = [each for each in after() if not _reason(prepared, each) and _arrays(prepared, each)]
    return [each for each in asked if not set(_arrays(prepared, each)) <= set(there)]


def _arrays(prepared: Prepared, own: Analysis) -> list[str]:
    """What the analysis writes for this model."""
    return [name for name in own.arrays if name not in prepared.attrs["left_out"]]


def _reason(prepared: Prepared, own: Analysis) -> str | None:
    """Why an analysis is not computed for this request; None if it is."""
    if own.skipped_by in prepared.request.skip:
        return f"left out by --skip {own.skipped_by}; the same command without it adds it"
    if "masks" in own.needs and prepared.masks is None:
        return "no masks were given; the same command with --masks adds it"
    if "labels" in own.needs and not (prepared.label >= 0).any():
        return "the class of no image is known; give --classes, or --label-map"
    return None


def _not_asked(prepared: Prepared, there: list[str]) -> dict[str, str]:
    """Why arrays of analyses are not there, by name."""
    reasons = {name: _reason(prepared, each) for each in after() for name in _arrays(prepared, each)}
    return {name: why for name, why in reasons.items() if why is not None and name not in there}


def _started(prepared: Prepared, study: Path, facts: dict[str, Any] | None = None) -> Attempt:
    of_units = [name for name in prepared.arrays if schema.SCHEMA[name].written != "end"]
    return Attempt.start(
        study, prepared.plan, prepared.sizes, prepared.attrs, prepared.start, of_units, prepared.unit_images, facts
    )


def _unit(
    prepared: Prepared, attempt: Attempt, unit: int, check: Callable[[], None], hold: Callable[[], None] = nothing
) -> None:
    """Compute and write one unit."""
    forget_peak()
    at, began = time.time(), time.perf_counter()
    images = attempt.units[unit]
    check()
    pixels = seen_pixels(prepared.vit, prepared.kept[images.start : images.stop])
    label = prepared.label[images.start : images.stop]
    arrays, prepared.batch = analysis.of_images(prepared.vit, pixels, label, prepared.batch, prepared.arrays, check)
    facts = {"images": len(images), "nonfinite": where_nonfinite(arrays, images), "began": at}
    attempt.write_unit(unit, arrays, facts | _took(prepared, began), hold)


def where_nonfinite(arrays: dict[str, np.ndarray], images: range) -> dict[str, list[int]]:
    """Images with a NaN or Inf, by array."""
    found = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            by_image = np.moveaxis(array, schema.SCHEMA[name].image_axis or 0, 0).reshape(len(images), -1)
            bad = ~np.isfinite(by_image.sum(axis=1, dtype=np.float64))
            if bad.any():
                found[name] = [images[i] for i in np.flatnonzero(bad)]
    return found


def _nonfinite(attempt: Attempt, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """All images with a NaN or Inf, and how many of them in each array."""
    counts: Counter[str] = Counter()
    images: set[int] = set()
    for fact in facts:
        for name, where in fact["nonfinite"].items():
            counts[name] += len(where)
            images |= set(where)
    return {"images": sorted(images), "values": dict(sorted(counts.items()))}


def _accuracy(prepared: Prepared, study: Study) -> dict[str, Any] | None:
    """Top-1 and top-5 on the labelled images, and whether guessing would do as well.

    Where pictures are there more than once, also with each counted `once`: of those that have one label.
    """
    known = prepared.label >= 0
    if not known.any() or not prepared.vit.num_classes:
        return None
    label, logits = prepared.label[known], study.read("logits")[known]
    above = (logits > logits[np.arange(len(label)), label][:, None]).sum(axis=1)
    chance = binomtest(int((above < 1).sum()), len(label), 1 / logits.shape[1], alternative="greater").pvalue
    found = {**_rates(above), "near_chance": bool(chance > CHANCE_LEVEL)}
    once = counted_once([kept.sha256 for kept in prepared.kept], prepared.label)[known]
    return found if once.all() else found | {"once": _rates(above[once])}


def _rates(above: np.ndarray) -> dict[str, Any]:
    """Top-1 and top-5 of images, by how many classes are above the true one; null where there are no images."""
    rates = {name: float((above < rank).mean()) if len(above) else None for name, rank in (("top1", 1), ("top5", 5))}
    return {**rates, "images": len(above)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def _plan_hash(prepared: Prepared) -> str:
    return hashlib.sha256(repr(sorted(prepared.plan.items())).encode()).hexdigest()
