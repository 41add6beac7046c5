"""How does a study come to be on disk? As an attempt: unit by unit, resumed after a crash, published at once.

<study>/attempt-N/ is the Zarr group. <study>/attempt-N.work/ remembers what a resumed run must know:
plan.json, written when the attempt is ready for units; parts/, with the rows of the gathered arrays and
one ack for each finished step; and staging/, where a step puts its files until it places them. An attempt without
plan.json is garbage. MANIFEST.json, renamed into place last, is what publishes.

One process writes all of an attempt, or several join it and write a step each: a unit of images, the gathering,
a stage, the publishing. Each step has one writer at a time, by a lease that is not known here but by its fencing
number and by `hold`, which raises once the lease is lost. `hold` is called when a step's files are ready, right
before they are placed; see store.staging for why a process that was stopped in between can still do no harm.

An attempt may also begin with everything that a published study holds (`extend`), to add stages to it.
"""

import io
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.types import AnyArray

from analyses.arrays import Written
from store import failpoints, files, paths, schema
from store.checks import check_arrays, check_sizes, refuse_others
from store.errors import DamagedError, StoreError
from store.lock import StudyLock
from store.manifest import Manifest, strays
from store.objects import METADATA, WritingStore, digest, file_digest, root_metadata
from store.record import (
    Noted,
    has_size,
    noted,
    plan_record,
    published_number,
    read_ack,
    read_json,
    start_is_there,
    tidy,
)
from store.schema import SCHEMA
from store.staging import Staging, nothing
from store.study import Study, open_published

Array = npt.NDArray[Any]

Check = Callable[[], None]


class Attempt:
    """One try at writing one study. Holds the study's lock until it is published, discarded or closed.

    One thread writes at a time. Every method but `close` may be called again after a crash, in the same
    order: equal arrays give equal bytes, whatever was interrupted. A step that is finished is left as it is.

    Attributes:
        resumed: Whether it was begun before it was opened here.
    """

    def __init__(
        self, lock: StudyLock, number: int, record: dict[str, Any], *, fence: int = 0, resumed: bool = False
    ) -> None:
        self.study = lock.study
        self.number = number
        self.path = paths.attempt_path(lock.study, number)
        self.resumed = resumed
        self._lock = lock
        self._record = record  # what plan.json holds
        self._fence = fence
        self._store = WritingStore(self._put_at_once)
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
        facts: Mapping[str, Any] | None = None,
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
            facts: What is to be remembered of how it began, in plain JSON.
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
            "facts": dict(facts or {}),
        }
        files.json_bytes(record)  # refuses what would not come back
        check_sizes(record["arrays"], record["sizes"], unit_images)
        attempt = cls._new(study, lambda: record)
        with _unless_done(attempt.discard):
            needed = sum(np.asarray(array).nbytes for array in start.values())
            with files.told_when_full(study, lambda: needed):
                attempt._begin(start)
        return attempt

    @classmethod
    def extend(cls, study: Path, plan: dict[str, Any], facts: Mapping[str, Any] | None = None) -> Self:
        """A new attempt that begins with everything that is published of the study, and has no units to do.

        The files are hard links where the file system has them: nothing that is published is ever written again.

        Args:
            study: The study's folder.
            plan, facts: As in `start`.
        Raises:
            StudyNotFoundError: Nothing is published there.
            StudyBusyError, NewerSchemaError, DiskFullError: As `start`.
        """
        published = open_published(study)
        attrs = {key: value for key, value in published.attrs.items() if key != "headscope"}
        objects = {key: value for key, value in published.manifest.objects.items() if key != METADATA}

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
                "facts": dict(facts or {}),
                "objects": objects,
            }

        attempt = cls._new(study, record)
        with _unless_done(attempt.discard), files.told_when_full(study, lambda: published.manifest.size):
            attempt._take_over(published.path)
        return attempt

    @classmethod
    def _new(cls, study: Path, record: Callable[[], dict[str, Any]]) -> Self:
        lock = StudyLock(study)
        with _unless_done(lock.release):
            tidy(study)
            return cls(lock, 1 + max(paths.attempt_numbers(study), default=0), record())

    @classmethod
    def unfinished(cls, study: Path, plan: dict[str, Any]) -> Self | None:
        """The newest attempt that was started with an equal plan and is not published, or None.

        Raises:
            StudyBusyError, NewerSchemaError: As `start`.
        """
        if not study.is_dir():
            return None
        lock = StudyLock(study)
        with _unless_done(lock.release):
            published = tidy(study)
            for number, record in _unpublished(study, published, plan):
                if start_is_there(study, number, record):
                    attempt = cls(lock, number, record, resumed=True)
                    files.make_folder(paths.parts_path(study, number))
                    attempt._clear_staging()
                    files.remove_partials(attempt.path)
                    return attempt
        lock.release()
        return None

    @classmethod
    def join(cls, study: Path, plan: dict[str, Any], fence: int) -> Self | None:
        """The same attempt as `unfinished`, to write steps of it while other processes write others; or None.

        Args:
            plan: As in `start`.
            fence: Fencing number of the lease on what is to be written.
        Raises:
            StudyBusyError: A process that does not share is writing the study.
            NewerSchemaError: As `start`.
        """
        if not study.is_dir():
            return None
        lock = StudyLock(study, shared=True)
        with _unless_done(lock.release):
            for number, record in _unpublished(study, published_number(study), plan):
                if start_is_there(study, number, record, exactly=False):
                    return cls(lock, number, record, fence=fence, resumed=True)
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
        """Names of the arrays that the study will have, of stages those of finished ones: in the order of the table,
        then those of other versions, which it does not name."""
        names = {*self._record["arrays"], *(name for ack in self._stages().values() for name in ack["arrays"])}
        return schema.in_order(names)

    @property
    def units(self) -> list[range]:
        """The image indices of each unit; an attempt that extends a published study has none."""
        if self._record["extends"]:
            return []
        images, step = self._record["sizes"]["image"], self._record["unit_images"]
        return [range(start, min(start + step, images)) for start in range(0, images, step)]

    @property
    def begun(self) -> dict[str, Any]:
        """What `start` or `extend` was told of how it began."""
        return dict(self._record["facts"])

    def note(self, facts: Mapping[str, Any]) -> None:
        """Have `begun` say this too. For who has the study for itself."""
        self._record["facts"] |= facts
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    @property
    def gathered(self) -> bool:
        """Whether there is nothing to gather any more."""
        return bool(self._record["extends"]) or self._gathered() is not None

    def has_unit(self, unit: int) -> bool:
        """Whether the unit is finished, and its objects are there."""
        return self._ack(unit) is not None

    def pending(self) -> list[int]:
        """Units that are not finished, or whose objects are no longer there."""
        return [unit for unit in range(len(self.units)) if self._ack(unit) is None]

    def unit_bytes(self, unit: int) -> dict[str, int]:
        """Bytes on disk of what a finished unit wrote, by array; the gathered ones are not among them."""
        sizes: dict[str, int] = {}
        for key, (size, _) in noted((self._ack(unit) or {"objects": {}})["objects"]).items():
            name = key.partition("/")[0]
            sizes[name] = sizes.get(name, 0) + size
        return sizes

    def unit_facts(self, unit: int) -> dict[str, Any] | None:
        """What `write_unit` was told of a unit; None unless that is finished."""
        ack = self._ack(unit)
        return None if ack is None else ack["facts"]

    def facts(self) -> list[dict[str, Any]]:
        """What `write_unit` was told of each finished unit, by unit."""
        acks = (self._ack(unit) for unit in range(len(self.units)))
        return [ack["facts"] for ack in acks if ack is not None]

    def write_unit(
        self, unit: int, arrays: Mapping[str, Array], facts: Mapping[str, Any], hold: Check = nothing
    ) -> None:
        """Write one unit of images, for good once this returns.

        Args:
            unit: Which of `units`.
            arrays: Every "unit" and "gathered" array of the study by name, with the unit's images on its
                image axis.
            facts: What is to be remembered of the unit, in plain JSON.
            hold: Called before anything is placed; it raises if the unit is another process's now.
        Raises:
            DiskFullError: There is no room; the unit is pending.
            LostLeaseError: The unit was taken over; nothing of it was placed, or all that was is replaced.
            ValueError: An array is missing, or has another shape or type than the table says.
        """
        images = self.units[unit]
        check_arrays(arrays, self._names("unit", "gathered"), self.sizes | {"image": len(images)})
        fact_bytes = files.json_bytes(dict(facts))
        needed = sum(array.nbytes for array in arrays.values())
        ack = paths.ack_path(self.study, self.number, unit)
        with (
            files.told_when_full(self.study, lambda: needed * len(self.pending())),
            self._staging(f"unit-{unit:05}") as staging,
        ):
            failpoints.hit("before-unit-write")
            objects: Noted = {}
            for name in self._names("unit"):
                objects |= self._put(name, arrays[name], images.start)
            npz = _npz({name: arrays[name] for name in self._names("gathered")})
            part = staging.put(paths.part_path(self.study, self.number, unit), npz)
            failpoints.hit("after-unit-write")
            staging.hold(hold)
            if self.has_unit(unit):
                return
            staging.place(without=[ack, paths.gathered_path(self.study, self.number)])
            failpoints.hit("before-unit-ack")
            staging.put(ack, files.json_bytes({"objects": objects, "facts": json.loads(fact_bytes), "npz": part}))
            staging.place()
            failpoints.hit("after-unit-ack")

    def gather(self, hold: Check = nothing) -> None:
        """Put the gathered arrays together from the parts of all units, a chunk of images at a time.

        In an attempt that extends a published study they are together already.

        Args:
            hold: As in `write_unit`.
        Raises:
            StoreError: Units are pending.
            DamagedError: A part is not as its unit wrote it; that unit is pending again.
            DiskFullError: There is no room; the parts are kept.
            LostLeaseError: As `write_unit`.
        """
        if self.gathered:
            return
        self._refuse_pending()
        names = self._names("gathered")
        with files.told_when_full(self.study, lambda: self._nbytes(names)), self._staging("gather") as staging:
            failpoints.hit("before-gather")
            self._check_parts(staging, hold)
            objects: Noted = {}
            for name in names:
                objects |= self._gather(name)
            staging.hold(hold)
            if self.gathered:
                return
            ack = paths.gathered_path(self.study, self.number)
            staging.place(without=[ack])
            failpoints.hit("before-gather-ack")
            staging.put(ack, files.json_bytes({"objects": objects}))
            staging.place()

    def stages(self) -> dict[str, dict[str, Any]]:
        """What `write_stage` was told of each finished stage, by name."""
        return {name: ack["facts"] for name, ack in self._stages().items()}

    def write_stage(
        self, stage: str, arrays: Mapping[str, Array], facts: Mapping[str, Any], hold: Check = nothing
    ) -> None:
        """Make and write whole arrays that are computed from all images, for good once this returns.

        Args:
            stage: Its name, by which a resumed run knows that it is finished.
            arrays: By name; their shapes say how large dimensions are that were not known before.
            facts: What is to be remembered of the stage, in plain JSON.
            hold: As in `write_unit`.
        Raises:
            DiskFullError: There is no room; the stage is not finished.
            LostLeaseError: As `write_unit`.
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
        with (
            files.told_when_full(self.study, lambda: sum(array.nbytes for array in arrays.values())),
            self._staging(ack.stem) as staging,
        ):
            failpoints.hit("before-stage-write")
            objects: Noted = {}
            for name, array in arrays.items():
                self._forget(name)
                self._create(name)
                objects[f"{name}/{METADATA}"] = self._store.objects[f"{name}/{METADATA}"]
                objects |= self._put(name, array)
            staging.hold(hold)
            if stage in self._stages():
                return
            staging.place(without=[ack, *self._files_of(arrays)])
            failpoints.hit("before-stage-ack")
            noted_facts = {"facts": json.loads(fact_bytes), "arrays": list(arrays), "sizes": new_sizes}
            staging.put(ack, files.json_bytes(noted_facts | {"objects": objects}))
            staging.place()
            failpoints.hit("after-stage-ack")

    def pieces(self, stage: str) -> dict[str, dict[str, Any]]:
        """What `write_piece` was told of each finished piece of a stage, by the piece's name."""
        folder = paths.pieces_path(self.study, self.number, stage)
        acks = {}
        for name in paths.acked_pieces(self.study, self.number, stage):
            ack = read_json(folder / f"{name}.json")
            if ack is not None and has_size(folder / f"{name}.npz", ack["npz"][0]):
                acks[name] = ack["facts"]
        return acks

    def write_piece(
        self, stage: str, piece: str, arrays: Mapping[str, Array], facts: Mapping[str, Any], hold: Check = nothing
    ) -> None:
        """Keep what one piece of a stage computed, for good once this returns, until `write_stage` has all of it.

        Args:
            stage: Its name.
            piece: The piece's name, as "0-64.0-12".
            arrays: By name; the table need not have them.
            facts: What is to be remembered of the piece, in plain JSON.
            hold: As in `write_unit`.
        Raises:
            DiskFullError: There is no room; the piece is not finished.
            LostLeaseError: As `write_unit`.
        """
        folder = paths.pieces_path(self.study, self.number, stage)
        ack, npz = folder / f"{piece}.json", folder / f"{piece}.npz"
        fact_bytes = files.json_bytes(dict(facts))
        with (
            files.told_when_full(self.study, lambda: sum(array.nbytes for array in arrays.values())),
            self._staging(f"piece-{stage}-{piece}") as staging,
        ):
            failpoints.hit("before-piece-write")
            part = staging.put(npz, _npz(dict(arrays)))
            staging.hold(hold)
            if piece in self.pieces(stage):
                return
            staging.place(without=[ack])
            failpoints.hit("before-piece-ack")
            staging.put(ack, files.json_bytes({"npz": part, "facts": json.loads(fact_bytes)}))
            staging.place()
            failpoints.hit("after-piece-ack")

    def read_piece(self, stage: str, piece: str) -> dict[str, Array]:
        """The arrays of a finished piece.

        Raises:
            DamagedError: They are not as they were written; the piece is to be computed again.
        """
        folder = paths.pieces_path(self.study, self.number, stage)
        ack, npz = folder / f"{piece}.json", folder / f"{piece}.npz"
        known = read_json(ack)
        if known is None or not npz.is_file() or list(file_digest(npz)) != known["npz"]:
            ack.unlink(missing_ok=True)
            raise DamagedError(
                f"{npz} was changed after it was written; run the same command again to compute it anew",
                [npz.relative_to(self.study).as_posix()],
            )
        with np.load(npz, allow_pickle=False) as part:
            return dict(part)

    def so_far(self) -> Study:
        """What is written so far, to be read as a study: finished units, gathered arrays and finished stages.

        Raises:
            StoreError: Units are pending.
        """
        self._refuse_pending()
        root = self._root(self._record["attrs"])
        manifest = Manifest(self.study.name, self.path.name, self._objects() | {METADATA: digest(root)})
        return Study(self.study, manifest, root)

    def publish(self, attrs: Mapping[str, Any], run: Mapping[str, Any], hold: Check = nothing) -> Manifest:
        """Make the study what this attempt wrote, in one step, and close the attempt.

        Args:
            attrs: Root attributes, over those given at the start.
            run: "headscope": the version; "packages": versions by name; and any further facts of this run, as
                times.
            hold: As in `write_unit`; also called right before the manifest is placed.
        Raises:
            StoreError: Something is not written yet, or files lie in the attempt that nobody wrote.
            DamagedError: An object that was written is no longer there.
            DiskFullError: There is no room; nothing is published, and all else is kept.
            LostLeaseError: Another process publishes it, or has done so.
        """
        self._refuse_pending()
        with files.told_when_full(self.study, lambda: 1_000_000), self._staging("publish") as staging:
            unwanted = self._files_of(SCHEMA.keys() - set(self.arrays))  # of stages that were begun and not finished
            root = self._root({**self._record["attrs"], **attrs})
            objects = self._finished_objects() | {METADATA: staging.put(self.path / METADATA, root)}
            staging.hold(hold)
            staging.place(without=unwanted)
            for folder in {path.parent for path in unwanted}:
                folder.rmdir()
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
            staging.put(paths.manifest_path(self.study), manifest.to_bytes())
            failpoints.hit("before-manifest")
            staging.hold(hold)
            staging.place()
            failpoints.hit("after-manifest")
        shutil.rmtree(paths.work_path(self.study, self.number), ignore_errors=True)
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
        self._make_folders()
        check_arrays(start, self._names("start"), self.sizes)
        for name in self._record["arrays"]:
            self._create(name)
        for name, array in start.items():
            self._put(name, array)
        self._sync(self._store.objects)
        self._record["objects"] = dict(self._store.objects)
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    def _take_over(self, published: Path) -> None:
        """Begin with the objects of the group at `published`, which the record names."""
        self._make_folders()
        objects = noted(self._record["objects"])
        for key in objects:
            files.make_folder((self.path / key).parent)
            files.link(published / key, self.path / key)
        self._sync(objects)
        files.put_now(paths.plan_path(self.study, self.number), files.json_bytes(self._record))

    def _create(self, name: str) -> None:
        spec = SCHEMA[name]
        zarr.create_array(self._store, name=name, **schema.creation(spec, self.sizes, self._record["unit_images"]))

    def _forget(self, name: str) -> None:
        self._store.forget(name)
        self._opened.pop(name, None)

    def _files_of(self, names: Iterable[str]) -> list[Path]:
        """What there is of some arrays: a stage that was killed while it was placed may have left some."""
        return sorted(path for name in names for path in (self.path / name).glob("*"))

    def _make_folders(self) -> None:
        files.make_folder(self.path)
        files.make_folder(paths.parts_path(self.study, self.number))
        files.make_folder(paths.staging_path(self.study, self.number))

    def _clear_staging(self) -> None:
        """Remove what killed processes put; there is no other now."""
        folder = paths.staging_path(self.study, self.number)
        shutil.rmtree(folder, ignore_errors=True)
        files.make_folder(folder)

    @contextmanager
    def _staging(self, step: str) -> Iterator[Staging]:
        """Where the objects of a step go that are made while this is open."""
        with Staging(paths.staging_path(self.study, self.number), step, self._fence) as staging:
            self._store.put = lambda key, data: staging.put(self.path / key, data)
            yield staging

    def _put_at_once(self, key: str, data: memoryview) -> tuple[int, str]:
        files.make_folder((self.path / key).parent)
        files.put(self.path / key, data)
        return digest(data)

    def _names(self, *written: Written) -> list[str]:
        """Arrays of the table that the attempt began with, and that are written so."""
        return [name for name in self._record["arrays"] if name in SCHEMA and SCHEMA[name].written in written]

    def _array(self, name: str) -> AnyArray:
        if name not in self._opened:
            key = f"{name}/{METADATA}"
            if key not in self._store.objects:  # not made here
                self._store.know({key: (self.path / key).read_bytes()})
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

    def _gathered(self) -> dict[str, Any] | None:
        """The ack of the gathering, if everything that it names is there in its size."""
        return read_ack(paths.gathered_path(self.study, self.number), self.path)

    def _refuse_pending(self) -> None:
        if pending := self.pending():
            raise StoreError(
                f"{len(pending)} of {len(self.units)} units are not written yet; the first is {pending[0]}"
            )

    def _check_parts(self, staging: Staging, hold: Check) -> None:
        for unit in range(len(self.units)):
            ack, part = (
                paths.ack_path(self.study, self.number, unit),
                paths.part_path(self.study, self.number, unit),
            )
            if list(file_digest(part)) != json.loads(ack.read_bytes())["npz"]:
                hold()
                staging.place(without=[ack])
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
        specs = (SCHEMA[name] for name in names)
        return sum(math.prod(schema.shape(spec, self.sizes)) * np.dtype(spec.dtype).itemsize for spec in specs)

    def _root(self, attrs: Mapping[str, Any]) -> bytes:
        """The root's metadata with these attributes, and with the metadata of all arrays."""
        said = json.loads(files.json_bytes({**attrs, "headscope": {"schema": schema.VERSION}}))
        keys = [f"{name}/{METADATA}" for name in self.arrays]
        return root_metadata({key: (self.path / key).read_bytes() for key in keys}, said)

    def _objects(self) -> Noted:
        """All objects but the root, from the plan and the acks."""
        objects = noted(self._record["objects"])
        acks = [self._ack(unit) for unit in range(len(self.units))]
        for ack in (*acks, self._gathered(), *self._stages().values()):
            objects |= noted((ack or {"objects": {}})["objects"])
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


@contextmanager
def _unless_done(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was begun if it is not brought to its end, by Ctrl-C too; who began it never gets to hold it then."""
    try:
        yield
    except BaseException:  # Ctrl-C too: what was begun is undone, and the error goes on
        undo()
        raise


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpublished(study: Path, published: int | None, plan: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of the attempts that were begun with an equal plan and are newer than what is published."""
    wanted = json.loads(files.json_bytes(plan))
    for number in reversed(paths.attempt_numbers(study)):
        record = plan_record(study, number)
        if number <= (published or 0) or record is None or record["schema"] != schema.VERSION:
            continue
        if "facts" in record and record["plan"] == wanted:  # without, it was begun by Headscope 0.1, which had no queue
            yield number, record


def forget(study: Path, ours: Callable[[int, dict[str, Any]], bool]) -> None:
    """Remove attempts that are not published, and the study's folder if nothing else is in it. Harmless twice.

    Args:
        study: The study's folder.
        ours: Says of an attempt, by its number and what `start` was told of how it began, whether it is to go.
    Raises:
        StudyBusyError, NewerSchemaError: As `Attempt.start`.
    """
    if not study.is_dir():
        return
    lock = StudyLock(study)
    try:
        published = tidy(study)
        for number in paths.attempt_numbers(study):
            record = plan_record(study, number)
            if number != published and record is not None and ours(number, record.get("facts", {})):
                paths.remove_attempt(study, number)
        if [path.name for path in study.iterdir()] == [paths.lock_path(study).name]:
            paths.lock_path(study).unlink()
            study.rmdir()
    finally:
        lock.release()
