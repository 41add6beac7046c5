"""What can be asked for? The jobs and their parameters, as both sides of the queue know them. No torch, no Dash."""

import re
from dataclasses import dataclass
from pathlib import Path

# What a study can do without, by the name that --skip takes.
SKIPPABLE = ("patterns",)


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
        classes: File with the model's class names, where timm does not know them.
        label_map: CSV of label,class, where the labels are not the model's names.
        no_labels: The folders are not labels, or not of the model's classes.
        per_class: Only the first so many images of each class.
        attention: "auto" stores the matrices up to the limit of the settings; "stored" and "rebuilt" decide.
        device: "auto", "cpu" or "cuda".
        seed: Of layouts, of the autoencoder, and of random weights.
        masks: A folder with a mask of the object for each image, or for some.
        skip: Of SKIPPABLE: left out for now; the same request without it adds what is missing.
    """

    model: str
    images: Path
    name: str | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    image_size: tuple[int, int] | None = None
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
