"""Who may write this study? One process alone, or the workers of the queue: whoever has its lock.

The system frees the lock when a process dies. A stopped one keeps it, so that nobody removes what it may go on with.
"""

import fcntl
import os
from pathlib import Path

from store import files
from store.errors import StudyBusyError
from store.paths import lock_path


class StudyLock:
    """A flock on <study>/lock: exclusive, with the holder's process id as its text, or shared, without."""

    def __init__(self, study: Path, *, shared: bool = False) -> None:
        """Take the lock, making the study's folder where there is none.

        Args:
            shared: With any number of others that share it. Such a process writes under a lease only.
        Raises:
            StudyBusyError: Another writer holds it.
            DiskFullError: There is no room for so much as that.
        """
        self.study = study
        with files.told_when_full(study, lambda: 4096):
            self._handle: int | None = _locked(study, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            os.ftruncate(self._handle, 0)
            if not shared:
                os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others write. Harmless twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _locked(study: Path, kind: int) -> int:
    path = lock_path(study)
    while True:
        files.make_folder(study)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the study was removed just now
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            told = (
                f"process {holder}; wait for it, or stop that process"
                if holder
                else "workers of the queue; wait for them, or cancel its job"
            )
            raise StudyBusyError(f"study {study.name} is being written by {told}") from None
        if _is_at(handle, path):
            return handle
        os.close(handle)  # the study was removed between open and flock


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
