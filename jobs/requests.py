"""What can be asked for? The jobs and their parameters, as both sides of the queue know them. No torch, no Dash."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from analyses.vocabulary import MODES
from jobs.work import Step

# The two queues, each with its own processes: what a person waits for does not wait behind studies.
INTERACTIVE, BULK = "interactive", "bulk"
QUEUES = (INTERACTIVE, BULK)

# The unit of a pruning that comes after its images.
SUM_UP = "sum up"
# Images of one unit of a pruning, so few that a click waits a second or two for it; and the most of one request.
PRUNE_IMAGES = 4
MOST_PRUNE_IMAGES = 5_000
MOST_PRUNE_HEADS = 4096


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
class PruneRequest:
    """Parts of some heads switched off, on some images of a study.

    Attributes:
        study: Name of a published study.
        content: Content hash of its manifest: another content is another question.
        images: Ids of images, in the study's order.
        heads: As (layer, head), sorted; all are switched off at once.
        regions: Sets of regions, each 0 to 15 as a sum of the bits of vocabulary.REGIONS; each is a variant of its own.
    """

    study: str
    content: str
    images: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    regions: tuple[int, ...] = MODES

    @property
    def title(self) -> str:
        """What people call the job."""
        layer, head = self.heads[0]
        heads = f"L{layer}·H{head}" if len(self.heads) == 1 else f"{len(self.heads)} heads"
        images = self.images[0] if len(self.images) == 1 else f"{len(self.images):,} images"
        return f"{heads} of {self.study} on {images}"


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


Request = StudyRequest | PriceRequest | PruneRequest | UploadRequest | ImageRequest

# Kind of a job: its request, its queue, and whether what it found once answers the same request for good.
_KINDS: dict[str, tuple[type[Any], str, bool]] = {
    "study": (StudyRequest, BULK, False),
    "price": (PriceRequest, INTERACTIVE, False),
    "prune": (PruneRequest, INTERACTIVE, True),
    "upload": (UploadRequest, BULK, False),
    "image": (ImageRequest, INTERACTIVE, False),
}
KINDS = tuple(_KINDS)
# The unit that a job begins with, of kinds that begin with one.
_FIRST = {"study": "plan", "price": "price", "upload": "unpack", "image": "picture"}


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
    """The kind of job that a request is for."""
    return next(kind for kind, (shape, _, _) in _KINDS.items() if isinstance(request, shape))


def queue_of(kind: str) -> str:
    """The queue that jobs of a kind wait in."""
    return _KINDS[kind][1]


def is_answered_once(kind: str) -> bool:
    """Whether a result answers every later request that is the same."""
    return _KINDS[kind][2]


def steps_of(request: Request) -> list[Step]:
    """The units that a job begins with; a study's plan adds the others."""
    if not isinstance(request, PruneRequest):
        return [Step(0, 0, _FIRST[kind_of(request)])]
    starts = range(0, len(request.images), PRUNE_IMAGES)
    several = [
        Step(0, number, f"images {start} to {min(start + PRUNE_IMAGES, len(request.images)) - 1}",
             min(PRUNE_IMAGES, len(request.images) - start))
        for number, start in enumerate(starts)
    ]  # fmt: skip
    return several if len(several) == 1 else [*several, Step(1, 0, SUM_UP)]


def to_json(request: Request) -> dict[str, Any]:
    """A request in plain JSON; equal requests give equal JSON."""
    plain: dict[str, Any] = TypeAdapter(type(request)).dump_python(request, mode="json")
    return json.loads(json.dumps(plain, sort_keys=True))  # type: ignore[no-any-return]


def from_json(kind: str, plain: object) -> Request:
    """A request from what `to_json` gave, or from what someone sent instead.

    Raises:
        ValueError: It is no request of that kind; the message says which field is wrong.
    """
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is no kind of job; there are {', '.join(KINDS)}")
    try:
        request: Request = TypeAdapter(_KINDS[kind][0]).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise ValueError(f"{where} of a {kind} job: {first['msg']}") from None
    return checked(request)


def checked(request: Request) -> Request:
    """The request, in the one form that equal requests have.

    Raises:
        ValueError: A pruning asks for nothing, or for too much; the message says what would be right.
    """
    if not isinstance(request, PruneRequest):
        return request
    images, heads = tuple(dict.fromkeys(request.images)), tuple(sorted(set(request.heads)))
    regions = tuple(dict.fromkeys(request.regions))
    for what, given, most in (
        ("images", images, MOST_PRUNE_IMAGES),
        ("heads", heads, MOST_PRUNE_HEADS),
        ("sets of regions", regions, 16),
    ):
        if not 1 <= len(given) <= most:
            raise ValueError(f"a pruning has {len(given):,} {what}; give 1 to {most:,}")
    if not all(0 <= wanted <= 15 for wanted in regions):
        raise ValueError(f"regions {regions} are not of 0 to 15, sums of 1, 2, 4 and 8")
    return replace(request, images=images, heads=heads, regions=regions)


def key_of(request: Request) -> str:
    """SHA-256 (hex) by which two requests are known to be the same."""
    text = json.dumps([kind_of(request), to_json(request)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
