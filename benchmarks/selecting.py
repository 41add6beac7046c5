"""What does a selection cost the server? Every drawing of the page, by gesture, in studies of different sizes."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring import Table
from dashboard.app import DRAWINGS
from dashboard.data import Shelf, StudyFacts, facts
from dashboard.routes import png, webp
from dashboard.selection import Selection, resolve
from store.study import open_published

# What is gestured, and the fields of the selection that follow.
GESTURES: dict[str, tuple[str, ...]] = {"image": ("image",), "head": ("layer", "head"), "set": ("images",)}


def selecting_table(rounds: int, data: Path, studies: list[str]) -> Table:
    """Medians of `rounds` images, heads and image sets, each new, in each of the studies of a data folder.

    Raises:
        StudyNotFoundError: There is no such study in the data folder.
    """
    found = [dict(_timed(rounds, data / "studies", name)) for name in studies]
    table = Table(
        "What a selection costs the server",
        ("what", *(f"{name}, ms" for name in studies), "times"),
        notes=[
            "Medians of one thread, a drawing alone; what is the same in all studies is flat. Not the figures' way to "
            "the browser, nor what the browser does with them.",
            "`first` is with nothing in memory, as after a start; the rest after that. Image, head and set are new to "
            f"the server each time. {rounds} of each.",
        ],
    )
    for what, first in found[0].items():
        cells = [each.get(what, float("nan")) for each in found]
        table.rows.append((what, *(f"{1e3 * seconds:.1f}" for seconds in cells), f"{cells[-1] / first:.1f}"))
    return table


def _timed(rounds: int, studies: Path, name: str) -> Iterator[tuple[str, float]]:
    """Seconds, by what they were spent on."""
    yield "open: manifest and metadata", _seconds(lambda: open_published(studies / name))
    shelf = Shelf(studies)
    known: StudyFacts = facts(shelf.open(name))
    yield "open: facts of the study", _seconds(lambda: facts(open_published(studies / name)))
    chosen, _ = resolve({}, known)
    firsts = {each: _seconds(lambda each=each: each.draw(known, chosen)) for each in DRAWINGS}
    yield "all drawings, first", sum(firsts.values())
    for gesture, fields in GESTURES.items():
        told = {each: [] for each in DRAWINGS if set(fields) & set(each.fields)}
        for number in range(rounds):
            after = _gestured(gesture, known, chosen, number + 1)
            for each, times in told.items():
                times.append(_seconds(lambda each=each, after=after: each.draw(known, after)))
        yield f"{gesture}: all drawings", statistics.median(map(sum, zip(*told.values(), strict=True)))
        for each, times in told.items():
            yield f"{gesture}: {each.outputs[-1].component_id.removesuffix('-reading')}", statistics.median(times)
    images = len(known.image_ids)
    for what, read in _routes(known).items():
        yield (
            what,
            statistics.median(_seconds(lambda n=n, read=read: read(n * images // (rounds + 1))) for n in range(rounds)),
        )


def _gestured(gesture: str, known: StudyFacts, chosen: Selection, number: int) -> Selection:
    """The selection after the gesture, another for each number; images and sets from all over the study."""
    match gesture:
        case "image":
            return replace(chosen, image=known.image_ids[number * 7919 % len(known.image_ids)])
        case "head":
            layer, head = divmod(number % (known.num_layers * known.num_heads), known.num_heads)
            return replace(chosen, layer=layer, head=head)
        case "set":
            return replace(chosen, images=f"p:0.{number:02}..0.9")
    raise ValueError(f"{gesture!r} is no gesture; there are {', '.join(GESTURES)}")


def _routes(known: StudyFacts) -> dict[str, Callable[[int], object]]:
    study, heads = known.study, known.num_heads
    return {
        "picture": lambda image: png(study, image),
        "thumbnail": lambda image: webp(study, image),
        "attention of a head": lambda image: study.attention(image, image % known.num_layers, image % heads),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
