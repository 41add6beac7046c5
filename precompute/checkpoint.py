"""Which tensors are in this checkpoint? Asked of a throw-away process, which opens it, checks it and hands them over.

They come through a pipe and never as a file: that process may write none, nothing is left behind when it is killed, no
room on a disk is needed, and nobody can change or cut a file between its check and its use.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from analyses.vocabulary import WEIGHTS
from precompute import checkpoint_child as child
from precompute.errors import ModelError

PROGRAM = Path(child.__file__)

# A ViT-B of 346 MB takes 0.5 s. The wall's limit is for slow disks, and for processes that give way to others.
CPU_SECONDS, CPU_BYTES_A_SECOND = 5, 100e6
WALL_SECONDS, WALL_BYTES_A_SECOND = 60, 5e6

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_MOST_LINE = 32_768
GRACE_SECONDS = 2  # to end, once it has nothing more to say
BROKEN = "is an unsafe checkpoint: its reader no longer says what was agreed"


class ReaderStartError(OSError):
    """The process that reads checkpoints does not start; no fault of the checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and where in it they were found.

    Attributes:
        tensors: By the names that a timm model has: the common prefix is dropped.
        part: Dotted keys under which they lay ("state_dict_ema", "teacher"); None: the file is the state dict itself.
        parts: Every part of the file that is such weights, `part` among them.
        prefix: What was dropped before each name ("module.backbone."); "" if nothing was.
        beside: Names of the part's tensors that do not lie under the prefix and were left out, as DINO's projection.
    """

    tensors: dict[str, Tensor]
    part: str | None
    parts: tuple[str, ...]
    prefix: str
    beside: tuple[str, ...]


def read_checkpoint(file: Path, weights: str = "auto") -> Checkpoint:
    """The weights in a safetensors file or one of torch.save's, whatever it is called: dense, finite tensors.

    The file is opened and looked at in a process of its own, by `precompute.checkpoint_child`.

    Args:
        weights: Which, if there are several: "ema" those averaged over training (EMA, a teacher), "plain" the others,
            "auto" averaged ones if there are any, as timm's `load_checkpoint`.
    Raises:
        ModelError: no such file, another format, no such weights in it, or a tensor that is not plain numbers; names
            the rule and the tensor.
        ReaderStartError: that process does not start here.
    """
    if weights not in WEIGHTS:
        raise ModelError(f"weights is {weights!r}; give {', '.join(WEIGHTS)}")
    if not file.is_file():
        raise ModelError(f"no checkpoint at {file}; give a .safetensors or .pth file")
    try:
        opened = file.open("rb", buffering=0)
    except OSError as error:
        raise ModelError(f"{file.name} cannot be opened: {error.strerror}; make it readable to the workers") from error
    with opened:
        size = os.fstat(opened.fileno()).st_size
        with _reader(opened, file.suffix, size, weights) as reader:
            try:
                return _received(reader, size)
            except (child.RefusedError, ModelError) as error:
                raise ModelError(f"{file.name}{error}") from error.__cause__


def kind_of_weights(part: str | None, prefix: str) -> str:
    """Which to ask `read_checkpoint` for, to have those of this part and prefix again: "ema" or "plain"."""
    return "ema" if child.WeightSet(part, prefix).averaged else "plain"


@dataclass
class _Reader:
    """The process, and what it was not to exceed."""

    process: subprocess.Popen[bytes]
    cpu_seconds: int
    wall_seconds: float
    late: threading.Event = field(default_factory=threading.Event)

    @property
    def out(self) -> BinaryIO:
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]

    def kill_late(self) -> None:
        self.late.set()
        self.process.kill()

    def ended(self) -> child.RefusedError:
        """Why it ended before its answer did."""
        try:
            code = self.process.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its end of the pipe and lives on
            return child.RefusedError(BROKEN)
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if self.late.is_set():
            why = f"took more than {self.wall_seconds:.0f} s to read"
        elif how == "SIGXCPU":
            why = f"took more than {self.cpu_seconds} s of computing to read"
        elif how == "SIGKILL":
            why = "was not read to its end: its reader was killed (SIGKILL), as when a machine runs out of memory"
        else:
            why = f"is an unsafe checkpoint: it ended the process that read it ({how})"
        return child.RefusedError(why)


@contextlib.contextmanager
def _reader(opened: BinaryIO, suffix: str, size: int, weights: str) -> Iterator[_Reader]:
    """The process that reads the opened file, started and confined; it is gone afterwards.

    Raises:
        ReaderStartError
    """
    cpu_seconds = CPU_SECONDS + round(size / CPU_BYTES_A_SECOND)
    memory = child.MEMORY + 3 * size
    command = [sys.executable, "-I", "-B", str(PROGRAM), suffix, str(cpu_seconds), str(memory), weights]
    # One thread: a process with several cannot have a network of its own. What else is there finds Python's libraries.
    env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=opened, stdout=pipe, stderr=pipe, env=env, cwd=os.sep, start_new_session=True
    ) as process:
        reader = _Reader(process, cpu_seconds, WALL_SECONDS + size / WALL_BYTES_A_SECOND)
        clock = threading.Timer(reader.wall_seconds, reader.kill_late)
        clock.daemon = True
        clock.start()
        try:
            if reader.out.readline(_MOST_LINE) != b'{"ready": true}\n':
                process.kill()
                assert process.stderr is not None
                said = process.stderr.read(2000).decode(errors="replace").strip().splitlines()
                why = said[-1] if said else f"it ended with code {process.wait()}"
                raise ReaderStartError(f"the process that reads checkpoints does not start: {why}")
            yield reader
        finally:
            clock.cancel()
            process.kill()


def _received(reader: _Reader, size: int) -> Checkpoint:
    """What the process hands over. Even that is checked: a file may have taken it over.

    Raises:
        RefusedError, ModelError: It has ended, or refuses the file; what is said goes on after the file's name.
    """
    state: dict[str, Tensor] = {}
    beside: list[str] = []
    left = size
    while True:
        said = _line(reader)
        if "refused" in said:
            raise ModelError(str(said["refused"]))
        if "done" in said:
            return _checkpoint(state, beside, said["done"])
        if "beside" in said and len(beside) < child.MOST_TENSORS:
            beside.append(_text(said["beside"]))
            continue
        try:
            name, dtype, shape = _text(said["tensor"]), _DTYPES[said["dtype"]], [int(each) for each in said["shape"]]
            with torch.device("meta"):
                left -= torch.empty(shape, dtype=dtype).nbytes
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise child.RefusedError(BROKEN) from error
        if left < 0 or name in state or len(state) >= child.MOST_TENSORS:
            raise child.RefusedError("is an unsafe checkpoint: its reader hands over more than the file has")
        state[name] = torch.empty(shape, dtype=dtype)
        _fill(state[name], reader)


def _checkpoint(state: dict[str, Tensor], beside: list[str], where: Any) -> Checkpoint:
    try:
        part, parts, prefix = where["part"], where["parts"], where["prefix"]
        return Checkpoint(
            state,
            None if part is None else _text(part),
            tuple(_text(each) for each in parts),
            _text(prefix) if prefix != "" else "",
            tuple(beside),
        )
    except (KeyError, TypeError) as error:
        raise child.RefusedError(BROKEN) from error


def _text(said: object) -> str:
    """What a person may be shown."""
    if not isinstance(said, str) or not 0 < len(said) <= child.MOST_NAME or not said.isprintable():
        raise child.RefusedError(BROKEN)
    return said


def _line(reader: _Reader) -> dict[str, Any]:
    line = reader.out.readline(_MOST_LINE)
    if not line.endswith(b"\n") and len(line) < _MOST_LINE:
        raise reader.ended()
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _fill(tensor: Tensor, reader: _Reader) -> None:
    """The tensor's bytes from the pipe."""
    wanted = tensor.reshape(-1).view(torch.uint8).numpy().data
    at = 0
    while at < len(wanted):
        got = reader.out.readinto(wanted[at:])  # type: ignore[attr-defined]
        if not got:
            raise reader.ended()
        at += got
