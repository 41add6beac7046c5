"""What would a study take? Refused as the study would be, and measured on a few of its pictures, in seconds.

What is written is compressed in memory. What is computed is timed: the pass over the pictures, and a block of the model
with as many pruned copies as go through it at a time; of these there are as many as there are heads and layers behind.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from cachetools import LRUCache
from zarr.storage import MemoryStore

from analyses.vocabulary import ATTENTION, INTERPOLATIONS, LEAST_CROP, OUTPUTS, POOLS, SKIPPABLE, WEIGHTS
from jobs.requests import PriceRequest, StudyRequest, from_json
from jobs.work import Lease
from precompute.analysis import batch_for, exact_float32, left_out, of_batch
from precompute.certificate import certify
from precompute.configuration import MODEL_FILE, PREPROCESSOR_FILE
from precompute.model import ViT
from precompute.names import check_name
from precompute.outputs import Outputs
from precompute.provenance import Choices
from precompute.weights import Weights, open_model
from store import paths, schema
from store.errors import StoreError, StudyNotFoundError
from store.settings import Settings
from store.study import open_published
from workers.after import seconds_after
from workers.cache import memory_cache
from workers.decode import DecodedImage, scan
from workers.images import Entry, ImageSet, ImageSourceError, find_images
from workers.masks import object_shares
from workers.prepare import (
    attention_of,
    choices_of,
    class_names_of,
    described,
    device_of,
    given_class_names,
    how_made,
    known_at_start,
    labels_of,
    nbytes,
    seen_pixels,
    sizes_of,
    unit_size,
)
from workers.refusals import field_of
from workers.runner import Work
from workers.study import StudyExistsError
from workers.study_model import MODEL_BYTES, MODEL_SHARE, model_bytes

Plain = dict[str, Any]
Array = np.ndarray

STEPS = 5
# Seconds for which a part of the model is run again and again; once, if it takes longer.
LONG_ENOUGH = 0.1


class RefusedStudyError(ValueError):
    """The study would be refused, for a reason that is none of its parts' own errors.

    Attributes:
        field: Of the request, that has to be changed.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass
class _Opened:
    """A model that was opened, and whether it was proved to be itself."""

    vit: ViT
    weights: Weights
    proved: bool = False


@cache
def _model_cache() -> LRUCache[Hashable, _Opened]:
    return memory_cache(lambda opened: model_bytes(opened.vit), MODEL_BYTES, MODEL_SHARE)


def do(lease: Lease, work: Work) -> None:
    """The one unit of a price. That the study would be refused is a result too."""
    request = from_json(lease.kind, lease.request)
    assert isinstance(request, PriceRequest)
    try:
        result = price_of(request.of, work.settings, work.check, work.progress)
    except ValueError as error:
        field = error.field if isinstance(error, RefusedStudyError) else field_of(error, request.of)
        if field is None:
            raise
        result = {"refused": {"field": field, "message": str(error)}}
    work.finish(result=result)


def price_of(
    request: StudyRequest, settings: Settings, check: Callable[[], None], progress: Callable[[int, int, str], None]
) -> Plain:
    """What the study takes, in plain JSON: bytes of all of it, seconds of the units of images.

    Args:
        check: Called between steps; it may raise, to stop.
        progress: Called with the steps done, of how many, and what they are.
    Raises:
        ValueError: The study would be refused; `RefusedStudyError`, or what `field_of` knows.
    """

    def done(steps: int) -> None:
        progress(steps, STEPS, "steps")
        check()

    study = paths.study_path(settings.studies, request.study)
    _refuse_choices(request)
    images = find_images(request.images, request.per_class)
    done(1)
    given = given_class_names(request)
    opened = _open(request, choices_of(request, given))
    vit = opened.vit
    every = [DecodedImage(entry.id, entry.path, entry.label, "0" * 64, 0, 0) for entry in images.entries]
    labels = labels_of(request, vit, class_names_of(vit, opened.weights, given), every)
    done(2)
    pictures, bad = _readable(images, batch_for(vit).images, check)
    _refuse_masks(request, images, pictures, vit)
    done(3)
    sizes = sizes_of(vit, known_at_start(vit, every, labels))
    attention = attention_of(request, settings, sizes)
    exists = _is_published(study, request, opened, len(every), labels.rule, attention)
    began = time.perf_counter()
    pixels = seen_pixels(vit, pictures)
    seconds = (time.perf_counter() - began) / len(pictures)
    if not opened.proved:
        certify(vit, pixels[:1])
        opened.proved = True
    done(4)
    arrays, captured = _captured(vit, pixels, [n for n in schema.SCHEMA if n != "attention" or attention == "stored"])
    check()
    seconds += captured + (_pruning_seconds(vit, arrays["residual"], check) if vit.num_classes else 0.0)
    by_array, compressed = _compressed(arrays, sizes)
    seconds += compressed
    done(STEPS)
    count = len(every) - bad
    written = [name for name in schema.SCHEMA if name not in left_out(vit)]
    once = sum(nbytes(name, sizes) for name in written if schema.SCHEMA[name].written not in ("unit", "start"))
    once += sum(each.nbytes for each in vit.rebuild_weights().values())
    found = {
        "study": request.study,
        "bytes": round(once + count * sum(by_array.values())),
        "attention": attention,
        "attention_bytes": round(count * by_array.get("attention", 0)),
        "seconds": round(count * seconds, 3),
        "images": count,
        "measured": len(pictures),
        "mapped": 0 if request.skip else count * vit.num_layers * vit.num_heads,
        "after_seconds": round(seconds_after(request.skip, left_out(vit), request.masks is not None, sizes), 1),
        "unit_images": unit_size(vit, batch_for(vit)),
        "labels": labels.rule,
        "classes": len(labels.classes),
        "exists": exists,
        "about": {
            "model": described(vit),
            "weights": opened.weights.identity(),
            "made": how_made(vit, opened.weights, labels, request),
            "settings": {"labels": labels.rule},
        },
    }
    if not exists:
        _refuse_small_disk(study, found)
    return found | ({"quarantined": bad} if bad else {})


def _refuse_choices(request: StudyRequest) -> None:
    """Refuse what is none of the choices, or no choice together."""
    for field, given, choices in (
        ("attention", request.attention, ATTENTION),
        ("device", request.device, ("auto", "cpu", "cuda")),
        ("weights", request.weights, (*WEIGHTS,)),
        ("outputs", request.outputs, (*OUTPUTS,)),
        ("pool", request.pool, (None, *POOLS)),
        ("interpolation", request.interpolation, (None, *INTERPOLATIONS)),
        *(("skip", each, SKIPPABLE) for each in request.skip),
    ):
        if given not in choices:
            raise RefusedStudyError(f"{field} is {given!r}; give {', '.join(map(str, choices))}", field)
    if request.weights != "auto" and request.checkpoint is None:
        raise RefusedStudyError("EMA or plain is asked of a checkpoint; pick one, or leave it at auto", "weights")
    if request.crop_pct is not None and not LEAST_CROP <= request.crop_pct <= 1:
        raise RefusedStudyError(f"the crop is {request.crop_pct}; give a share of {LEAST_CROP} to 1", "crop_pct")
    if request.random_weights and request.checkpoint is not None:
        raise RefusedStudyError("random weights and a checkpoint exclude each other; give one of them", "checkpoint")


def _open(request: StudyRequest, choices: Choices) -> _Opened:
    """The model of the request, from what is kept if neither its file nor the configuration beside it has changed."""
    check_name(request.model)
    device = device_of(request.device)
    file = request.checkpoint
    beside = () if file is None else (file, file.with_name(MODEL_FILE), file.with_name(PREPROCESSOR_FILE))
    stamps = tuple((s.st_mtime_ns, s.st_size) if (s := _stat(each)) else None for each in beside)
    seed = request.seed if request.random_weights else None
    key = (request.model, file, stamps, seed, request.image_size, device, choices)
    opened = _model_cache().get(key)
    if opened is None:
        vit, weights = open_model(
            request.model,
            checkpoint=file,
            random_seed=seed,
            image_size=request.image_size,
            device=device,
            choices=choices,
        )
        opened = _model_cache()[key] = _Opened(vit, weights)
    return opened


def _stat(file: Path) -> os.stat_result | None:
    return file.stat() if file.is_file() else None


def _readable(images: ImageSet, wanted: int, check: Callable[[], None]) -> tuple[list[DecodedImage], int]:
    """Some pictures that can be read, from all over the set, and how many that cannot were met on the way.

    Raises:
        ImageSourceError: None can be read.
    """
    entries, step = images.entries, max(1, len(images.entries) // wanted)
    found: list[DecodedImage] = []
    bad: list[Any] = []
    for entry in _spread(entries, step):
        check()
        (verdict,) = scan([entry])
        if isinstance(verdict, DecodedImage):
            found.append(verdict)
        else:
            bad.append(verdict)
        if len(found) == wanted:
            break
    if not found:
        raise ImageSourceError(
            f"none of the {len(bad)} pictures in {images.source} can be read; the first, {bad[0].id}: {bad[0].reason}"
        )
    return found, len(bad)


def _spread(entries: Sequence[Entry], step: int) -> Iterator[Entry]:
    """All entries: every `step`-th first."""
    for start in range(step):
        yield from entries[start::step]


def _refuse_masks(request: StudyRequest, images: ImageSet, pictures: Sequence[DecodedImage], vit: ViT) -> None:
    """Refuse a folder of masks that has none for these pictures' set, or false ones for these pictures."""
    if request.masks is None or "patterns" in request.skip:
        return
    names = {path.relative_to(request.masks).with_suffix("") for path in request.masks.rglob("*.[pP][nN][gG]")}
    masked = [each for each in pictures if Path(each.id).with_suffix("") in names]
    if masked or not any(Path(entry.id).with_suffix("") in names for entry in images.entries):
        object_shares(request.masks, masked or pictures, vit)


def _is_published(study: Path, request: StudyRequest, opened: _Opened, found: int, rule: str, attention: str) -> bool:
    """Whether the study is there already, as far as can be told without reading all pictures.

    Raises:
        StudyExistsError: One is there that was made otherwise.
    """
    try:
        known = open_published(study).attrs
    except StudyNotFoundError:
        return False
    except StoreError as error:
        raise RefusedStudyError(str(error), "name") from error
    asked = {"attention": attention, "seed": request.seed, "labels": rule, "device": opened.vit.device.type}
    same = (
        known["model"] == described(opened.vit)
        and known["weights"] == opened.weights.identity()
        and known["images"]["found"] == found
        and {name: known["settings"][name] for name in asked} == asked
    )
    if not same:
        raise StudyExistsError(
            f"study {study.name} is published already, made with another model, images or settings, and a published "
            f"study never changes; give another name, or remove it with `headscope rm {study.name}`"
        )
    return True


def _refuse_small_disk(study: Path, found: Plain) -> None:
    folder = next(each for each in study.parents if each.exists())
    free = shutil.disk_usage(folder).free
    if found["bytes"] > free:
        rebuilt = found["bytes"] - found["attention_bytes"] <= free
        raise RefusedStudyError(
            f"the study needs about {found['bytes'] / 1e6:,.0f} MB and {folder} has {free / 1e6:,.0f} MB free; make "
            "room, have attention rebuilt, or take fewer images",
            "attention" if rebuilt else "images",
        )


@torch.inference_mode()
def _captured(vit: ViT, pixels: Array, wanted: Sequence[str]) -> tuple[dict[str, Array], float]:
    """All that one pass over the pictures gives, by name, and the seconds of one picture."""
    label = np.full(len(pixels), -1, np.int32)
    # Without its classes, the importance of a model is that of its layers alone, with nothing run again.
    unclassified = ViT(vit.model, vit.name, Outputs("other", "not asked for here"), vit.preprocessing)
    began = _now(vit)
    arrays = of_batch(unclassified, pixels, label, 1, wanted)
    return arrays, (_now(vit) - began) / len(pixels)


@torch.inference_mode()
def _pruning_seconds(vit: ViT, residual: Array, check: Callable[[], None]) -> float:
    """Seconds of one picture in which what lies behind each head is run without it.

    Args:
        residual: Of some pictures, (image, depth, token, channel).
    """
    batch, layers = batch_for(vit), vit.num_layers
    copies = min(batch.chunk, batch.images * vit.num_heads)
    stream = torch.from_numpy(residual[:, layers // 2]).to(vit.device).to(vit.dtype)
    stream = stream[torch.arange(copies, device=vit.device) % len(stream)]
    with exact_float32():
        last = _seconds(vit, lambda: vit.read_out(vit.last_block(stream)), check)
        block = _seconds(vit, lambda: vit.block(0, stream), check) if layers > 2 else 0.0
        after = _seconds(vit, lambda: vit.after_attention(0, stream, stream), check) if layers > 1 else 0.0
    # Head by head of layer i: the rest of its block, the blocks i + 1 to the last but one, and the last.
    a_head = (layers - 1) * (after + last) + block * (layers - 1) * (layers - 2) / 2
    return a_head * math.ceil(batch.images * vit.num_heads / copies) / batch.images


def _seconds(vit: ViT, run: Callable[[], object], check: Callable[[], None]) -> float:
    """Of one run, the first not counted."""
    run()
    began, runs = _now(vit), 0
    while (took := _now(vit) - began) < LONG_ENOUGH or not runs:
        check()
        run()
        runs += 1
    return took / runs


def _now(vit: ViT) -> float:
    """The clock, once the device has done what it was told."""
    if vit.device.type == "cuda":
        torch.cuda.synchronize(vit.device)
    return time.perf_counter()


def _compressed(arrays: dict[str, Array], sizes: dict[str, int]) -> tuple[dict[str, float], float]:
    """Bytes an image of each array that units write, compressed as in the store, and the seconds of all of an image."""
    found, seconds = {}, 0.0
    for name, array in arrays.items():
        spec = schema.SCHEMA[name]
        if spec.written == "unit":
            objects: dict[str, Any] = {}
            creation = schema.creation(spec, sizes | {"image": len(array)}, len(array))
            made = zarr.create_array(MemoryStore(objects), **creation)
            began = time.perf_counter()
            made[:] = array
            seconds += (time.perf_counter() - began) / len(array)
            found[name] = sum(len(each) for key, each in objects.items() if key != "zarr.json") / len(array)
    return found, seconds
