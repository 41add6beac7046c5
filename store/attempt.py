"""How does a study come to be on disk? As an attempt: unit by unit, resumed after a crash, published at once.

<study>/attempt-N/ is the Zarr group. <study>/attempt-N.work/ remembers what a resumed run must know:
plan.json, written when the attempt is ready for units, and parts/, with the rows of the gathered arrays and
one ack for each finished unit and stage. An attempt without plan.json is garbage. MANIFEST.json, renamed into place
last, is what publishes.

An attempt may also begin with everything that a published study holds (`extend`), to add stages to it.
"""

import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import ZarrUserWarning
from zarr.types import AnyArray

from store import failpoints, files, paths, schema
from store.checks import check_arrays, check_sizes, refuse_others
from store.errors import DamagedError, StoreError
from store.lock import StudyLock
from store.manifest import Manifest, strays
from store.objects import WritingStore, digest, file_digest
from store.record import Noted, has_size, noted, plan_record, read_ack, start_is_there, tidy
from store.schema import SCHEMA, Written
from store.study import Study, open_published

Array = npt.NDArray[Any]

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
        self._sizes: dict[str, int] = dict(record["sizes"])
        for ack in self._stages().values():
            self._sizes |= ack["sizes"]

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
            arrays: Names of the arrays that this study has, those of `start` included; but for those of
                stages, which come with `write_stage`.
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
        if late := [name for name in SCHEMA if name in names and SCHEMA[name].written == "end"]:
            raise ValueError(f"{', '.join(late)}: not of the start; write_stage() makes and writes them")
        record: dict[str, Any] = {
            "schema": schema.VERSION,
            "plan": plan,
            "sizes": schema.all_sizes(sizes),
            "attrs": dict(attrs),
            "arrays": [name for name in SCHEMA if name in names],
            "unit_images": unit_images,
            "extends": False,
        }
        files.json_bytes(record)  # refuses what would not come back
        check_sizes(record["arrays"], record["sizes"], unit_images)
        attempt = cls._new(study, lambda: record)
        try:
            needed = sum(np.asarray(array).nbytes for array in start.values())
            with files.told_when_full(study, lambda: needed):
                attempt._begin(start)
        except BaseException:
            attempt.discard()
            raise
        return attempt

    @classmethod
    def extend(cls, study: Path, plan: dict[str, Any]) -> Self:
        """A new attempt that begins with everything that is published of the study, and has no units to do.

        The files are hard links where the file system has them: nothing that is published is ever written again.

        Args:
            study: The study's folder.
            plan: As in `start`.
        Raises:
            StudyNotFoundError: Nothing is published there.
            StudyBusyError, NewerSchemaError, DiskFullError: As `start`.
        """
        published = open_published(study)
        attrs = {key: value for key, value in published.attrs.items() if key != "headscope"}
        objects = {key: value for key, value in published.manifest.objects.items() if key != ROOT}

        def record() -> dict[str, Any]:
            if Manifest.load(study).content != published.manifest.content:
                raise StoreError(f"study {study.name} was published anew meanwhile; run the same command again")
            return {
                "schema": schema.VERSION,
                "plan": plan,
                "sizes": schema.all_sizes(published.sizes),
                "attrs": attrs,
                "arrays": published.arrays,
                "unit_images": published.sizes["image"],
                "extends": True,
                "objects": objects,
            }

        attempt = cls._new(study, record)
        try:
            with files.told_when_full(study, lambda: published.manifest.size):
                attempt._take_over(published.path)
        except BaseException:
            attempt.discard()
            raise
        return attempt

    @classmethod
    def _new(cls, study: Path, record: Callable[[], dict[str, Any]]) -> Self:
        lock = StudyLock(study)
        try:
            tidy(study)
            return cls(lock, 1 + max(paths.attempt_numbers(study), default=0), record())
        except BaseException:
            lock.release()
            raise

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
            published = tidy(study)
            for number in reversed(paths.attempt_numbers(study)):
                record = plan_record(study, number)
                if number == published or record is None or record["schema"] != schema.VERSION:
                    continue
                if "extends" not in record:  # begun by Headscope 0.1 before it had stages
                    continue
                if record["plan"] == json.loads(files.json_bytes(plan)) and start_is_there(study, number, record):
                    attempt = cls(lock, number, record)
                    files.make_folder(paths.parts_path(study, number))
                    files.remove_partials(attempt.path)
                    attempt._store.objects |= noted(record["objects"])
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
        """Size of every dimension that is known so far."""
        return dict(self._sizes)

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays that the study will have, in the order of the table; of stages, of finished ones."""
        names = {*self._record["arrays"], *(name for ack in self._stages().values() for name in ack["arrays"])}
        return [name for name in SCHEMA if name in names]

    @property
    def units(self) -> list[range]:
        """The image indices of each unit; an attempt that extends a published study has none."""
        if self._record["extends"]:
            return []
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
        check_arrays(arrays, self._names("unit", "gathered"), self.sizes | {"image": len(images)})
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

        In an attempt that extends a published study they are together already.

        Raises:
            StoreError: Units are pending.
            DamagedError: A part is not as its unit wrote it; that unit is pending again.
            DiskFullError: There is no room; the parts are kept.
        """
        self._refuse_pending()
        names = [] if self._record["extends"] else self._names("gathered")
        with files.told_when_full(self.study, lambda: self._nbytes(names)):
            failpoints.hit("before-gather")
            self._check_parts()
            for name in names:
                self._sync(self._gather(name))

    def stages(self) -> dict[str, dict[str, Any]]:
        """What `write_stage` was told of each finished stage, by name."""
        return {name: ack["facts"] for name, ack in self._stages().items()}

    def write_stage(self, stage: str, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Make and write whole arrays that are computed from all images, for good once this returns.

        Running it twice writes the same bytes.

        Args:
            stage: Its name, by which a resumed run knows that it is finished.
            arrays: By name; their shapes say how large dimensions are that were not known before.
            facts: What is to be remembered of the stage, in plain JSON.
        Raises:
            DiskFullError: There is no room; the stage is not finished.
            ValueError: The table has an array written at another time, or with another shape or type.
        """
        of_stages = [name for name, spec in SCHEMA.items() if spec.written == "end"]
        refuse_others(arrays, of_stages)
        new_sizes = {
            dim: size
            for name, array in arrays.items()
            for dim, size in zip(SCHEMA[name].dims, array.shape, strict=False)
            if dim not in self._record["sizes"]
        }
        self._sizes |= new_sizes
        check_arrays(arrays, list(arrays), self.sizes)
        fact_bytes = files.json_bytes(dict(facts))
        ack = paths.stage_path(self.study, self.number, stage)
        with files.told_when_full(self.study, lambda: sum(array.nbytes for array in arrays.values())):
            failpoints.hit("before-stage-write")
            ack.unlink(missing_ok=True)
            objects: Noted = {}
            for name, array in arrays.items():
                self._remove(name)
                self._create(name)
                objects[f"{name}/{ROOT}"] = self._store.objects[f"{name}/{ROOT}"]
                objects |= self._put(name, array)
            self._sync(objects)
            failpoints.hit("before-stage-ack")
            noted_facts = {"facts": json.loads(fact_bytes), "arrays": list(arrays), "sizes": new_sizes}
            files.put_now(ack, files.json_bytes(noted_facts | {"objects": objects}))
            failpoints.hit("after-stage-ack")

    def so_far(self) -> Study:
        """What is written so far, to be read as a study: finished units, gathered arrays and finished stages.

        Raises:
            StoreError: Units are pending.
        """
        self._refuse_pending()
        objects = self._objects()
        objects[ROOT] = self._put_root(self._record["attrs"])
        return Study(self.study, Manifest(self.study.name, self.path.name, objects))

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
            for name in SCHEMA.keys() - set(self.arrays):  # of stages that were begun, but are not wanted any more
                self._remove(name)
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
        check_arrays(start, self._names("start"), self.sizes)
        zarr.create_group(self._store)
        for name in self._record["arrays"]:
            self._create(name)
        for name, array in start.items():
            self._put(name, array)
        self._sync(self._store.objects)
        objects = {key: value for key, value in self._store.objects.items() if key != ROOT}  # publish writes it anew
        self._record["objects"] = objects
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    def _take_over(self, published: Path) -> None:
        """Begin with the objects of the group at `published`, which the record names."""
        files.make_folder(self.path)
        files.make_folder(paths.parts_path(self.study, self.number))
        zarr.create_group(self._store)
        objects = noted(self._record["objects"])
        for key in objects:
            files.make_folder((self.path / key).parent)
            files.link(published / key, self.path / key)
        self._sync(objects)
        self._store.objects |= objects
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    def _create(self, name: str) -> None:
        spec = SCHEMA[name]
        zarr.create_array(self._store, name=name, **schema.creation(spec, self.sizes, self._record["unit_images"]))

    def _remove(self, name: str) -> None:
        """Remove an array, if it is there: a stage that was killed may have left some of it."""
        folder = self.path / name
        for path in folder.glob("*"):
            self._store.remove(path.relative_to(self.path).as_posix())
        if folder.is_dir():
            folder.rmdir()
        self._opened.pop(name, None)

    def _names(self, *written: Written) -> list[str]:
        return [name for name in self._record["arrays"] if SCHEMA[name].written in written]

    def _array(self, name: str) -> AnyArray:
        if name not in self._opened:
            opened = zarr.open_array(self._store, path=name, mode="r+")
            self._opened[name] = opened.with_config({"write_empty_chunks": True})
        return self._opened[name]

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
        ack = read_ack(paths.ack_path(self.study, self.number, unit), self.path)
        part = paths.part_path(self.study, self.number, unit)
        return ack if ack is not None and has_size(part, ack["npz"][0]) else None

    def _stages(self) -> dict[str, dict[str, Any]]:
        """The acks of finished stages, by name."""
        names = paths.acked_stages(self.study, self.number)
        found = {name: read_ack(paths.stage_path(self.study, self.number, name), self.path) for name in names}
        return {name: ack for name, ack in found.items() if ack is not None}

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

    def _objects(self) -> Noted:
        """All objects but the root, from the plan, the acks and this process."""
        objects = self._store.objects | noted(self._record["objects"])
        for unit in range(len(self.units)):
            objects |= noted((self._ack(unit) or {"objects": {}})["objects"])
        for ack in self._stages().values():
            objects |= noted(ack["objects"])
        objects.pop(ROOT, None)
        return objects

    def _finished_objects(self) -> Noted:
        """`_objects`, once all arrays have all of theirs, and they are on the disk."""
        objects = self._objects()
        for name in [] if self._record["extends"] else self._record["arrays"]:
            spec = SCHEMA[name]
            full = schema.shape(spec, self.sizes)
            whole = schema.object_shape(spec, self.sizes, self._record["unit_images"])
            keys = (schema.object_key(name, cell) for cell, _ in schema.cells(whole, (0,) * len(full), full))
            if any(key not in objects for key in keys):
                step = {"gathered": "gather()"}.get(spec.written, "the unit's write")
                raise StoreError(f"{name} is not written yet; {step} is to be called before publish()")
        gone = [key for key, (size, _) in objects.items() if not has_size(self.path / key, size)]
        if gone:
            raise DamagedError(
                f"{', '.join(gone)} in {self.path}: written, but no longer there; discard and start anew",
                gone,
            )
        return objects


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
