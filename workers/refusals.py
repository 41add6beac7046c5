"""Which field of a request has to be changed, when a study is refused? One table, for the queue and for prices."""

import re

from jobs.requests import StudyRequest
from precompute.errors import ModelError
from store.paths import StudyNameError
from workers.images import ImageSourceError
from workers.labels import LabelError
from workers.masks import MaskError
from workers.prepare import DeviceError
from workers.study import StudyExistsError

# An error that begins with an option speaks of the field of that name.
_OPTION = re.compile(r"--(image-size|pool|outputs|classes|weights|mean|std|crop-pct|interpolation)\b")
# Labels that fit no class, where the classes have no names yet.
_UNNAMED = re.compile(r"^--classes \S+ names them", re.MULTILINE)

_FIELDS: dict[type[ValueError], str] = {
    StudyNameError: "name",
    StudyExistsError: "name",
    DeviceError: "device",
    MaskError: "masks",
    LabelError: "label_map",
    ImageSourceError: "images",
    ModelError: "model",
}


def field_of(error: Exception, request: StudyRequest) -> str | None:
    """The field of `request` that `error` speaks of; None if it is no mistake of a person."""
    said = str(error)
    field = next((field for kind, field in _FIELDS.items() if isinstance(error, kind)), None)
    option = _OPTION.match(said)
    if field == "model" and option is not None:
        return option[1].replace("-", "_")
    if field == "model" and request.checkpoint is not None and request.checkpoint.name in said:
        return "checkpoint"
    if field == "label_map" and request.label_map is None and (request.classes or _UNNAMED.search(said)):
        return "classes"
    if field == "images" and said.startswith("per_class"):
        return "per_class"
    return field
