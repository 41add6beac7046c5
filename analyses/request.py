"""What does a person ask for, of a published study? A request: which study, what it reads of it, and which images.

Equal questions are equal requests with equal JSON: validation brings them to one form.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

MOST_IMAGES = 5_000


class AnalysisRequest(BaseModel):
    """What is common to all requests; an analysis adds its own fields, their bounds, and their one form.

    Attributes:
        study: Name of a published study.
        content: Hash of what the analysis reads of it (`store.study.Study.content_of`): another is another question.
        images: Ids of images, 1 to MOST_IMAGES, in the study's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    content: str
    images: tuple[str, ...]

    @field_validator("images")
    @classmethod
    def _some_images(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        return some("images", tuple(dict.fromkeys(images)), MOST_IMAGES)

    @property
    def title(self) -> str:
        """What people call the job."""
        return f"{self.study} on {self.images_in_words}"

    @property
    def images_in_words(self) -> str:
        """The image, or how many."""
        return self.images[0] if len(self.images) == 1 else f"{len(self.images):,} images"

    def in_words(self) -> list[tuple[str, str]]:
        """The request for people, as rows of a term and what is said of it."""
        return [("Study", self.study), ("Images", f"{len(self.images):,}")]

    def question(self) -> dict[str, Any]:
        """The request in plain JSON, without the study's name: a copy of a study answers it too."""
        return self.model_dump(mode="json", exclude={"study"})


def some(what: str, given: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """`given`, if there are 1 to `most`.

    Raises:
        ValueError: There are none, or too many.
    """
    if not 1 <= len(given) <= most:
        raise ValueError(f"{len(given):,} {what}; give 1 to {most:,}")
    return given


def result_key(analysis: str, request: AnalysisRequest) -> str:
    """SHA-256 (hex) under which what was computed for a request is kept, beside the study."""
    return hashlib.sha256(json.dumps([analysis, request.question()], sort_keys=True).encode()).hexdigest()
