"""What makes a study published? One file, written last, with every object's name, size and SHA-256."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

from store import files, schema
from store.errors import DamagedError, NewerSchemaError, StudyNotFoundError
from store.objects import Objects, fault
from store.paths import ATTEMPT_NAME, manifest_path


def content_hash(objects: Objects) -> str:
    """SHA-256 over a line "name size sha256" for each object, sorted by name: equal studies, equal hash."""
    lines = (f"{key} {size} {sha256}\n" for key, (size, sha256) in sorted(objects.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What was published.

    Attributes:
        study: The study's name when it was published.
        attempt: Name of the folder with the Zarr group.
        objects: Every object of the group, with its size and SHA-256.
        headscope: Version that wrote it.
        packages: Versions of the packages that computed it.
        run: Facts of this one run, as times; no part of `content`.
        schema_version: Version of the layout on disk.
    """

    study: str
    attempt: str
    objects: Objects = field(repr=False)
    headscope: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    schema_version: int = schema.VERSION

    @cached_property
    def content(self) -> str:
        """The manifest hash: of the objects alone, so that equal results of two runs have an equal one."""
        return content_hash(self.objects)

    @property
    def number(self) -> int:
        """Number of the attempt."""
        return int(self.attempt.removeprefix("attempt-"))

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(size for size, _ in self.objects.values())

    def to_bytes(self) -> bytes:
        """The file's text: JSON, sealed by the SHA-256 of everything else in it."""
        body: dict[str, Any] = {
            "headscope": {"schema": self.schema_version, "version": self.headscope},
            "study": self.study,
            "attempt": self.attempt,
            "content": self.content,
            "packages": self.packages,
            "run": self.run,
            "objects": {key: list(value) for key, value in self.objects.items()},
        }
        return json.dumps(body | {"seal": _seal(body)}, indent=1, ensure_ascii=False, allow_nan=False).encode()

    def publish(self, study: Path) -> None:
        """Make it the manifest of `study`. All objects must be on the disk before."""
        files.put_now(manifest_path(study), self.to_bytes())

    @staticmethod
    def is_group(name: str) -> bool:
        """Whether the group of what was published may be in a folder of that name."""
        return ATTEMPT_NAME.fullmatch(name) is not None

    @staticmethod
    def called(folder: Path) -> str:
        """What messages call what is published in `folder`."""
        return f"study {folder.name}"

    @classmethod
    def load(cls, study: Path) -> Self:
        """The manifest of the study in folder `study`.

        Raises:
            StudyNotFoundError: There is none: nothing is published there.
            NewerSchemaError: A newer Headscope wrote it.
            DamagedError: It was cut short or edited.
        """
        path = manifest_path(study)
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise StudyNotFoundError(f"no published study at {study}") from None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes, path: Path) -> Self:
        """The manifest of which `text` is the file at `path`, wherever that comes from.

        Raises:
            NewerSchemaError, DamagedError: As `load`.
        """
        try:
            body = json.loads(text)
            about = body["headscope"]
            version, made_by = int(about["schema"]), str(about["version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise cls._damaged(path, "cannot be read") from error
        if version > schema.VERSION:
            raise NewerSchemaError(
                f"{cls.called(path.parent)} was made by Headscope {made_by} in schema {version}, but this "
                f"Headscope reads up to schema {schema.VERSION}; upgrade to {made_by} or newer"
            )
        try:
            if body.pop("seal") != _seal(body):
                raise cls._damaged(path, "was changed after it was published")
            objects = {str(key): (int(size), str(sha)) for key, (size, sha) in body["objects"].items()}
            found = cls(body["study"], body["attempt"], objects, made_by, body["packages"], body["run"], version)
            if body["content"] != found.content:
                raise cls._damaged(path, "states another content hash than its objects have")
            words, facts = (found.study, found.attempt), (found.packages, found.run)
            if not all(isinstance(each, str) for each in words) or not all(isinstance(each, dict) for each in facts):
                raise cls._damaged(path, "is not laid out as a manifest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise cls._damaged(path, "is not laid out as a manifest") from error
        if not cls.is_group(found.attempt) or not all(map(_is_plain, objects)):
            raise cls._damaged(path, "names files outside the study")
        return found

    @classmethod
    def _damaged(cls, path: Path, what: str) -> DamagedError:
        said = f"{path} {what}, so nothing vouches for the {cls.called(path.parent)}; compute it again"
        return DamagedError(said, [path.name])


def _seal(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _is_plain(key: str) -> bool:
    path = PurePosixPath(key)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in key


@dataclass(frozen=True)
class Damage:
    """One object that is not as published: its name in the attempt's folder, and what is wrong with it."""

    object: str
    problem: str


def verify(study: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Damage]:
    """Compare every object of the published study with its manifest, and list what differs, by name.

    Args:
        study: The study's folder.
        progress: Called with the bytes compared and the bytes of all, after each object.
    Raises:
        StudyNotFoundError, NewerSchemaError, DamagedError: As Manifest.load.
    """
    manifest = Manifest.load(study)
    return differences(study / manifest.attempt, manifest, progress)


def differences(
    root: Path, manifest: Manifest, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Damage]:
    """What of the group at `root` is not as its manifest says, by name; `progress` as of `verify`."""
    damages, done, total = [], 0, manifest.size
    for key, expected in manifest.objects.items():
        problem = fault(root / key, expected)
        if problem:
            damages.append(Damage(key, problem))
        done += expected[0]
        progress(done, total)
    beside = {manifest_path(root).name} if manifest.attempt == "." else set()
    damages += [Damage(key, "not in the manifest") for key in strays(root, manifest.objects) if key not in beside]
    return sorted(damages, key=lambda damage: damage.object)


def strays(root: Path, known: Iterable[str]) -> list[str]:
    """Files below `root` that are none of `known`, sorted."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    return sorted(set(found) - set(known))
