"""How do machines without a common disk have the same studies? They push what is published to a bucket, and pull it."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeVar

from store import failpoints, files, paths, pictures
from store.bucket import MANIFEST, Bucket, BucketConflictError, BucketError
from store.errors import DamagedError, DiskFullError, StoreError, StudyBusyError, StudyNotFoundError
from store.lock import StudyLock
from store.manifest import Manifest, strays
from store.objects import fault
from store.study import delete, open_published

AT_ONCE = 8  # objects
LOOK_SECONDS = 60.0  # between two looks for what is new
REFUSED_SECONDS = 3600.0  # until a study that was refused is tried again, if it is still the same
_STAGING = ".pull"  # below the folder of studies: placing is one rename

Progress = Callable[[int, int], None]
Check = Callable[[], None]
T = TypeVar("T")

_log = logging.getLogger(__name__)


def push(bucket: Bucket, folder: Path, progress: Progress, check: Check) -> bool:
    """Put the published study in `folder` into the bucket: its objects, and its manifest last.

    Args:
        progress: Called with the bytes that are there and the bytes of all.
        check: Called between objects; it may raise, to stop: what is there stays, and the next push goes on.
    Returns:
        Whether it was not there before.
    Raises:
        StudyNotFoundError, NewerSchemaError, DamagedError: As Manifest.load; the last also of objects.
        BucketConflictError: The bucket has another study of that name.
        BucketError: The bucket cannot be used.
        StoreError: The study is private, or was renamed.
    """
    name = folder.name
    manifest = Manifest.load(folder)
    text = paths.manifest_path(folder).read_bytes()
    if pictures.is_name(name) or pictures.is_name(manifest.study):
        raise StoreError(f"study {name} is private, and stays here; push the study that it came from")
    if manifest.study != name or Manifest.parse(text, paths.manifest_path(folder)).content != manifest.content:
        raise StoreError(f"study {name} was published as {manifest.study}; call its folder so, and push that")
    there = bucket.manifest(name)
    if there is not None and there != text:
        raise bucket.conflict(name, text, there)
    found = bucket.sizes(name, manifest)
    missing = [key for key, (size, _) in manifest.objects.items() if found.get(key) != size]
    total = manifest.size
    done = total - sum(manifest.objects[key][0] for key in missing)
    progress(done, total)

    def put(key: str) -> str:
        bucket.put(name, manifest, key, folder / manifest.attempt / key)
        return key

    for key in _at_once(put, missing, check):
        done += manifest.objects[key][0]
        progress(done, total)
        failpoints.hit("after-object-push")
    if there is None:
        failpoints.hit("before-commit")
        bucket.commit(name, text)
    return there is None


def pull(bucket: Bucket, studies: Path, name: str, progress: Progress, check: Check) -> bool:
    """Have the study `name` of the bucket in the folder `studies`, as it was published there; or nothing of it.

    Args:
        progress, check: As in `push`.
    Returns:
        Whether it was not there before.
    Raises:
        StudyNameError: It cannot be the name of a study.
        StudyNotFoundError: The bucket has no such study.
        DamagedError: The manifest or an object is not as it was published, or names what must not be.
        NewerSchemaError: A newer Headscope wrote it.
        StudyBusyError: Another process pulls or computes it.
        BucketConflictError: Another study of that name is here.
        DiskFullError: There is no room.
        BucketError: The bucket cannot be used.
    """
    folder = paths.study_path(studies, name)
    if pictures.is_name(name):
        raise StudyNotFoundError(f"{name} would be a private study, which no bucket has")
    text = bucket.manifest(name)
    if text is None:
        raise StudyNotFoundError(f"{bucket.url} has no study {name}; `headscope pull` alone fetches all that it has")
    manifest = _checked(bucket, name, text)
    staging = studies / _STAGING / name
    if _is_here(bucket, folder, text):
        return False
    lock = StudyLock(staging)  # it moves with the folder, and is the study's own then
    try:
        if _is_here(bucket, folder, text):  # by who had the lock just now
            shutil.rmtree(staging)
            return False
        _fill(bucket, name, manifest, staging, progress, check)
        files.put_now(paths.manifest_path(staging), text)
        try:
            opened = open_published(staging)
            if not (opened.sizes and opened.attrs["model"]["name"]):
                raise ValueError("it has no arrays, or no model")
        except Exception as error:  # a stranger wrote it: whatever it makes Zarr raise, it is no study
            raise DamagedError(
                f"study {name} of {bucket.url} is as its manifest says, but does not open ({type(error).__name__}); "
                "remove it there, and push it from where it was computed",
                [manifest.attempt],
            ) from error
        failpoints.hit("before-place")
        _place(staging, folder)
    finally:
        lock.release()
    return True


def new(bucket: Bucket, studies: Path) -> dict[str, str]:
    """The bucket's studies of which there is no folder here, each with what changes when its manifest does."""
    return {name: mark for name, mark in bucket.studies().items() if not _is_taken(studies / name)}


class Follower:
    """Has here what is in a bucket. A study that is not as it should be is left for an hour, or until it changes."""

    def __init__(self, bucket: Bucket, studies: Path) -> None:
        self._bucket, self._studies = bucket, studies
        self._refused: dict[str, tuple[str, float]] = {}  # by name: its mark, and when it is tried again
        self._said = ""

    def look(self) -> list[str]:
        """Pull what is new; the names of what was. What goes wrong is logged."""
        bucket, studies, pulled = self._bucket, self._studies, []
        try:
            found = new(bucket, studies)
            _remove_remains(studies, found)
            for name, mark in found.items():
                refused, until = self._refused.get(name, ("", 0.0))
                if refused == mark and time.monotonic() < until:
                    continue
                try:
                    if pull(bucket, studies, name, lambda done, of: None, lambda: None):
                        pulled.append(name)
                        _log.info("study %s was pulled from %s", name, bucket.url)
                except StudyBusyError:
                    continue  # another process of this machine is at it
                except BucketError:
                    raise
                except (StoreError, OSError) as error:
                    self._refused[name] = mark, time.monotonic() + REFUSED_SECONDS
                    _log.warning("study %s of %s is not pulled: %s", name, bucket.url, error)
            self._said = ""
        except BucketError as error:
            if str(error) != self._said:
                _log.warning("%s; trying again every %.0f s", error, LOOK_SECONDS)
            self._said = str(error)
        return pulled

    def keep_looking(self) -> NoReturn:
        """Look again and again, for a thread of its own."""
        while True:
            try:
                self.look()
            except Exception:  # noqa: BLE001  the disk is away for now; this thread must outlive that
                _log.exception("nothing is pulled from %s; trying again", self._bucket.url)
            time.sleep(LOOK_SECONDS)


def _checked(bucket: Bucket, name: str, text: bytes) -> Manifest:
    """The manifest that the bucket has of study `name`, if nothing in it leads out of that study's folder."""
    at = bucket.address(name + MANIFEST)
    try:
        manifest = Manifest.parse(text, Path(name) / "MANIFEST.json")
    except DamagedError as error:
        raise DamagedError(f"{at} is no manifest of a study: {error}", error.objects) from error
    if manifest.study != name:
        raise DamagedError(
            f"{at} is the manifest of another study, {ascii(manifest.study)[:90]}; remove it there", [at]
        )
    parents = {parent.as_posix() for key in manifest.objects for parent in PurePosixPath(key).parents}
    for key, (size, _) in manifest.objects.items():
        plain = PurePosixPath(key).as_posix() == key and key not in parents and key.isascii() and key.isprintable()
        if not plain or size < 0 or len(key) > 200 or key.endswith(files.PARTIAL):
            raise DamagedError(f"{at} names an object that cannot be: {ascii(key)[:90]}; remove it there", [at])
    return manifest


def _is_taken(folder: Path) -> bool:
    """Whether there is anything under that name but the lock that a discarded attempt leaves."""
    if not folder.is_dir() or folder.is_symlink():
        return folder.exists() or folder.is_symlink()
    return any(path != paths.lock_path(folder) for path in folder.iterdir())


def _is_here(bucket: Bucket, folder: Path, text: bytes) -> bool:
    """Whether the study with the manifest `text` is the one in `folder`; an error if another one is."""
    if not _is_taken(folder):
        return False
    try:
        here = paths.manifest_path(folder).read_bytes()
    except OSError:
        raise StudyBusyError(
            f"study {folder.name} was begun here and is not published; wait for it, or remove it with "
            f"`headscope rm {folder.name}` and pull again"
        ) from None
    if here != text:
        raise BucketConflictError(
            f"study {folder.name} here is another one than that of {bucket.url}, and neither ever changes; remove this "
            f"one with `headscope rm {folder.name}` to pull the other"
        )
    return True


def _fill(bucket: Bucket, name: str, manifest: Manifest, staging: Path, progress: Progress, check: Check) -> None:
    """Have every object of the manifest in the staging folder, and nothing else."""
    root = staging / manifest.attempt
    files.make_folder(root)
    for key in strays(staging, [f"{manifest.attempt}/{key}" for key in manifest.objects]):
        if staging / key != paths.lock_path(staging):
            (staging / key).unlink()
    missing, done, total = [], 0, manifest.size
    for key, expected in manifest.objects.items():  # of an earlier pull
        check()
        if fault(root / key, expected) is None:
            done += expected[0]
        else:
            missing.append(key)
    progress(done, total)
    needed = total - done
    if needed > (free := shutil.disk_usage(staging).free):
        raise DiskFullError(f"study {name} needs {needed / 1e6:,.0f} MB and {staging} has {free / 1e6:,.0f} MB free")

    def fetch(key: str) -> str:
        bucket.fetch(name, manifest, key, root / key)
        return key

    with files.told_when_full(staging, lambda: needed):
        for key in _at_once(fetch, missing, check):
            done += manifest.objects[key][0]
            progress(done, total)
            failpoints.hit("after-object-pull")
        for path in {(root / key).parent for key in manifest.objects} | {root, staging}:
            files.sync_folder(path)


def _place(staging: Path, folder: Path) -> None:
    if not _is_taken(folder) and paths.lock_path(folder).exists():
        delete(folder)  # what a discarded attempt left
    try:
        staging.rename(folder)
    except OSError:
        if not _is_taken(folder):
            raise
        raise StudyBusyError(f"study {folder.name} came to be here meanwhile; look at it, and pull again") from None
    files.sync_folder(folder.parent)


def _remove_remains(studies: Path, wanted: Iterable[str]) -> None:
    """Remove what interrupted pulls left of studies that are not to be pulled any more."""
    for staging in (studies / _STAGING).glob("*"):
        if staging.name not in wanted:
            try:
                lock = StudyLock(staging)
            except StudyBusyError:
                continue
            shutil.rmtree(staging, ignore_errors=True)
            lock.release()


def _at_once(do: Callable[[str], T], keys: Iterable[str], check: Check) -> Iterator[T]:
    """What `do` returns for each key, several at a time, in any order. An error of one ends all."""
    left, pending = iter(keys), set[Future[T]]()
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bucket")
    try:
        while True:
            pending |= {pool.submit(do, key) for key in islice(left, 2 * AT_ONCE - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
            check()
    finally:
        pool.shutdown(cancel_futures=True)
