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

from precompute import checkpoint_child as child
from precompute.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
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


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors or .pth file: dense, finite, no larger than their bytes.

    The file is opened and looked at in a process of its own, by `precompute.checkpoint_child`.

    Raises:
        ModelError: no such file, another format, or a tensor that is not plain numbers; names the rule and the tensor.
        ReaderStartError: that process does not start here.
    """
    if not file.is_file():
        raise ModelError(f"no checkpoint at {file}; give a .safetensors or .pth file")
    if file.suffix not in SUFFIXES:
        raise ModelError(f"{file.name} is neither .safetensors nor .pth; {child.CONVERT}")
    try:
        opened = file.open("rb", buffering=0)
    except OSError as error:
        raise ModelError(f"{file.name} cannot be opened: {error.strerror}; make it readable to the workers") from error
    with opened:
        size = os.fstat(opened.fileno()).st_size
        with _reader(opened, file.suffix, size) as reader:
            try:
                return _received(reader, size)
            except (child.RefusedError, ModelError) as error:
                raise ModelError(f"{file.name}{error}") from error.__cause__


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
def _reader(opened: BinaryIO, suffix: str, size: int) -> Iterator[_Reader]:
    """The process that reads the opened file, started and confined; it is gone afterwards.

    Raises:
        ReaderStartError
    """
    cpu_seconds = CPU_SECONDS + round(size / CPU_BYTES_A_SECOND)
    command = [sys.executable, "-I", "-B", str(PROGRAM), suffix, str(cpu_seconds), str(child.MEMORY + 3 * size)]
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


def _received(reader: _Reader, size: int) -> dict[str, Tensor]:
    """What the process hands over. Even that is checked: a file may have taken it over.

    Raises:
        RefusedError, ModelError: It has ended, or refuses the file; what is said goes on after the file's name.
    """
    state: dict[str, Tensor] = {}
    left = size
    while True:
        said = _line(reader)
        if "refused" in said:
            raise ModelError(str(said["refused"]))
        if "done" in said:
            return state
        try:
            name, dtype, shape = str(said["tensor"]), _DTYPES[said["dtype"]], [int(each) for each in said["shape"]]
            with torch.device("meta"):
                left -= torch.empty(shape, dtype=dtype).nbytes
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise child.RefusedError(BROKEN) from error
        if left < 0 or name in state or len(state) >= child.MOST_TENSORS:
            raise child.RefusedError("is an unsafe checkpoint: its reader hands over more than the file has")
        state[name] = torch.empty(shape, dtype=dtype)
        _fill(state[name], reader)


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
