"""What must a resumed run remember? The attempt's plan, and an ack for each unit and stage that is finished."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store import paths
from store.errors import DamagedError, StudyNotFoundError
from store.manifest import Manifest
from store.objects import fault

Noted = dict[str, tuple[int, str]]  # objects by name, as in store.objects.Objects


def noted(objects: Mapping[str, Any]) -> Noted:
    """Objects as they come back from JSON."""
    return {key: (size, sha256) for key, (size, sha256) in objects.items()}


def has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def plan_record(study: Path, number: int) -> dict[str, Any] | None:
    """What plan.json of an attempt holds; None if it cannot be read: the attempt is garbage."""
    try:
        record: dict[str, Any] = json.loads(paths.plan_path(study, number).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if paths.attempt_path(study, number).is_dir() else None


def start_is_there(study: Path, number: int, record: Mapping[str, Any], *, exactly: bool = True) -> bool:
    """Whether what the attempt began with is still as it was; unless `exactly`, whether it has the sizes it had.

    Of what it took over from a published study only the sizes are compared: it may be hundreds of gigabytes, each
    chunk has its checksum, and the manifest goes on naming the SHA-256 that was published.
    """
    root = paths.attempt_path(study, number)
    objects = noted(record["objects"])
    if record["extends"] or not exactly:
        return all(has_size(root / key, size) for key, (size, _) in objects.items())
    return all(fault(root / key, expected) is None for key, expected in objects.items())


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of JSON holds; None if it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found


def read_ack(path: Path, root: Path) -> dict[str, Any] | None:
    """The ack at `path`, if every object of the attempt in `root` that it names is there in its size."""
    try:
        ack: dict[str, Any] = json.loads(path.read_bytes())
        there = all(has_size(root / key, size) for key, (size, _) in ack["objects"].items())
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return ack if there else None


def published_number(study: Path) -> int | None:
    """Number of the published attempt, if there is one.

    Raises:
        DamagedError: Which it is is not known.
    """
    try:
        return Manifest.load(study).number
    except StudyNotFoundError:
        return None


def tidy(study: Path) -> int | None:
    """Remove attempts that can be neither read nor resumed: without a plan, or older than the published one.

    Returns the published attempt's number. The one published before it goes here and not in `publish`, so
    that those who have it open can read on until the study is written again.
    """
    try:
        published = published_number(study)
    except DamagedError:
        return None  # which attempt was published is not known, so none is garbage for sure
    for number in paths.attempt_numbers(study):
        if number == published:
            shutil.rmtree(paths.work_path(study, number), ignore_errors=True)
        elif number < (published or 0) or plan_record(study, number) is None:
            paths.remove_attempt(study, number)
    return published
