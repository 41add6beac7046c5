"""Who does a unit of a job? A module for each kind of job, and one for all that people ask for of a study.

They know torch, so they are imported when one is needed.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from jobs.ledger import Ledger
from jobs.requests import BULK, kinds, queue_of
from jobs.work import Lease
from store.settings import Settings
from workers.memory import keep_freed_memory

if TYPE_CHECKING:
    from workers.runner import Work

Doer = Callable[[Lease, "Work"], None]

# The modules whose `do` does the units of a kind.
DOERS = {
    "study": "workers.study_units",
    "price": "workers.price",
    "upload": "workers.upload",
    "image": "workers.image",
}
# The same of all analyses on request.
ON_REQUEST = "workers.derived"

# What processes are niced to. Studies give way to what a person waits for, and that to the page, which is drawn at the
# same time and, on the machine of one person, by the same CPU.
BULK_NICENESS = 19
INTERACTIVE_NICENESS = 10


def doer(kind: str) -> Doer:
    """What does the units of a kind of job."""
    do: Doer = import_module(DOERS.get(kind, ON_REQUEST)).do
    return do


def make_ready(settings: Settings, queue: str, ledger: Ledger) -> str:
    """Load what this process needs to compute for `queue`, so that no unit waits for it; the name of its device.

    The ledger is told which models there are: whoever asks for a job may have no timm to ask.
    """
    keep_freed_memory()
    import torch

    from precompute.names import supported_names

    if not torch.cuda.is_available():  # a GPU would wait for its CPU
        _give_way(queue)
    if queue == BULK and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // max(1, settings.bulk_workers)))
    for kind in kinds():
        if queue_of(kind) == queue:
            doer(kind)
    names = supported_names()
    if ledger.kept("models") != names:
        ledger.keep("models", names)
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _give_way(queue: str) -> None:
    """Leave the CPU to the page; for studies, run when no other process wants it, without even a slice of time.

    Threads that are started later do so too, and torch starts its own with the first unit.
    """
    os.nice(BULK_NICENESS if queue == BULK else INTERACTIVE_NICENESS)
    if queue == BULK and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
