"""Does a study survive everything at once? Workers killed, the queue wiped, the server killed, the same manifest.

python -m tests.chaos --kills 30 --wipes 2 --restarts 1 MODEL IMAGES [--checkpoint FILE] [--data FOLDER]

It computes the study undisturbed by `headscope precompute`, then by the queue of `headscope serve` with two workers
while it kills them with SIGKILL: now the computing child, now its parent, now both at once, at random moments.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
from sqlalchemy import create_engine, func, select

from jobs.ledger import Ledger
from jobs.tables import attempts, units
from jobs.work import ENDED
from store.manifest import Manifest, verify
from store.settings import Settings

COMMAND = (sys.executable, "-m", "headscope")


@dataclass(frozen=True)
class Outcome:
    """What came of the disturbed study.

    Attributes:
        undisturbed, disturbed: Content hashes of the two manifests.
        outcomes: How many attempts ended in which way.
        doubled: Units that were done more than once.
        left: Files that belong to nothing, in the study's folder.
        seconds: From the first submission to the end.
    """

    undisturbed: str
    disturbed: str
    kills: int
    wipes: int
    restarts: int
    outcomes: dict[str, int]
    doubled: int
    damage: int
    left: list[str]
    seconds: float


def chaos(
    study: list[str], name: str, data: Path, *, kills: int, wipes: int, restarts: int, every: float, seed: int
) -> Outcome:
    """Compute the study twice, undisturbed and disturbed.

    Args:
        study: Arguments of `headscope precompute`, but for the name and the data folder.
        data: An empty folder.
        every: Mean seconds between two kills.
    """
    rng = random.Random(seed)
    environment = os.environ | {"HEADSCOPE_BULK_WORKERS": "2", "OMP_NUM_THREADS": "1", "HEADSCOPE_PORT": str(_port())}
    subprocess.run(
        [*COMMAND, "precompute", *study, "--name", name, "--data", data / "calm"], env=environment, check=True
    )
    settings = Settings(data=data / "chaos")
    settings.data.mkdir(parents=True)
    began = time.monotonic()
    with _server(settings, environment) as server:
        said = subprocess.run(
            [*COMMAND, "submit", *study, "--name", name, "--data", settings.data],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        job = said.stdout.strip()
        ledger = Ledger(settings.ledger_url)
        todo = _shuffled(rng, kills, wipes, restarts)
        done: Counter[str] = Counter()
        while ledger.job(job).state not in ENDED:
            time.sleep(rng.uniform(0.5, 1.5) * every if todo else 0.2)
            if ledger.job(job).state not in ENDED and todo and _act(todo[0], server, settings, environment, rng):
                done[todo.pop(0)] += 1
        ended = ledger.job(job)
        if ended.state != "done":
            raise RuntimeError(f"the job {ended.state}: {ended.cause}\n{ended.log}")
    folder = settings.studies / name
    manifest = Manifest.load(folder)
    outcomes, doubled = _attempts(settings.ledger_url)
    return Outcome(
        undisturbed=Manifest.load(data / "calm" / "studies" / name).content,
        disturbed=manifest.content,
        kills=done["kill"],
        wipes=done["wipe"],
        restarts=done["restart"],
        outcomes=outcomes,
        doubled=doubled,
        damage=len(verify(folder)),
        left=sorted(
            path.name for path in folder.iterdir() if path.name not in (manifest.attempt, "MANIFEST.json", "lock")
        ),
        seconds=time.monotonic() - began,
    )


def _shuffled(rng: random.Random, kills: int, wipes: int, restarts: int) -> list[str]:
    """What is done, in which order: the wipes and restarts somewhere among the kills."""
    todo = ["kill"] * kills
    for each in ["wipe"] * wipes + ["restart"] * restarts:
        todo.insert(rng.randrange(1, len(todo)), each)
    return todo


def _act(what: str, server: "_Server", settings: Settings, environment: dict[str, str], rng: random.Random) -> bool:
    """Do it; False if there was nothing to do it to."""
    if what == "wipe":
        try:
            redis.Redis(unix_socket_path=str(settings.broker_socket)).flushall()
        except redis.ConnectionError:  # a server that has just been started again has none yet
            return False
        return True
    if what == "restart":
        server.process.kill()
        server.process.wait()
        server.start(settings, environment)
        return True
    mains = [child for child in server.process_children() if "bulk" in " ".join(_command(child))]
    computing = [(main, main.children(recursive=True)) for main in mains]
    computing = [(main, children) for main, children in computing if children]
    if not computing:
        return False
    main, children = rng.choice(computing)
    victims = rng.choice([children, [main], [main, *children]])
    for victim in victims:
        with _gone_already():
            victim.send_signal(signal.SIGKILL)
    return True


@contextmanager
def _gone_already() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


class _Server:
    """`headscope serve`, until it is killed."""

    def start(self, settings: Settings, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen([*COMMAND, "serve", "--data", settings.data], env=environment)

    def process_children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []


@contextmanager
def _server(settings: Settings, environment: dict[str, str]) -> Iterator[_Server]:
    server = _Server()
    server.start(settings, environment)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=60)


def _attempts(url: str) -> tuple[dict[str, int], int]:
    """How many attempts ended in which way, and how many units were done twice."""
    with create_engine(url).connect() as conn:
        ended = conn.execute(select(attempts.c.outcome, func.count()).group_by(attempts.c.outcome)).all()
        of_unit = (attempts.c.job, attempts.c.phase, attempts.c.number)
        done = select(func.count()).where(attempts.c.outcome == "done").group_by(*of_unit)
        twice = sum(count > 1 for count in conn.scalars(done))
        missing = conn.scalar(select(func.count()).select_from(units).where(units.c.state != "done")) or 0
    return {str(outcome): count for outcome, count in ended}, twice + missing


def _port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Run it once, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--wipes", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    study = [given.model, str(given.images), *(["--checkpoint", given.checkpoint] if given.checkpoint else [])]
    data = given.data or Path(tempfile.mkdtemp(prefix="headscope-chaos-"))
    outcome = chaos(
        study, "chaos", data, kills=given.kills, wipes=given.wipes, restarts=given.restarts,
        every=given.every, seed=given.seed,
    )  # fmt: skip
    for name, value in vars(outcome).items():
        print(f"{name:<12} {value}")  # noqa: T201
    same = outcome.undisturbed == outcome.disturbed and not outcome.doubled and not outcome.damage and not outcome.left
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
