"""python -m benchmarks: measure, and write a table of Markdown."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.accuracy import accuracy_table, precision_table
from benchmarks.bars import bars_table
from benchmarks.computing import capture_table, chunk_table, importance_table, memory_table, modes_table
from benchmarks.density import density_table
from benchmarks.layouts import layout_table, placing_table, points_table
from benchmarks.load import load_table
from benchmarks.made_study import made_table
from benchmarks.maps import maps_table
from benchmarks.measuring import described
from benchmarks.prune import DEMO, prune_table
from benchmarks.selecting import selecting_table
from benchmarks.stages import stages_table
from benchmarks.storing import store_table
from benchmarks.synthetic import confusion_table
from benchmarks.workspace import workspace_table
from workers.memory import keep_freed_memory

TINY, SMALL, BASE = (f"{name}_patch16_224" for name in ("deit_tiny", "vit_small", "vit_base"))
BENCHMARKS = {
    "importance": lambda rounds: importance_table([TINY, SMALL, BASE], rounds),
    "modes": lambda rounds: modes_table([TINY, BASE], rounds),
    "capture": lambda rounds: capture_table([TINY, SMALL, BASE], rounds),
    "chunk": lambda rounds: chunk_table([TINY, SMALL], rounds),
    "memory": lambda rounds: memory_table([TINY, SMALL, BASE]),
    "store": store_table,
    "accuracy": lambda rounds: accuracy_table(),
    "precision": lambda rounds: precision_table(),
    "patterns": lambda rounds: confusion_table(),
    "layouts": lambda rounds: layout_table([20_000], [50_000], rounds),
    "points": lambda rounds: points_table([144_000]),
    "placing": lambda rounds: placing_table([(50_000, 200_000)]),
    "maps": lambda rounds: maps_table(),
    "stages": lambda rounds: stages_table(),
    "density": density_table,
    "prune": lambda rounds: prune_table(rounds, None, DEMO, beside=False),
    "bars": lambda rounds: bars_table(rounds, "", DEMO),
    "workspace": lambda rounds: workspace_table(rounds, "", DEMO),
    "selecting": lambda rounds: selecting_table(rounds, Path("data"), [DEMO]),
    "made": lambda rounds: made_table(250, Path("data"), "made-250"),
    "load": lambda rounds: load_table("", DEMO, Path("data"), 30, 120),
}
WHEN_NAMED = ("selecting", "made", "load")  # they need a data folder
ON_A_SERVER = ("bars", "workspace")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; all of them if none.")] = None,
    rounds: Annotated[int, typer.Option(help="How many times each variant is timed.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Torch threads; by default one a core.", show_default=False)] = 0,
    keep: Annotated[bool, typer.Option(help="Keep freed memory, as the workers do.")] = True,
    out: Annotated[Path | None, typer.Option(help="File for the tables too.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Of prune, selecting, made and load: a data folder.", show_default="one of its own; data"),
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            help="Of prune: a study in it; of selecting: several, with commas; of bars, workspace and load: one on the "
            "page."
        ),
    ] = DEMO,
    url: Annotated[
        str, typer.Option(help="Of bars, workspace and load: the page, from `headscope serve`.", show_default=False)
    ] = "",
    beside: Annotated[bool, typer.Option("--beside", help="Of prune: beside a running study too.")] = False,
    images: Annotated[int, typer.Option(help="Of made: images of the study.", min=1)] = 250,
    name: Annotated[str, typer.Option(help="Of made: name of the study.", show_default="made-IMAGES")] = "",
    users: Annotated[int, typer.Option(help="Of load: how many click.", min=1)] = 30,
    seconds: Annotated[float, typer.Option(help="Of load: for how long.", min=5)] = 120,
) -> None:
    """Measure Headscope against the plain ways of doing the same, side by side in one process."""
    names = names or [each for each in BENCHMARKS if each not in WHEN_NAMED and (each not in ON_A_SERVER or url)]
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if keep:
        keep_freed_memory()
    benchmarks = BENCHMARKS | {
        "prune": lambda rounds: prune_table(rounds, data, study, beside),
        "bars": lambda rounds: bars_table(rounds, url, study),
        "workspace": lambda rounds: workspace_table(rounds, url, study),
        "selecting": lambda rounds: selecting_table(rounds, data or Path("data"), study.split(",")),
        "made": lambda rounds: made_table(images, data or Path("data"), name or f"made-{images}"),
        "load": lambda rounds: load_table(url, study, data or Path("data"), users, seconds),
    }
    facts: list[str] = []
    texts: list[str] = []
    with described(facts, served=bool(url)):
        for each in names:
            texts.append(benchmarks[each](rounds).markdown())
            print(texts[-1], flush=True)
    facts.append(f"- `python -m benchmarks {shlex.join(sys.argv[1:])}`")
    print("\n".join(facts))
    if out is not None:
        out.write_text("\n".join([*facts, "", *texts]))


if __name__ == "__main__":
    typer.run(main)
