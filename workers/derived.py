"""How is computed what a person asks of a published study? One unit of any analysis on request: some of its images.

The unit is computed by the function that the analysis names, with the very model that made the study. Its arrays are
published as the result, or kept as a part until the last unit joins the parts. The analysis needs nothing else here.
"""

import re
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache

from analyses import registry
from analyses.analysis import Analysis, resolve
from analyses.request import AnalysisRequest
from jobs.ledger import CLEAN
from jobs.requests import JOIN, ImageRequest, from_json
from jobs.work import Lease
from precompute.base import Base, base_pass
from precompute.errors import RequestError
from precompute.model import ViT
from precompute.unit import Arrays, Attrs, Unit, gradients
from store import paths
from store.derived import Writer, joined
from store.errors import DiskFullError, StoreError
from store.settings import Settings
from store.study import Study, open_published
from workers.cache import device, memory_cache
from workers.prepare import versions
from workers.runner import MistakeError, Work
from workers.study_model import StudyModelError, cached_model_of

# Largest difference of a logit from the study's, as a share of the largest: as in the study's own certificate.
TOLERANCE = 1e-3

# An image of ViT-B has 15 MB of stream and z: these are the last 130 images that people looked at.
BASE_BYTES, BASE_SHARE = 2_000_000_000, 1 / 8
_studies: LRUCache[Hashable, Study] = LRUCache(4)


def base_bytes(base: Base) -> int:
    """Bytes of its stream and z."""
    return sum(each.nbytes for each in (*base.resid, *base.z))


@cache
def base_cache() -> LRUCache[Hashable, Base]:
    """Unpruned passes over one image each, of the last images that were asked about."""
    return memory_cache(base_bytes, BASE_BYTES, BASE_SHARE)


_WORDS = {
    "attention": "neither attention nor the residual stream to rebuild it",
    "residual": "no residual stream",
    "masks": "no masks of objects",
    "labels": "no true classes",
    "classifier": "no classifier",
    "cls": "no CLS token that is read",
}


def do(lease: Lease, work: Work) -> None:
    """One unit: the images that its name counts, or the joining of what the others kept."""
    analysis = registry.on_request().get(lease.kind)
    if analysis is None:
        raise MistakeError(
            f"no analysis is called {lease.kind} here; install the package that declares it, and ask again"
        )
    try:
        request = from_json(lease.kind, lease.request)
    except ValueError as error:  # of another version
        raise MistakeError(f"{error}; ask for it again") from error
    assert isinstance(request, AnalysisRequest)
    try:
        study = published(request, work.settings, lambda study: study.content_of(analysis.reads))
    except MistakeError:
        if lease.step.name == CLEAN.name:  # it took with it what was to be cleaned away
            work.finish()
            return
        raise
    writer = Writer(study, analysis, request, lease.job, lease.fence)
    if lease.step.name == CLEAN.name:
        writer.clean()
        work.finish()
        return
    try:
        _do(analysis, study, request, lease, writer, work)
    except DiskFullError:
        raise
    except RequestError as error:
        raise MistakeError(str(error), error.field) from error
    except (StudyModelError, StoreError) as error:
        raise MistakeError(str(error)) from error


def _do(analysis: Analysis, study: Study, request: AnalysisRequest, lease: Lease, writer: Writer, work: Work) -> None:
    result = {"study": study.name, "analysis": analysis.name, "key": writer.folder.name}
    if writer.is_done():  # by another job, or by a process that died since
        writer.clean()
        work.finish(result=result)
        return
    began = time.perf_counter()
    if lease.step.name == JOIN:
        parts = writer.parts([str(facts["part"]) for facts in work.ledger.unit_facts(lease.job, 0)])
        arrays, attrs = joined(analysis.arrays, [arrays for arrays, _ in parts]), dict(parts[0][1])
        seconds = attrs.pop(_SECONDS) + sum(each[_SECONDS] for _, each in parts[1:])
    else:
        first, last = map(int, re.findall(r"\d+", lease.step.name))
        whole = last - first + 1 == len(request.images)
        part = {"part": lease.step.name}
        if not whole and writer.has_part(lease.step.name):  # of a process that died since
            work.finish(facts=part)
            return
        arrays, attrs = _computed(analysis, study, request, request.images[first : last + 1], work)
        seconds = time.perf_counter() - began
        if not whole:
            writer.write_part(lease.step.name, arrays, {**attrs, _SECONDS: seconds}, work.hold)
            work.finish(facts=part)
            return
    run = {"headscope": version("headscope"), "packages": _versions(), "device": device()}
    run |= {"seconds": round(seconds, 4), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    writer.publish(arrays, attrs, run, work.hold)
    work.finish(result=result)


_SECONDS = "seconds"  # of a part: what computing it took


@lru_cache
def _versions() -> dict[str, str]:
    return versions()


def _computed(
    analysis: Analysis, study: Study, request: AnalysisRequest, images: Sequence[str], work: Work
) -> tuple[Arrays, Attrs]:
    """What the analysis' function gives for some images of its request.

    Raises:
        MistakeError: The study lacks an image, or what the analysis needs.
        StudyModelError: Its model is not here.
        StoreError: It is damaged.
    """
    _refuse_lacking(analysis, study)
    models = _Models(study, work.settings)
    unit = Unit(
        study,
        images=_indices(study, images),
        layers=range(study.attrs["model"]["num_layers"]),
        seed=study.attrs["settings"]["seed"],
        device=torch.device(device()),
        **(models.given if {"model", "gradients"} & set(analysis.needs) else {}),
        masks=study.read("object") if "masks" in analysis.needs else None,
        request=request,
        release_memory=base_cache().clear,
        progress=lambda done, of: work.progress(done, of, analysis.counted),
        check=work.check,
    )
    with models.handed_out(unit.images, with_gradients="gradients" in analysis.needs):
        found: Arrays | tuple[Arrays, Attrs] = resolve(analysis.function)(unit)
    return found if isinstance(found, tuple) else (found, {})


def _refuse_lacking(analysis: Analysis, study: Study) -> None:
    """Refuse (MistakeError) a study that has not what the analysis needs."""
    has = {
        "attention": study.attention_source is not None,
        "residual": "residual" in study,
        "masks": "object" in study,
        "labels": study.has_labels if "labels" in analysis.needs else True,
        "classifier": bool(study.attrs["model"]["num_classes"]),
        "cls": bool(study.attrs["model"]["has_cls"]),
    }
    if lacking := [_WORDS[need] for need in analysis.needs if not has.get(need, True)]:
        raise MistakeError(f"{analysis.title} cannot be computed: study {study.name} has {' and '.join(lacking)}")


class _Models:
    """The model of a study for one unit: opened if it is asked for, and proved to be the one that made the study."""

    def __init__(self, study: Study, settings: Settings) -> None:
        self._study, self._settings = study, settings
        self._vit: ViT | None = None
        self._proved = False

    @property
    def given(self) -> dict[str, Any]:
        """What a unit is given of it."""
        return {"open_model": self.open, "base_of": self.base}

    def open(self) -> ViT:
        """The model, in eval mode and float32."""
        if self._vit is None:
            self._vit = cached_model_of(self._study, self._settings, device())
        return self._vit

    def base(self, images: Sequence[int]) -> Base:
        """The unpruned pass over some images of the study: kept from an earlier time, or made and kept."""
        vit, study = self.open(), self._study
        keys = {index: (study.manifest.content, index, vit.device) for index in images}
        known = {index: base for index in images if (base := base_cache().get(keys[index])) is not None}
        new = [index for index in images if index not in known]
        if new:
            computed = base_pass(vit, torch.from_numpy(study.read("pixels", new)))
            prove(study, new, computed.logits)
            for at, index in enumerate(new):
                # Of its own memory, and without the contexts, which pruning makes anew for its heads.
                resid, z = ([each[at : at + 1].clone() for each in layers] for layers in (computed.resid, computed.z))
                known[index] = Base(resid, [], z, computed.logits[at : at + 1].clone())
                base_cache()[keys[index]] = known[index]
        self._proved = True
        bases: list[Base] = [known[index] for index in images]
        if len(bases) == 1:
            return bases[0]
        resid, z = (
            [torch.cat(layer) for layer in zip(*layers, strict=True)]
            for layers in ([base.resid for base in bases], [base.z for base in bases])
        )
        return Base(resid, [], z, torch.cat([base.logits for base in bases]))

    @contextmanager
    def handed_out(self, images: Sequence[int], *, with_gradients: bool) -> Iterator[None]:
        """While a unit is computed: with gradients to the model's weights, or without. A used model is proved after."""
        with gradients(with_gradients, self.open):
            yield
        if self._vit is not None and not self._proved:
            self.base(images[:1])


def prove(study: Study, indices: Sequence[int], logits: torch.Tensor) -> None:
    """Refuse a model that no longer says what the study says of these images, equal weights or not.

    Raises:
        StudyModelError
    """
    if "logits" not in study:
        return
    known = study.read("logits", list(indices))
    difference = np.abs(logits.cpu().numpy() - known)
    finite = np.isfinite(difference)
    error = float(difference[finite].max(initial=0) / np.abs(known[finite]).max(initial=1e-30))
    if error > TOLERANCE:
        raise StudyModelError(
            f"the model with these very weights no longer gives what study {study.name} has: a logit differs by "
            f"{error:.1e} of the largest; the study was made with {_packages(study.manifest.packages)}: install "
            "these, or compute it anew"
        )


def _packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm") if name in packages)


def published(
    request: AnalysisRequest | ImageRequest,
    settings: Settings,
    content_of: Callable[[Study], str] = lambda study: study.manifest.content,
) -> Study:
    """The study, with the content that the request is about.

    Args:
        content_of: Gives the hash of what a study must still have.
    Raises:
        MistakeError: It is gone, or was computed anew.
    """
    folder = paths.study_path(settings.studies, request.study)
    try:
        stamp = paths.manifest_path(folder).stat()
    except FileNotFoundError:
        raise MistakeError(f"study {request.study} is gone; open one that is there") from None
    key = (folder, stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)
    study = _studies.get(key)
    if study is None:
        study = _studies[key] = open_published(folder)
    if content_of(study) != request.content:
        raise MistakeError(f"study {request.study} was computed anew; open it again, and ask again")
    return study


def _indices(study: Study, images: Sequence[str]) -> list[int]:
    try:
        return [study.image_index(image) for image in images]
    except KeyError as error:
        raise MistakeError(error.args[0], "images") from None
