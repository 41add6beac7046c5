"""Is the worker of this machine there? Asked by a worker's container: `python -m workers.healthcheck QUEUE`."""

import platform
import sys

from jobs.ledger import Ledger
from store.settings import Settings

WITHIN = 45.0  # seconds; a worker says that it is there every few


def is_alive(ledger: Ledger, queue: str) -> bool:
    """Whether a worker of that queue on this machine said lately that it is there, under the name it has by default."""
    mine = f"{queue}-{platform.node()}-"
    return any(seen.queue == queue and seen.name.startswith(mine) for seen in ledger.workers(WITHIN))


if __name__ == "__main__":
    sys.exit(0 if is_alive(Ledger(Settings().ledger_url), sys.argv[1]) else 1)
