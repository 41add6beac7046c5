"""How long do names and maps of a study take beside its heads? Whole studies, each piece timed as it is computed."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring import Table
from benchmarks.studies import VARIABLE, photo_request, real_folder, real_photos
from jobs.requests import StudyRequest
from precompute.demo.model import WEIGHTS
from precompute.demo.pictures import write_picture_set
from store.settings import Settings
from workers.prepare import prepare
from workers.study import begin, do, steps

ALL_PHOTOS = 250


def stages_table() -> Table:
    """Time of the heads and of every stage of the demo's study, and of DeiT-tiny's on photos where there are any."""
    table = Table(
        "The stages of a study",
        ("study", "piece", "seconds", "of the heads'", "CPU seconds", "of the heads'"),
        notes=[
            "Target: all stages together take no longer than the heads. Of each study all pieces are of one run.",
            f"DeiT-tiny on {ALL_PHOTOS} photos: skipped where {VARIABLE} names no folder of them.",
        ],
    )
    with tempfile.TemporaryDirectory() as scratch:
        table.rows += _rows("demo", _demo_request(Path(scratch)), Path(scratch) / "demo")
        real = real_folder()
        if real is not None:
            request = photo_request(real, real_photos(real, ALL_PHOTOS), "stored", Path(scratch) / "deit")
            table.rows += _rows("DeiT-tiny", replace(request, skip=frozenset()), Path(scratch) / "deit")
    return table


def _demo_request(folder: Path) -> StudyRequest:
    write_picture_set(folder / "pictures")
    return StudyRequest(
        "headscope_demo",
        folder / "pictures" / "images",
        "demo",
        checkpoint=WEIGHTS,
        device="cpu",
        masks=folder / "pictures" / "masks",
    )


def _rows(study: str, request: StudyRequest, data: Path) -> list[tuple[str, ...]]:
    """The heads, each stage and all stages of a study; the model is open and the pictures are read before."""
    prepared = prepare(request, Settings(data=data), lambda *step: None)
    taken: dict[str, tuple[float, float]] = {}
    with begin(prepared) as attempt:
        for step in steps(prepared, attempt):
            name = "heads" if step.images else step.name
            wall, cpu = time.perf_counter(), time.process_time()
            do(step, prepared, attempt, lambda *step: None, lambda: None)
            before = taken.get(name, (0.0, 0.0))
            taken[name] = (before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu)
    heads = taken.pop("heads")
    stages = {name: taken[name] for name in taken if name not in ("gather", "publish")}
    together = (sum(wall for wall, _ in stages.values()), sum(cpu for _, cpu in stages.values()))
    return [
        (study, name, f"{wall:.1f}", f"{wall / heads[0]:.2f}", f"{cpu:.1f}", f"{cpu / heads[1]:.2f}")
        for name, (wall, cpu) in {"heads": heads, **stages, "**all stages**": together}.items()
    ]
