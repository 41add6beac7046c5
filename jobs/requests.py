"""What can be asked for? The jobs and their parameters, as both sides of the queue know them. No torch, no Dash."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from analyses import registry
from analyses.request import AnalysisRequest
from jobs.work import Step

# The two queues, each with its own processes: what a person waits for does not wait behind studies.
INTERACTIVE, BULK = "interactive", "bulk"
QUEUES = (INTERACTIVE, BULK)

# The unit that puts the parts of the others together, of what an analysis was asked for on many images.
JOIN = "join"


@dataclass(frozen=True)
class StudyRequest:
    """One model on one set of images, precomputed.

    Attributes:
        model: timm's name of the architecture.
        images: A folder a class, a flat folder, or a CSV of path,label.
        name: Of the study; by default the model's and the folder's.
        checkpoint: Weights; without it timm's own from the hub.
        random_weights: Weights drawn from `seed` instead of trained ones.
        image_size: Pixels as (height, width); by default the model's own.
        weights: Of vocabulary.WEIGHTS: which of two sets of weights that a checkpoint has.
        pool: Of vocabulary.POOLS: how the head reads the tokens, where no file says it.
        outputs: Of vocabulary.OUTPUTS: whether the outputs are classes of which one is true of an image.
        mean: By which pixels of 0 to 1 are normalised, of red, green and blue, where no file says it.
        std: As `mean`.
        crop_pct: Share of the resized picture's side that is cropped from its middle.
        interpolation: Of vocabulary.INTERPOLATIONS: how pictures are resized.
        classes: File with the model's class names, or one of vocabulary.NAMED_CLASSES.
        label_map: CSV of label,class, where the labels are not the model's names.
        no_labels: The folders are not labels, or not of the model's classes.
        per_class: Only the first so many images of each class.
        attention: Of vocabulary.ATTENTION: "auto" stores the matrices up to the limit of the settings.
        device: "auto", "cpu" or "cuda".
        seed: Of layouts, of the autoencoder, and of random weights.
        masks: A folder with a mask of the object for each image, or for some.
        skip: Of vocabulary.SKIPPABLE: left out for now; the same request without it adds what is missing.
    """

    model: str
    images: Path
    name: str | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    image_size: tuple[int, int] | None = None
    weights: str = "auto"
    pool: str | None = None
    outputs: str = "auto"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    classes: Path | None = None
    label_map: Path | None = None
    no_labels: bool = False
    per_class: int | None = None
    attention: str = "auto"
    device: str = "auto"
    seed: int = 0
    masks: Path | None = None
    skip: frozenset[str] = frozenset()

    @property
    def study(self) -> str:
        """Name of the study."""
        if self.name is not None:
            return self.name
        images = Path(self.images).resolve()
        named_after = images.stem if images.suffix == ".csv" else images.name
        return re.sub(r"[^a-z0-9._-]+", "-", f"{self.model}-{named_after}".lower()).strip("-._")[:80]

    @property
    def title(self) -> str:
        """What people call the job."""
        return self.study


@dataclass(frozen=True)
class PriceRequest:
    """What a study would take: checked and measured, not computed."""

    of: StudyRequest

    @property
    def title(self) -> str:
        """What people call the job."""
        return f"price of {self.of.study}"


@dataclass(frozen=True)
class UploadRequest:
    """An archive of pictures that a person sent, unpacked.

    Attributes:
        upload: Id of its folder.
        name: What the archive is called.
    """

    upload: str
    name: str

    @property
    def title(self) -> str:
        """What people call the job."""
        return f"upload of {self.name}"


@dataclass(frozen=True)
class ImageRequest:
    """A picture that a person dropped on the page, computed as the images of a study were.

    Attributes:
        study: Name of that study.
        content: Content hash of its manifest.
        upload: Id of the picture's folder.
        name: What the picture's file is called.
    """

    study: str
    content: str
    upload: str
    name: str

    @property
    def title(self) -> str:
        """What people call the job."""
        return f"{self.name} in {self.study}"


Request = StudyRequest | PriceRequest | UploadRequest | ImageRequest | AnalysisRequest

# Kinds of jobs beside the analyses that people ask for: their request and their queue.
_KINDS: dict[str, tuple[type[Any], str]] = {
    "study": (StudyRequest, BULK),
    "price": (PriceRequest, INTERACTIVE),
    "upload": (UploadRequest, BULK),
    "image": (ImageRequest, INTERACTIVE),
}
FIXED = tuple(_KINDS)
# The unit that a job begins with, of kinds that begin with one.
_FIRST = {"study": "plan", "price": "price", "upload": "unpack", "image": "picture"}


def kinds() -> tuple[str, ...]:
    """The kinds of jobs: of each analysis that people ask for, its name is one."""
    return (*FIXED, *registry.on_request())


def channels(name: str, text: str | None, *, positive: bool = False) -> tuple[float, float, float] | None:
    """Three numbers, of red, green and blue, from one or three that a person writes; None from nothing.

    Args:
        name: What messages call them.
        positive: Whether each must be over 0.
    Raises:
        ValueError: They are not one or three numbers of pixels from 0 to 1.
    """
    if text is None or not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise ValueError(f"{name} {text[:40]!r} is not right; give one number or three, as 0.485,0.456,0.406")
    if not all(0 <= x <= 1 and (x or not positive) for x in numbers):
        right = "over 0, up to 1" if positive else "0 to 1"
        raise ValueError(f"{name} {text[:40]!r} is not of pixels from 0 to 1; give {right} (numbers of 255 by 255)")
    red, *others = numbers
    green, blue = others or (red, red)
    return red, green, blue


def kind_of(request: Request) -> str:
    """The kind of job that a request is for.

    Raises:
        ValueError: No analysis has such requests.
    """
    for kind in kinds():
        if type(request) is _shape_of(kind):
            return kind
    raise ValueError(f"no analysis has a {type(request).__name__}; each declares a class of its own as its request")


def queue_of(kind: str) -> str:
    """The queue that jobs of a kind wait in; somebody waits for what analyses are asked for."""
    return _KINDS[kind][1] if kind in _KINDS else INTERACTIVE


def steps_of(request: Request) -> list[Step]:
    """The units that a job begins with; a study's plan adds the others."""
    kind = kind_of(request)
    if not isinstance(request, AnalysisRequest):
        return [Step(0, 0, _FIRST[kind])]
    images, analysis = len(request.images), registry.on_request()[kind]
    each = analysis.unit_images if "image" in analysis.cut else images
    several = [
        Step(0, number, f"images {start} to {min(start + each, images) - 1}", min(each, images - start))
        for number, start in enumerate(range(0, images, each))
    ]
    return several if len(several) == 1 else [*several, Step(1, 0, JOIN)]


def to_json(request: Request) -> dict[str, Any]:
    """A request in plain JSON; equal requests give equal JSON."""
    plain: dict[str, Any] = TypeAdapter(type(request)).dump_python(request, mode="json")
    return json.loads(json.dumps(plain, sort_keys=True))  # type: ignore[no-any-return]


def from_json(kind: str, plain: object) -> Request:
    """A request from what `to_json` gave, or from what someone sent instead.

    Raises:
        ValueError: It is no request of that kind; the message says which field is wrong.
    """
    if kind not in kinds():
        raise ValueError(f"{kind!r} is no kind of job; there are {', '.join(kinds())}")
    try:
        request: Request = TypeAdapter(_shape_of(kind)).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where} of a {kind} job: {said}") from None
    return request


def _shape_of(kind: str) -> Any:
    return _KINDS[kind][0] if kind in _KINDS else registry.on_request()[kind].request


def key_of(request: Request) -> str:
    """SHA-256 (hex) by which two requests are known to be the same."""
    text = json.dumps([kind_of(request), to_json(request)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
