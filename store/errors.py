"""What can go wrong with a study? One class an answer, each also the built-in error that a caller expects."""

import errno
from collections.abc import Iterable


class StoreError(Exception):
    """Base of every error of the store; its text is one sentence with the next step."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would put quotes around it


class StudyNotFoundError(StoreError, FileNotFoundError):
    """There is no published study at that path."""


class DerivedNotFoundError(StoreError, FileNotFoundError):
    """There is no such result beside the study: nobody asked for it yet, or it was removed."""


class DamagedError(StoreError, OSError):
    """What is on disk is not what was published.

    Attributes:
        objects: Names of the damaged objects, relative to the study's folder or to its attempt's.
    """

    def __init__(self, message: str, objects: Iterable[str]) -> None:
        super().__init__(message)
        self.objects = list(objects)

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[str, list[str]]]:
        return type(self), (str(self), self.objects)


class NewerSchemaError(StoreError, RuntimeError):
    """The study was written by a newer Headscope, in a layout that this one does not know."""


class LeftOutError(StoreError, KeyError):
    """The array or metric was left out of this study, for a reason that the study states."""


class StudyBusyError(StoreError, RuntimeError):
    """Another process is writing this study."""


class DiskFullError(StoreError, OSError):
    """There is no room left; what was finished before is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


class LostLeaseError(RuntimeError):
    """What was to be written is another process's now; what this one made of it must not be written."""
