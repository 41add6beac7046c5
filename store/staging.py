"""How does a step of an attempt become real at once, though another process may have taken it over? By renames.

A step puts its files into a folder of its own, named after the step and the fencing number of who does it. Placing
moves them, one by one, to where they belong; what is to go is moved into that folder. So whoever takes the step over
renames the folder of the one before, and from then on that one can neither place a file nor remove one, wherever it was
stopped: even between its fence check and its next rename.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from store import failpoints, files
from store.errors import LostLeaseError
from store.objects import digest

TAKEN = "taken"


def nothing() -> None:
    """The fence check of a process that has the study for itself."""


class Staging:
    """The files of one step, until they are placed. On leaving, what was not placed is removed."""

    def __init__(self, stagings: Path, step: str, fence: int) -> None:
        """Take the step over from those with a lower fencing number.

        Args:
            stagings: The folder of all of an attempt's; it is there while the attempt is being written.
        """
        self._step = step
        self._fence = fence
        self._folder = stagings / f"{step}.{fence}"
        self._staged: list[tuple[Path, Path]] = []  # where it is, and where it belongs
        self._moved = 0

    def __enter__(self) -> Self:
        for earlier in sorted(self._folder.parent.glob(f"{self._step}.*")):
            number = earlier.name.removeprefix(f"{self._step}.")
            if number.isdecimal() and int(number) <= self._fence:
                _take_over(earlier)
            elif number.endswith(TAKEN):
                shutil.rmtree(earlier, ignore_errors=True)
        with self._ours():
            self._folder.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, path: Path, data: bytes | memoryview) -> tuple[int, str]:
        """Have `data` become the file at `path`; return its size and SHA-256. It is flushed to the disk."""
        staged = self._folder / f"{self._moved}-{len(self._staged)}"
        with self._ours():
            files.put(staged, data)
        self._staged.append((staged, path))
        return digest(data)

    def hold(self, check: Callable[[], None]) -> None:
        """Pass the fence check: it raises if the step is another process's now."""
        check()
        failpoints.hit("after-hold")

    def place(self, without: Iterable[Path] = ()) -> None:
        """Remove what is there of `without`, then move everything put so far to its place, flushed to the disk.

        Raises:
            LostLeaseError: The step was taken over, or the attempt was published; the rest is not moved.
        """
        with self._ours():
            self._move([(path, self._folder / f"without-{self._moved}-{n}") for n, path in enumerate(without)])
            self._move(self._staged)
        self._staged = []
        self._moved += 1

    def _move(self, moves: Iterable[tuple[Path, Path]]) -> None:
        folders = set()
        for number, (source, target) in enumerate((s, t) for s, t in moves if s.parent == self._folder or s.exists()):
            if target.parent != self._folder:
                files.make_folder(target.parent)
            if number == 1:
                failpoints.hit("half-placed")
            source.replace(target)
            folders |= {source.parent, target.parent} - {self._folder}
        for folder in sorted(folders):
            files.sync_folder(folder)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if self._folder.is_dir():
                raise
            raise LostLeaseError(
                f"{self._step} was taken over by another process, or the attempt was published or discarded meanwhile; "
                "nothing more of it is written here"
            ) from error


def _take_over(earlier: Path) -> None:
    taken = earlier.with_name(f"{earlier.name}.{TAKEN}")
    try:
        earlier.rename(taken)  # at once: nothing of it can be placed any more, and nothing be added
    except FileNotFoundError:
        return  # its owner was faster to remove it
    shutil.rmtree(taken, ignore_errors=True)
