"""Who may write this study? The one process with its lock, which the system frees when that process dies."""

import fcntl
import os
from pathlib import Path

from store import files
from store.errors import StudyBusyError
from store.paths import lock_path


class StudyLock:
    """An exclusive flock on <study>/lock, with the holder's process id as its text."""

    def __init__(self, study: Path) -> None:
        """Take the lock, making the study's folder where there is none.

        Raises:
            StudyBusyError: Another writer holds it.
            DiskFullError: There is no room for so much as that.
        """
        self.study = study
        with files.told_when_full(study, lambda: 4096):
            self._handle: int | None = _locked(study)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others write. Harmless twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _locked(study: Path) -> int:
    path = lock_path(study)
    while True:
        files.make_folder(study)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the study was removed just now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise StudyBusyError(
                f"study {study.name} is being written by process {holder}; wait for it, or stop that process"
            ) from None
        if _is_at(handle, path):
            return handle
        os.close(handle)  # the study was removed between open and flock


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
