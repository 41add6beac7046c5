"""How does a study come to be on disk? As an attempt: unit by unit, resumed after a crash, published at once.

<study>/attempt-N/ is the Zarr group. <study>/attempt-N.work/ remembers what a resumed run must know:
plan.json, written when the attempt is ready for units, and parts/, with the rows of the gathered arrays and
one ack for each finished unit. An attempt without plan.json is garbage. MANIFEST.json, renamed into place
last, is what publishes.
"""

import io
import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import ZarrUserWarning
from zarr.types import AnyArray

from store import failpoints, files, paths, schema
from store.errors import DamagedError, StoreError, StudyNotFoundError
from store.lock import StudyLock
from store.manifest import Manifest, strays
from store.objects import WritingStore, digest, fault, file_digest
from store.schema import SCHEMA, ArraySpec, Written

Array = npt.NDArray[Any]
Noted = dict[str, tuple[int, str]]  # objects by name, as in store.objects.Objects

ROOT = "zarr.json"


class Attempt:
    """One try at writing one study. Holds the study's lock until it is published, discarded or closed.

    One thread writes at a time. Every method but `close` may be called again after a crash, in the same
    order: equal arrays give equal bytes, whatever was interrupted.
    """

    def __init__(self, lock: StudyLock, number: int, record: dict[str, Any]) -> None:
        self.study = lock.study
        self.number = number
        self.path = paths.attempt_path(lock.study, number)
        self._lock = lock
        self._record = record  # what plan.json holds
        self._store = WritingStore(self.path)
        self._opened: dict[str, AnyArray] = {}
        self._gathered = False

    @classmethod
    def start(
        cls,
        study: Path,
        plan: dict[str, Any],
        sizes: Mapping[str, int],
        attrs: Mapping[str, Any],
        start: Mapping[str, Array],
        arrays: Iterable[str],
        unit_images: int,
    ) -> Self:
        """A new attempt, its arrays made and those of `start` written.

        Args:
            study: The study's folder; made where there is none.
            plan: What makes this run the same as another, in plain JSON: a later run with an equal plan
                resumes it.
            sizes: Size of every dimension; rgb, xy, depth, query and key may be left out.
            attrs: Root attributes known so far.
            start: The arrays that the table says are written at the start, by name.
            arrays: Names of all arrays that this study has, those of `start` included.
            unit_images: Images a unit; the last unit may have fewer.
        Raises:
            StudyBusyError: Another process is writing the study.
            NewerSchemaError: The study is there, published by a newer Headscope.
            DiskFullError: There is no room; nothing is left behind.
            ValueError: The arguments do not fit the table or each other; the message says which.
        """
        names = set(arrays)
        if unknown := names - SCHEMA.keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: not in the schema, which has {', '.join(SCHEMA)}")
        record = {
            "schema": schema.VERSION,
            "plan": plan,
            "sizes": schema.all_sizes(sizes),
            "attrs": dict(attrs),
            "arrays": [name for name in SCHEMA if name in names],
            "unit_images": unit_images,
        }
        files.json_bytes(record)  # refuses what would not come back
        _check_sizes(record)
        lock = StudyLock(study)
        try:
            _tidy(study)
            attempt = cls(lock, 1 + max(paths.attempt_numbers(study), default=0), record)
        except BaseException:
            lock.release()
            raise
        try:
            needed = sum(np.asarray(array).nbytes for array in start.values())
            with files.told_when_full(study, lambda: needed):
                attempt._begin(start)
        except BaseException:
            attempt.discard()
            raise
        return attempt

    @classmethod
    def unfinished(cls, study: Path, plan: dict[str, Any]) -> Self | None:
        """The newest attempt that was started with an equal plan and is not published, or None.

        Raises:
            StudyBusyError, NewerSchemaError: As `start`.
        """
        if not study.is_dir():
            return None
        lock = StudyLock(study)
        try:
            published = _tidy(study)
            for number in reversed(paths.attempt_numbers(study)):
                record = _plan_record(study, number)
                if number == published or record is None or record["schema"] != schema.VERSION:
                    continue
                if record["plan"] == json.loads(files.json_bytes(plan)) and _has(study, number, record["objects"]):
                    attempt = cls(lock, number, record)
                    files.make_folder(paths.parts_path(study, number))
                    files.remove_partials(attempt.path)
                    attempt._store.objects |= _noted(record["objects"])
                    return attempt
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every dimension."""
        return dict(self._record["sizes"])

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays that the study will have, in the order of the table."""
        return list(self._record["arrays"])

    @property
    def units(self) -> list[range]:
        """The image indices of each unit."""
        images, step = self._record["sizes"]["image"], self._record["unit_images"]
        return [range(start, min(start + step, images)) for start in range(0, images, step)]

    def pending(self) -> list[int]:
        """Units that are not finished, or whose objects are no longer there."""
        return [unit for unit in range(len(self.units)) if self._ack(unit) is None]

    def facts(self) -> list[dict[str, Any]]:
        """What `write_unit` was told of each finished unit, by unit."""
        acks = (self._ack(unit) for unit in range(len(self.units)))
        return [ack["facts"] for ack in acks if ack is not None]

    def write_unit(self, unit: int, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Write one unit of images, for good once this returns. Running it twice writes the same bytes.

        Args:
            unit: Which of `units`.
            arrays: Every "unit" and "gathered" array of the study by name, with the unit's images on its
                image axis.
            facts: What is to be remembered of the unit, in plain JSON.
        Raises:
            DiskFullError: There is no room; the unit is pending.
            ValueError: An array is missing, or has another shape or type than the table says.
        """
        images = self.units[unit]
        self._check(arrays, self._names("unit", "gathered"), len(images))
        fact_bytes = files.json_bytes(dict(facts))
        needed = sum(array.nbytes for array in arrays.values())
        ack = paths.ack_path(self.study, self.number, unit)
        part = paths.part_path(self.study, self.number, unit)
        with files.told_when_full(self.study, lambda: needed * len(self.pending())):
            failpoints.hit("before-unit-write")
            ack.unlink(missing_ok=True)
            objects: Noted = {}
            for name in self._names("unit"):
                objects |= self._put(name, arrays[name], images.start)
            npz = _npz({name: arrays[name] for name in self._names("gathered")})
            files.put(part, npz)
            failpoints.hit("after-unit-write")
            self._sync(objects)
            files.sync_folder(part.parent)
            failpoints.hit("before-unit-ack")
            files.put_now(
                ack,
                files.json_bytes({"objects": objects, "facts": json.loads(fact_bytes), "npz": digest(npz)}),
            )
            failpoints.hit("after-unit-ack")

    def gather(self) -> None:
        """Put the gathered arrays together from the parts of all units, a chunk of images at a time.

        Raises:
            StoreError: Units are pending.
            DamagedError: A part is not as its unit wrote it; that unit is pending again.
            DiskFullError: There is no room; the parts are kept.
        """
        self._refuse_pending()
        names = self._names("gathered")
        with files.told_when_full(self.study, lambda: self._nbytes(names)):
            failpoints.hit("before-gather")
            self._check_parts()
            for name in names:
                self._sync(self._gather(name))
        self._gathered = True

    def gathered(self, name: str) -> Array:
        """The whole of one gathered array, as `gather` put it together.

        Raises:
            StoreError: gather() was not called.
        """
        if name not in self._names("gathered"):
            raise ValueError(f"{name} is not gathered in this study; {', '.join(self._names('gathered'))} are")
        if not self._gathered:
            raise StoreError(f"{name} is still in parts; call gather() first")
        return np.asarray(self._array(name)[...])

    def write(self, name: str, array: Array) -> None:
        """Write one whole array of those that are computed from all images.

        Raises:
            ValueError: The table has it written at another time, or with another shape or type.
            DiskFullError: There is no room.
        """
        self._check({name: array}, self._names("end"), None, complete=False)
        with files.told_when_full(self.study, lambda: array.nbytes):
            self._sync(self._put(name, array))

    def publish(self, attrs: Mapping[str, Any], run: Mapping[str, Any]) -> Manifest:
        """Make the study what this attempt wrote, in one step, and close the attempt.

        Args:
            attrs: Root attributes, over those given at the start.
            run: "headscope": the version; "packages": versions by name; and any further facts of this run, as
                times.
        Raises:
            StoreError: Something is not written yet, or files lie in the attempt that nobody wrote.
            DamagedError: An object that was written is no longer there.
            DiskFullError: There is no room; nothing is published, and all else is kept.
        """
        self._refuse_pending()
        with files.told_when_full(self.study, lambda: 1_000_000):
            objects = self._finished_objects()
            root = self._put_root({**self._record["attrs"], **attrs})
            objects[ROOT] = root
            files.remove_partials(self.path)
            if stray := strays(self.path, objects):
                raise StoreError(
                    f"{self.path} has files that this attempt did not write: {', '.join(stray)}; move them "
                    "away and run the same command again"
                )
            facts = dict(run)
            manifest = Manifest(
                self.study.name,
                self.path.name,
                objects,
                headscope=facts.pop("headscope", ""),
                packages=facts.pop("packages", {}),
                run=facts,
            )
            files.sync_folder(self.path)
            files.sync_folder(self.study)
            failpoints.hit("before-manifest")
            manifest.publish(self.study)
            failpoints.hit("after-manifest")
        shutil.rmtree(paths.work_path(self.study, self.number))
        self.close()
        return manifest

    def discard(self) -> None:
        """Remove everything that this attempt wrote, and close it."""
        paths.remove_attempt(self.study, self.number)
        self.close()

    def close(self) -> None:
        """Let other processes write the study. What is written so far is kept, to be resumed."""
        self._lock.release()

    def _begin(self, start: Mapping[str, Array]) -> None:
        files.make_folder(self.path)
        files.make_folder(paths.parts_path(self.study, self.number))
        self._check(start, self._names("start"), self.sizes["image"])
        zarr.create_group(self._store)
        for name in self.arrays:
            spec = SCHEMA[name]
            zarr.create_array(self._store, name=name, **schema.creation(spec, self.sizes, self._record["unit_images"]))
        for name, array in start.items():
            self._put(name, array)
        self._sync(self._store.objects)
        objects = {key: value for key, value in self._store.objects.items() if key != ROOT}  # publish writes it anew
        self._record["objects"] = objects
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    def _names(self, *written: Written) -> list[str]:
        return [name for name in self._record["arrays"] if SCHEMA[name].written in written]

    def _array(self, name: str) -> AnyArray:
        if name not in self._opened:
            opened = zarr.open_array(self._store, path=name, mode="r+")
            self._opened[name] = opened.with_config({"write_empty_chunks": True})
        return self._opened[name]

    def _check(self, arrays: Mapping[str, Array], wanted: list[str], images: int | None, complete: bool = True) -> None:
        if extra := sorted(arrays.keys() - set(wanted)):
            raise ValueError(f"{', '.join(extra)}: not written in this step, which writes {', '.join(wanted)}")
        if complete and (missing := [name for name in wanted if name not in arrays]):
            raise ValueError(f"{', '.join(missing)}: missing; this step writes {', '.join(wanted)}")
        for name, array in arrays.items():
            spec = SCHEMA[name]
            sizes = self.sizes if images is None else self.sizes | {"image": images}
            if array.shape != schema.shape(spec, sizes):
                raise ValueError(
                    f"{name} has shape {array.shape} instead of {schema.shape(spec, sizes)}, ({', '.join(spec.dims)})"
                )
            if not _has_type(array, spec):
                raise ValueError(
                    f"{name} is {array.dtype}, the schema says {spec.dtype}; convert it where it is computed"
                )

    def _put(self, name: str, data: Array, first_image: int = 0) -> Noted:
        """Write `data`, whose images start at `first_image`, object by object; return what was written."""
        array, spec = self._array(name), SCHEMA[name]
        start = [first_image if axis == spec.image_axis else 0 for axis in range(data.ndim)]
        stop = [a + size for a, size in zip(start, data.shape, strict=True)]
        whole = schema.object_shape(spec, self.sizes, self._record["unit_images"])
        written: Noted = {}
        for cell, box in schema.cells(whole, tuple(start), tuple(stop)):
            key = schema.object_key(name, cell)
            self._store.remove(key)
            array[box] = data[tuple(slice(s.start - a, s.stop - a) for s, a in zip(box, start, strict=True))]
            written[key] = self._store.objects[key]
        return written

    def _sync(self, keys: Iterable[str]) -> None:
        for folder in sorted({(self.path / key).parent for key in keys}):
            files.sync_folder(folder)

    def _ack(self, unit: int) -> dict[str, Any] | None:
        """The unit's ack, if everything that it names is there in its size."""
        part = paths.part_path(self.study, self.number, unit)
        try:
            ack: dict[str, Any] = json.loads(paths.ack_path(self.study, self.number, unit).read_bytes())
            there = part.stat().st_size == ack["npz"][0] and all(
                (self.path / key).stat().st_size == size for key, (size, _) in ack["objects"].items()
            )
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return ack if there else None

    def _refuse_pending(self) -> None:
        if pending := self.pending():
            raise StoreError(
                f"{len(pending)} of {len(self.units)} units are not written yet; the first is {pending[0]}"
            )

    def _check_parts(self) -> None:
        for unit in range(len(self.units)):
            ack, part = (
                paths.ack_path(self.study, self.number, unit),
                paths.part_path(self.study, self.number, unit),
            )
            if list(file_digest(part)) != json.loads(ack.read_bytes())["npz"]:
                ack.unlink()
                raise DamagedError(
                    f"{part} was changed after it was written; run the same command again to compute its images anew",
                    [part.relative_to(self.study).as_posix()],
                )

    def _gather(self, name: str) -> Noted:
        spec = SCHEMA[name]
        axis = spec.image_axis or 0
        step = schema.chunk_shape(spec, self.sizes)[axis]
        written: Noted = {}
        for start in range(0, self.sizes["image"], step):
            stop = min(start + step, self.sizes["image"])
            rows = [
                self._part(unit, name)[
                    (slice(None),) * axis
                    + (slice(max(start, images.start) - images.start, min(stop, images.stop) - images.start),)
                ]
                for unit, images in enumerate(self.units)
                if images.start < stop and start < images.stop
            ]
            written |= self._put(name, np.concatenate(rows, axis=axis), start)
        return written

    def _part(self, unit: int, name: str) -> Array:
        with np.load(paths.part_path(self.study, self.number, unit), allow_pickle=False) as part:
            return np.asarray(part[name])

    def _nbytes(self, names: Iterable[str]) -> int:
        arrays = (self._array(name) for name in names)
        return sum(array.nbytes for array in arrays)

    def _put_root(self, attrs: Mapping[str, Any]) -> tuple[int, str]:
        """Write the root's attributes, with the metadata of all arrays; return its size and SHA-256."""
        said = json.loads(files.json_bytes({**attrs, "headscope": {"schema": schema.VERSION}}))
        self._store.remove(ROOT)
        zarr.create_group(self._store, attributes=said)
        with warnings.catch_warnings():
            # Consolidated metadata is an extension of Zarr 3; who does not know it reads each array's own.
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(self._store)
        return self._store.objects[ROOT]

    def _finished_objects(self) -> Noted:
        """All objects but the root, from the plan, the acks and this process."""
        objects = self._store.objects | _noted(self._record["objects"])
        for unit in range(len(self.units)):
            objects |= _noted((self._ack(unit) or {})["objects"])
        objects.pop(ROOT, None)
        for name in self.arrays:
            spec = SCHEMA[name]
            full = schema.shape(spec, self.sizes)
            whole = schema.object_shape(spec, self.sizes, self._record["unit_images"])
            keys = (schema.object_key(name, cell) for cell, _ in schema.cells(whole, (0,) * len(full), full))
            if any(key not in objects for key in keys):
                step = {"gathered": "gather()", "end": f"write({name!r}, …)"}.get(spec.written, "the unit's write")
                raise StoreError(f"{name} is not written yet; {step} is to be called before publish()")
        gone = [key for key, (size, _) in objects.items() if not _has_size(self.path / key, size)]
        if gone:
            raise DamagedError(
                f"{', '.join(gone)} in {self.path}: written, but no longer there; discard and start anew",
                gone,
            )
        return objects


def _check_sizes(record: dict[str, Any]) -> None:
    for name in record["arrays"]:
        for dim in SCHEMA[name].dims:
            if record["sizes"].get(dim, 0) < 1:
                raise ValueError(f"{name} needs the size of dimension {dim}, 1 or more; sizes has {record['sizes']}")
    if record["sizes"].get("image", 0) < 1 or record["unit_images"] < 1:
        raise ValueError(
            f"a study has 1 image or more and 1 image a unit or more, not {record['sizes'].get('image')} and "
            f"{record['unit_images']}"
        )


def _has_type(array: Array, spec: ArraySpec) -> bool:
    if spec.dtype == "string":
        return array.dtype.kind in "UTO"
    return array.dtype == np.dtype(spec.dtype)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _noted(objects: Mapping[str, Any]) -> Noted:
    """Objects as they come back from JSON."""
    return {key: (size, sha256) for key, (size, sha256) in objects.items()}


def _plan_record(study: Path, number: int) -> dict[str, Any] | None:
    """What plan.json of an attempt holds; None if it cannot be read: the attempt is garbage."""
    try:
        record: dict[str, Any] = json.loads(paths.plan_path(study, number).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if paths.attempt_path(study, number).is_dir() else None


def _has(study: Path, number: int, objects: Mapping[str, Any]) -> bool:
    """Whether what the attempt wrote at its start is still as it was."""
    root = paths.attempt_path(study, number)
    return all(fault(root / key, expected) is None for key, expected in _noted(objects).items())


def _tidy(study: Path) -> int | None:
    """Remove attempts that can be neither read nor resumed: without a plan, or older than the published one.

    Returns the published attempt's number. The one published before it goes here and not in `publish`, so
    that those who have it open can read on until the study is written again.
    """
    try:
        published = Manifest.load(study).number
    except StudyNotFoundError:
        published = None
    except DamagedError:
        return None  # which attempt was published is not known, so none is garbage for sure
    for number in paths.attempt_numbers(study):
        if number == published:
            shutil.rmtree(paths.work_path(study, number), ignore_errors=True)
        elif number < (published or 0) or _plan_record(study, number) is None:
            paths.remove_attempt(study, number)
    return published
