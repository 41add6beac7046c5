"""Where does each thing of a study lie? Every path below the studies folder is built here."""

import re
import shutil
from pathlib import Path

STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
ATTEMPT_NAME = re.compile(r"attempt-([1-9][0-9]{0,8})")
UNIT_ACK = re.compile(r"unit-([0-9]{5,})\.json")
ANALYSIS_NAME = re.compile(r"[a-z0-9][a-z0-9_:-]{0,59}")
RESULT_KEY = re.compile(r"[0-9a-f]{64}")
STAGE_ACK = re.compile(rf"stage-({ANALYSIS_NAME.pattern})\.json")
PIECE_ACK = re.compile(r"([0-9]+-[0-9]+\.[0-9]+-[0-9]+)\.json")


class StudyNameError(ValueError):
    """It cannot be the name of a study."""


def study_path(studies: Path, name: str) -> Path:
    """The folder of study `name`.

    Raises:
        StudyNameError: The name is not one to 80 of a-z, 0-9, dot, underscore and hyphen, the first a letter or
            digit.
    """
    if STUDY_NAME.fullmatch(name) is None:
        raise StudyNameError(
            f"{name!r} is not a study name: use 1 to 80 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
        )
    return studies / name


def manifest_path(study: Path) -> Path:
    return study / "MANIFEST.json"


def lock_path(study: Path) -> Path:
    return study / "lock"


def derived_path(study: Path) -> Path:
    """What was computed of the published study on request: a folder an analysis, in it one a result."""
    return study / "derived"


def results_path(study: Path, analysis: str) -> Path:
    """The results of one analysis.

    Raises:
        ValueError: The analysis' name is not one to 60 of a-z, 0-9, hyphen, underscore and colon.
    """
    if ANALYSIS_NAME.fullmatch(analysis) is None:
        raise ValueError(f"{analysis!r} is not an analysis' name: use 1 to 60 of a-z, 0-9, '-', '_' and ':'")
    return derived_path(study) / analysis


def result_path(study: Path, analysis: str, key: str) -> Path:
    """One result: a Zarr group, with its manifest beside the arrays.

    Raises:
        ValueError: The key is not a SHA-256 in hexadecimal.
    """
    if RESULT_KEY.fullmatch(key) is None:
        raise ValueError(f"{key[:80]!r} is not a result's key: a SHA-256 in hexadecimal")
    return results_path(study, analysis) / key


def result_work_path(study: Path, analysis: str, key: str, job: str) -> Path:
    """What one job has of a result until that is published."""
    return results_path(study, analysis) / f"{key}.{job}.work"


def attempt_path(study: Path, number: int) -> Path:
    """The Zarr group of attempt `number`."""
    return study / f"attempt-{number}"


def work_path(study: Path, number: int) -> Path:
    """What attempt `number` must remember until it is published."""
    return study / f"attempt-{number}.work"


def plan_path(study: Path, number: int) -> Path:
    return work_path(study, number) / "plan.json"


def parts_path(study: Path, number: int) -> Path:
    return work_path(study, number) / "parts"


def staging_path(study: Path, number: int) -> Path:
    """What steps put before it is placed, each in a folder of its own."""
    return work_path(study, number) / "staging"


def part_path(study: Path, number: int, unit: int) -> Path:
    """Rows of the gathered arrays, of one unit."""
    return parts_path(study, number) / f"unit-{unit:05}.npz"


def ack_path(study: Path, number: int, unit: int) -> Path:
    """What one finished unit wrote; a unit without it is not finished."""
    return parts_path(study, number) / f"unit-{unit:05}.json"


def gathered_path(study: Path, number: int) -> Path:
    """What gathering wrote; while it is not there, the parts are still to be gathered."""
    return parts_path(study, number) / "gathered.json"


def stage_path(study: Path, number: int, stage: str) -> Path:
    """What one finished stage wrote; a stage without it is not finished.

    Raises:
        ValueError: The stage's name is not one to 60 of a-z, 0-9, hyphen, underscore and colon.
    """
    if ANALYSIS_NAME.fullmatch(stage) is None:
        raise ValueError(f"{stage!r} is not a stage's name: use 1 to 60 of a-z, 0-9, '-', '_' and ':'")
    return parts_path(study, number) / f"stage-{stage}.json"


def pieces_path(study: Path, number: int, stage: str) -> Path:
    """What finished pieces of a stage gave, until all of them are put together."""
    return parts_path(study, number) / f"pieces-{stage}"


def acked_pieces(study: Path, number: int, stage: str) -> list[str]:
    """Pieces of a stage with an ack, by name."""
    names = (PIECE_ACK.fullmatch(path.name) for path in pieces_path(study, number, stage).glob("*.json"))
    return sorted(name[1] for name in names if name)


def acked_stages(study: Path, number: int) -> list[str]:
    """Stages with an ack, by name."""
    names = (STAGE_ACK.fullmatch(path.name) for path in parts_path(study, number).glob("stage-*.json"))
    return sorted(name[1] for name in names if name)


def acked_units(study: Path, number: int) -> list[int]:
    """Units with an ack, ascending."""
    names = (UNIT_ACK.fullmatch(path.name) for path in parts_path(study, number).glob("unit-*.json"))
    return sorted(int(name[1]) for name in names if name)


def attempt_numbers(study: Path) -> list[int]:
    """Numbers of the attempts that have a folder of either kind, ascending."""
    names = (ATTEMPT_NAME.fullmatch(path.name.removesuffix(".work")) for path in study.glob("attempt-*"))
    return sorted({int(name[1]) for name in names if name})


def remove_attempt(study: Path, number: int) -> None:
    """Remove an attempt, its plan first: what is left by a crash in between is garbage."""
    plan_path(study, number).unlink(missing_ok=True)
    for folder in (work_path(study, number), attempt_path(study, number)):
        if folder.exists():
            shutil.rmtree(folder)
