"""Which field of a request has to be changed, when a study is refused? One table, for the queue and for prices."""

from precompute.errors import ModelError
from store.paths import StudyNameError
from workers.images import ImageSourceError
from workers.jobs import StudyRequest
from workers.labels import LabelError
from workers.masks import MaskError
from workers.prepare import DeviceError
from workers.study import StudyExistsError

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
    if field == "model" and said.startswith("--image-size"):
        return "image_size"
    if field == "model" and request.checkpoint is not None and request.checkpoint.name in said:
        return "checkpoint"
    if field == "label_map" and request.label_map is None and request.classes is not None:
        return "classes"
    if field == "images" and said.startswith("per_class"):
        return "per_class"
    return field
