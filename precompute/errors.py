"""What a person can do about a model or a computation that is refused."""


class ModelError(ValueError):
    """The model or its weights cannot be used; the message says why and what can."""


class UnsupportedModelError(ModelError):
    """The architecture is not one whose heads can be taken apart exactly."""


class CertificateError(ModelError):
    """The opened model does not reproduce the model itself, so none of its numbers would be right."""


class RequestError(ValueError):
    """What was asked for does not fit the study. The text is for the person who asked.

    Attributes:
        field: Of the request, that has to be changed.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field
