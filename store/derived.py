"""What was computed of a published study when somebody asked for it? Results beside the study, each published once.

<study>/derived/<analysis>/<key>/ is the Zarr group of one result, with its MANIFEST.json. It is written whole, in
<key>.<job>.work/ beside it, and published by one rename; who comes second finds it there. A result that is cut into
units has its parts in the same .work folder until the last unit joins them. The key is of the request and of what the
analysis reads of the study, so it stays when the study is published again with more arrays.

The rename comes before the flush to the disk, as somebody waits for it: after a power failure in between, the
manifest's sizes and hashes tell that the result is damaged, and the job, which has not ended, computes it again.
"""

import errno
import io
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from analyses import registry
from analyses.analysis import Analysis
from analyses.arrays import ArraySpec
from analyses.request import AnalysisRequest, result_key
from store import failpoints, files, paths, schema
from store.checks import has_type
from store.errors import DerivedNotFoundError, LostLeaseError, StoreError, StudyNotFoundError
from store.group import Group
from store.manifest import Damage, Manifest, differences
from store.objects import METADATA, digest, root_metadata

if TYPE_CHECKING:
    from store.study import Study

Arrays = Mapping[str, npt.NDArray[Any]]

# A result that was used or published within so many seconds is not dropped: somebody waits for it, or reads it.
SPARED_SECONDS = 120.0
# A use is noted once in so many seconds.
NOTED_SECONDS = 600.0
_ATTRIBUTES = "attributes.json"  # of a part, beside its arrays
_DROPPED = ".dropped"


class DerivedManifest(Manifest):
    """What was published of one result; its group is the folder of the manifest itself."""

    @staticmethod
    def is_group(name: str) -> bool:
        return name == "."

    @staticmethod
    def called(folder: Path) -> str:
        return f"result {folder.name[:12]} of {folder.parent.name} of study {folder.parents[2].name}"


class Derived(Group):
    """One result, read-only, as `Study.derived` gives it; `xarray.open_zarr` takes it.

    Attributes:
        study: Name of the study.
        analysis: Name of the analysis.
        key: Of the result.
    """

    def __init__(self, folder: Path) -> None:
        """The result in `folder`.

        Raises:
            DerivedNotFoundError: There is none.
            DamagedError: It is not what was published.
        """
        self.study, self.analysis, self.key = folder.parents[2].name, folder.parent.name, folder.name
        self.called = DerivedManifest.called(folder)
        try:
            manifest = DerivedManifest.load(folder)
        except StudyNotFoundError:
            raise DerivedNotFoundError(
                f"study {self.study} has no result {self.key[:12]} of {self.analysis} yet; ask for it on the page, or "
                f"see `headscope derived {self.study}` for those that there are"
            ) from None
        super().__init__(folder, manifest, _declared(self.analysis).arrays)

    def __repr__(self) -> str:
        return f"Derived({self.study!r}, {self.analysis!r}, {self.key[:12]!r})"

    @cached_property
    def request(self) -> AnalysisRequest:
        """What was asked for."""
        found: AnalysisRequest = _request_type(_declared(self.analysis)).model_validate(self.attrs["request"])
        return found

    def _next_step(self) -> str:
        return "ask for it on the page again, which computes it anew"


def request_of(study: "Study", analysis: str, wanted: AnalysisRequest | Mapping[str, Any]) -> AnalysisRequest:
    """A request to an analysis, of this study as it is.

    Args:
        wanted: The request, or its fields but for study and content.
    Raises:
        ValueError: There is no such analysis, or the request is none of its.
    """
    declared = _declared(analysis)
    shape = _request_type(declared)
    if isinstance(wanted, shape):
        return wanted
    if isinstance(wanted, AnalysisRequest):
        raise ValueError(f"{type(wanted).__name__} is no request to {analysis}; give a {shape.__name__}")  # noqa: TRY004
    return shape.model_validate({"study": study.name, "content": study.content_of(declared.reads), **wanted})


def open_result(study: "Study", analysis: str, wanted: str | AnalysisRequest | Mapping[str, Any]) -> Derived:
    """As `Study.derived`."""
    _declared(analysis)
    key = wanted if isinstance(wanted, str) else result_key(analysis, request_of(study, analysis, wanted))
    return Derived(paths.result_path(study.folder, analysis, key))


def path_of(studies: Path, analysis: str, request: AnalysisRequest) -> Path:
    """The folder of a result, whether it is there or not."""
    return paths.result_path(paths.study_path(studies, request.study), analysis, result_key(analysis, request))


def is_published(folder: Path) -> bool:
    """Whether there is a result in `folder`; what is asked again and again while somebody waits for it."""
    return paths.manifest_path(folder).exists()


def is_whole(folder: Path) -> bool:
    """Whether the result in `folder` is there, every byte as it was published."""
    try:
        return not verify(folder)
    except StoreError:
        return False


def verify(folder: Path) -> list[Damage]:
    """Compare every object of a result with its manifest, and list what differs, by name.

    Raises:
        StudyNotFoundError, NewerSchemaError, DamagedError: As Manifest.load.
    """
    return differences(folder, DerivedManifest.load(folder))


def keys(study: Path, analysis: str) -> list[str]:
    """Keys of the results of an analysis, sorted."""
    try:
        names = [path.name for path in paths.results_path(study, analysis).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if paths.RESULT_KEY.fullmatch(name))


def every(study: Path) -> Iterator[Path]:
    """The folders of all results of a study, by analysis and key."""
    root = paths.derived_path(study)
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if paths.ANALYSIS_NAME.fullmatch(folder.name):
            for key in keys(study, folder.name):
                yield folder / key


def size_of(folder: Path) -> int:
    """Bytes that a result takes on the disk: of many small files these are more than the files have."""
    return _size_of(folder, _modified(paths.manifest_path(folder)))


@lru_cache(maxsize=1_000_000)
def _size_of(folder: Path, stamp: float) -> int:
    every_file = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(512 * file.stat().st_blocks for file in every_file)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


# --- writing ---


class Writer:
    """Writes the result of one request for one job, as often as it takes.

    Attributes:
        folder: Where the result is published.
    """

    def __init__(self, study: "Study", analysis: Analysis, request: AnalysisRequest, job: str, fence: int = 0) -> None:
        """Nothing is written yet.

        Args:
            study: Published, as the request names it.
            job: Id of the job: parts of another are not taken.
            fence: Fencing number of the lease on what is to be written.
        """
        self._study, self._analysis, self._request, self._fence = study, analysis, request, fence
        key = result_key(analysis.name, request)
        self.folder = paths.result_path(study.folder, analysis.name, key)
        self._work = paths.result_work_path(study.folder, analysis.name, key, job)

    def is_done(self) -> bool:
        """Whether the result is there and whole, on the disk. One that is damaged is removed.

        One that was published, and not flushed as its writer died, is flushed.
        """
        if not is_published(self.folder):
            return False
        if is_whole(self.folder):
            self._flush()
            return True
        remove(self.folder)
        return False

    def write_part(self, part: str, arrays: Arrays, attrs: Mapping[str, Any], hold: Callable[[], None]) -> None:
        """Keep what one unit computed, under the unit's name, for `parts`.

        Args:
            hold: Called before it is kept; it raises if the unit is another process's now.
        Raises:
            StudyNotFoundError: The study was removed.
            DiskFullError: There is no room.
        """
        failpoints.hit("before-result-part")
        texts = [name for name, array in arrays.items() if array.dtype.kind in "TO"]
        plain = {**arrays, **{name: np.array(arrays[name].tolist()) for name in texts}}
        told = np.frombuffer(files.json_bytes(dict(attrs)), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **plain, **{_ATTRIBUTES: told})  # type: ignore[arg-type]
        with files.told_when_full(self._study.folder, lambda: buffer.getbuffer().nbytes):
            self._make_folder(self._work)
            hold()
            with self._still_there():
                files.put_now(self._part_path(part), buffer.getvalue())
        failpoints.hit("after-result-part")

    def has_part(self, part: str) -> bool:
        """Whether a unit's part is kept."""
        return self._part_path(part).is_file()

    def parts(self, names: Sequence[str]) -> list[tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]]:
        """What the units of these names kept: arrays and attributes.

        Raises:
            StoreError: A part is gone or damaged.
        """
        failpoints.hit("before-result-join")
        found = []
        for name in names:
            try:
                with np.load(self._part_path(name), allow_pickle=False) as part:
                    arrays = {each: part[each] for each in part.files}
                found.append((arrays, json.loads(arrays.pop(_ATTRIBUTES).tobytes())))
            except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
                raise StoreError(f"the part {name!r} of this result is gone or damaged; ask for it again") from error
        return found

    def publish(
        self, arrays: Arrays, attrs: Mapping[str, Any], run: Mapping[str, Any], hold: Callable[[], None]
    ) -> None:
        """Make these arrays the result, in one step and once; what was kept for that is removed.

        Args:
            attrs: Root attributes beside those of every result.
            run: "headscope": the version; "packages": versions by name; and facts of this run, as "seconds".
            hold: Called right before; it raises if the unit is another process's now.
        Raises:
            ValueError: The arrays are not as the analysis declares them.
            StudyNotFoundError: The study was removed meanwhile, and the result with it.
            DiskFullError: There is no room.
        """
        facts = dict(run)
        version, packages = facts.pop("headscope", ""), facts.pop("packages", {})
        reads = [name for name in self._analysis.reads if name in self._study]
        told = {
            "headscope": {"schema": schema.VERSION, "version": version},
            "packages": packages,
            "analysis": self._analysis.name,
            "request": self._request.model_dump(mode="json"),
            "reads": {"content": self._request.content, "arrays": reads},
        }
        objects = encoded(self._analysis.arrays, arrays, {**attrs, **told})
        manifest = DerivedManifest(
            self._study.name, ".", {key: digest(data) for key, data in objects.items()}, version, packages, facts
        )
        with files.told_when_full(self._study.folder, lambda: manifest.size + 4096 * len(objects)):
            self._make_folder(self._work)
            staging = self._work / f"result.{self._fence}"
            with self._still_there():
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
                for folder in {key.partition("/")[0] for key in objects if "/" in key}:
                    (staging / folder).mkdir()
                for key, data in objects.items():
                    (staging / key).write_bytes(data)
                paths.manifest_path(staging).write_bytes(manifest.to_bytes())
                failpoints.hit("before-result-publish")
                hold()
                _place(staging, self.folder)
            failpoints.hit("after-result-publish")
            self._flush()
        failpoints.hit("after-result-flush")
        self.clean()
        if not paths.manifest_path(self._study.folder).exists():
            remove_all(self._study.folder)
            raise self._gone()

    def clean(self) -> None:
        """Remove what is kept of the result until it is published. Harmless twice."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _part_path(self, part: str) -> Path:
        return self._work / f"{part.replace(' ', '-')}.npz"

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, but never the study's own, which may be removed by now."""
        with self._still_there():
            missing = [each for each in (folder, *folder.parents[:3]) if not each.exists()]
            for each in reversed(missing):
                if each == self._study.folder:
                    raise self._gone()
                each.mkdir(exist_ok=True)

    def _flush(self) -> None:
        """Have all of the published result on the disk."""
        for parent, _, names in os.walk(self.folder):
            for name in names:
                handle = os.open(Path(parent, name), os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            files.sync_folder(Path(parent))
        for folder in (self.folder.parent, self.folder.parents[1], self._study.folder):
            if folder.is_dir():
                files.sync_folder(folder)

    def _still_there(self) -> "_StillThere":
        return _StillThere(self)

    def _gone(self) -> StudyNotFoundError:
        return StudyNotFoundError(f"study {self._study.name} is gone; open one that is there")


class _StillThere:
    """Turns files that are gone in the middle of writing into why: the study was removed, or the job cleaned away."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError) and not isinstance(error, StoreError):
            if not paths.manifest_path(self._writer._study.folder).exists():
                raise self._writer._gone() from error
            raise LostLeaseError("what was kept of this result was removed meanwhile: its job has ended") from error


def _place(staging: Path, folder: Path) -> None:
    """Publish what is in `staging`; a result that is there and whole stays, and is the same."""
    for _ in range(10):
        try:
            staging.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if is_whole(folder):
                return
            remove(folder)
        else:
            return
    raise StoreError(f"{folder} is damaged, and comes again when it is removed; remove it by hand")


def joined(specs: Mapping[str, ArraySpec], parts: Sequence[Arrays]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of all images from those of the units, in order; one without images is that of the first unit."""
    whole = {}
    for name, first in parts[0].items():
        axis = specs[name].image_axis
        whole[name] = first if axis is None else np.concatenate([part[name] for part in parts], axis)
    return whole


# --- as Zarr's objects ---


def encoded(specs: Mapping[str, ArraySpec], arrays: Arrays, attrs: Mapping[str, Any]) -> dict[str, bytes]:
    """The objects of a Zarr group with these arrays and attributes, by name.

    Raises:
        ValueError: An array is none of `specs`, or has other dimensions or another type.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        if name not in specs:
            raise ValueError(f"{name} is not declared; the analysis has {', '.join(specs)}")
        spec = specs[name]
        told = dict(zip(spec.dims, array.shape, strict=False))
        if array.ndim != len(spec.dims) or 0 in array.shape or any(sizes.get(d, n) != n for d, n in told.items()):
            raise ValueError(f"{name} has shape {array.shape}, which is not ({', '.join(spec.dims)}) of {sizes}")
        if not has_type(array, spec):
            raise ValueError(f"{name} is {array.dtype}, declared as {spec.dtype}; convert it where it is computed")
        sizes |= told
    template = _template(tuple((name, specs[name], array.shape) for name, array in arrays.items()))
    return template.objects(arrays, attrs)


class _Template:
    """The metadata of arrays of some shapes, which takes longer to make than small arrays to encode."""

    def __init__(self, shapes: Sequence[tuple[str, ArraySpec, tuple[int, ...]]]) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, Any] = {}
        store = MemoryStore(self._objects)
        sizes = {dim: size for _, spec, shape in shapes for dim, size in zip(spec.dims, shape, strict=True)}
        images = sizes.get("image", 1)
        self._arrays = {
            name: zarr.create_array(store, name=name, **schema.creation(spec, sizes, images))
            for name, spec, _ in shapes
        }
        keys = [f"{name}/{METADATA}" for name, _, _ in shapes]
        self._metadata = {key: self._objects[key].to_bytes() for key in keys}
        self._root: dict[str, Any] = json.loads(root_metadata(self._metadata, {}))

    def objects(self, arrays: Arrays, attrs: Mapping[str, Any]) -> dict[str, bytes]:
        with self._lock:
            for name, array in arrays.items():
                self._arrays[name][...] = array
            chunks = [key for key in self._objects if not key.endswith(METADATA)]
            found = {key: self._objects.pop(key).to_bytes() for key in chunks}
        return {METADATA: files.json_bytes({**self._root, "attributes": dict(attrs)}), **self._metadata, **found}


@lru_cache(maxsize=32)
def _template(shapes: tuple[tuple[str, ArraySpec, tuple[int, ...]], ...]) -> _Template:
    return _Template(shapes)


# --- what is there, and what goes ---


class Uses:
    """When each result was last used, by empty files in a folder that the page can write, which studies are not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: dict[Path, float] = {}

    def note(self, result: Path) -> None:
        """The result in that folder is used now. Where this cannot be written, it is not noted."""
        now = time.monotonic()
        if now - self._noted.get(result, -NOTED_SECONDS) < NOTED_SECONDS:
            return
        if len(self._noted) > 10_000:
            self._noted.clear()
        self._noted[result] = now
        try:
            self._folder.mkdir(exist_ok=True)
            self._file(result).touch()
        except OSError:  # a data folder that is only looked at: nothing is dropped in it either
            return

    def last(self, result: Path) -> float:
        """Seconds since 1970 when it was last used, or else published."""
        return max(_modified(self._file(result)), _modified(paths.manifest_path(result)))

    def forget_others(self, results: Collection[Path]) -> None:
        """Remove what is noted of results that are no longer there."""
        wanted = {self._file(result) for result in results}
        for file in self._folder.glob("*"):
            if file not in wanted:
                file.unlink(missing_ok=True)

    def _file(self, result: Path) -> Path:
        return self._folder / ",".join((result.parents[2].name, result.parent.name, result.name))


@dataclass(frozen=True)
class Entry:
    """One result, as it is listed.

    Attributes:
        folder: Where it lies.
        request: What was asked for; None if it cannot be read.
        size: Bytes on the disk.
        used: When it was last used, in seconds since 1970.
        problem: Why it cannot be opened, if so.
    """

    folder: Path
    request: AnalysisRequest | None
    size: int
    used: float
    problem: str | None

    @property
    def analysis(self) -> str:
        """Name of its analysis."""
        return self.folder.parent.name


def entries(studies: Sequence[Path], uses: Uses) -> list[Entry]:
    """All results of some studies, by study, analysis and last use."""
    found = []
    for study in studies:
        for folder in every(study):
            request, problem = None, None
            try:
                request = Derived(folder).request
            except (StoreError, ValueError) as error:
                problem = str(error)
            found.append(Entry(folder, request, size_of(folder), uses.last(folder), problem))
    return sorted(found, key=lambda each: (each.folder.parents[2].name, each.analysis, -each.used))


def remove(folder: Path) -> None:
    """Remove a result at once: whoever opens it from now on finds none. Harmless twice."""
    trash = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_DROPPED}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def remove_all(study: Path) -> None:
    """Remove all results of a study, and what is kept of those that are being computed."""
    shutil.rmtree(paths.derived_path(study), ignore_errors=True)


def remove_remains(studies: Path, live_jobs: Callable[[], Collection[str]]) -> None:
    """Remove what processes left that died: of jobs that have ended, and of results that were being removed.

    Args:
        live_jobs: Gives the ids of the jobs that wait or run. It is asked after the folder was looked at.
    """
    remains = list(studies.glob(f"*/{paths.derived_path(Path()).name}/*/*.*"))
    waiting = [path for path in remains if path.name.endswith(".work")]
    live = live_jobs() if waiting else ()
    for path in remains:
        job = path.name.removesuffix(".work").partition(".")[2]
        if path.name.endswith(_DROPPED) or (path.name.endswith(".work") and job not in live):
            shutil.rmtree(path, ignore_errors=True)


def keep_within(
    studies: Path, uses: Uses, most_bytes: float, spared: Callable[[], Collection[Path]] = lambda: ()
) -> list[Path]:
    """Drop the results that were not used for longest, until all results take `most_bytes` on the disk; those dropped.

    Args:
        spared: Gives results that stay, whatever they take: those that jobs write. It is asked if any must go.
    """
    found = [folder for study in _folders(studies) for folder in every(study)]
    uses.forget_others(found)
    sizes = {folder: size_of(folder) for folder in found}
    held, dropped, now = sum(sizes.values()), [], time.time()
    if held <= most_bytes:
        return []
    last, kept = {folder: uses.last(folder) for folder in found}, spared()
    for folder in sorted(found, key=lambda each: last[each]):
        if held <= most_bytes:
            break
        if folder not in kept and now - last[folder] > SPARED_SECONDS:
            remove(folder)
            held -= sizes[folder]
            dropped.append(folder)
    return dropped


def _folders(studies: Path) -> list[Path]:
    return sorted(path for path in studies.glob("*") if path.is_dir() and not path.is_symlink())


def _declared(analysis: str) -> Analysis:
    """The analysis of that name that people can ask for.

    Raises:
        ValueError: There is none.
    """
    known = registry.on_request()
    if analysis not in known:
        raise ValueError(f"{analysis!r} is nothing that can be asked for; there are {', '.join(known)}")
    return known[analysis]


def _request_type(analysis: Analysis) -> type[AnalysisRequest]:
    if analysis.request is None:
        raise ValueError(f"{analysis.name} declares no request; give it one, an AnalysisRequest")
    return analysis.request
