"""Which tensors are in this file? The program of a throw-away process: what a hostile file does, it does to that alone.

`precompute.checkpoint` runs this file with the checkpoint as standard input. It takes nothing from the rest of
Headscope and nothing from torch: a pickle is read by Python's own reader with a table of the few names that a state
dict needs, so nothing that a file names is looked up, and the process needs 0.1 s and 30 MB, where torch needs 2 s
and 540 MB. What lies beside the weights (arguments, epochs, optimizers) becomes stand-ins that hold and do nothing.

Tensors leave through standard output, checked: each a line of JSON, then its bytes. A line names each tensor that is
left out. The last line says under which keys and which prefix the weights were found, or what is refused.

Before the file is looked at, `confine` takes away from the process:

| what | by what | where |
|---|---|---|
| memory beyond MEMORY and the file three times | a limit of addresses | Linux |
| CPU time beyond what its size calls for, memory dumps | limits of the system | Unix |
| files, sockets and pipes: no more can be opened, none written | limits of 0 open and 0 bytes | Unix |
| processes and threads | a limit of 0 | Unix; root is exempt |
| rights by set-uid programs | no_new_privs | Linux |
| the network | a network of its own, empty | Linux, where user namespaces are allowed (not in most containers) |
| paths to open, cut or remove; TCP; signals to other processes | Landlock | Linux 5.13; TCP 6.7; signals 6.12 |
| Python's own ways to all of these, and imports | an audit hook that refuses what it does not know | everywhere |

On Windows that hook, the process and its time limit are all there is.
"""

import contextlib
import ctypes
import encodings.cp437  # noqa: F401  (of names in zip archives; later it could not be imported any more)
import itertools
import json
import math
import os
import pickle
import signal
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, TypeVar

import numpy as np

if sys.platform != "win32":
    import resource

# A header larger than this describes no ViT: 500,000 empty tensors cost 11 s and 442 MB to read.
MOST_HEADER_BYTES = 4 << 20
MOST_TENSORS = 10_000
MOST_NAME = 200
MOST_DIMENSIONS = 8
MOST_CLASSES = 1_000  # that a file names; a Lightning checkpoint with its configuration names 50
MOST_TABLES = 1_000  # with names, to a depth of two
MOST_KEYS = 12  # named in a refusal
MEMORY = 256 << 20  # for the header; 10,000 tensors take 30 MB
CHUNK = 1 << 22  # elements looked at together

# safetensors' names of the types that are taken; NumPy has no bfloat16, so its bits are looked at.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U8": "<u1", "BOOL": "|u1",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip

# What can be done about a file that is refused.
SAVE = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
CONVERT = f"convert it to safetensors: load it where you trust it, then {SAVE}"
AGAIN = f"write it again with {SAVE}"
COPY = "copy it again"

# How a file begins, and what to say of it.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
_TORCH_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the number that torch.save began with before 1.6
_OTHERS = (
    (0, b"version https://git-lfs", "is a Git LFS pointer and not the file itself", "run `git lfs pull`"),
    (257, b"ustar", "is a tar archive, which is not read", CONVERT),
    (0, b"\x1f\x8b", "is a gzip archive, which is not read", "unpack it"),
    (0, b"\x89HDF", "is an HDF5 file, which is not read", CONVERT),
    (0, b"GGUF", "is a GGUF file, which is not read", CONVERT),
)

# What the audit hook lets pass: all that reading needs once everything is imported.
_HARMLESS = {"pickle.find_class"}


class RefusedError(Exception):
    """The file is no checkpoint to be used: why, going on after the file's name, and what can be done about it."""

    def __init__(self, why: str, step: str = CONVERT) -> None:
        super().__init__(f" {why}; {step}")


class BadTensorError(RefusedError):
    """One tensor is at fault."""

    def __init__(self, name: str, why: str, step: str = AGAIN) -> None:
        Exception.__init__(self, f": tensor {name!r} {why}; {step}")


class UnsoundError(RefusedError):
    """It is no safetensors file after all, or a false one."""

    def __init__(self, why: str) -> None:
        super().__init__(f"is not a sound safetensors file: {why}", AGAIN)


# ---- the process


def confine(cpu_seconds: int, memory: int) -> None:
    """Take from this process all but computing and the files it has open, as far as the system knows how to.

    Args:
        cpu_seconds: After which it is ended.
        memory: Bytes of addresses that it may have beyond those it has.
    """
    limits = {"CORE": 0, "FSIZE": 0, "NPROC": 0, "CPU": cpu_seconds, "NOFILE": 0}
    if sys.platform == "linux":
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123
            limits["AS"] = int(statm.read().split()[0]) * resource.getpagesize() + memory
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER, CLONE_NEWNET; a refusal leaves the network to the others
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: nobody would read the answer
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        _landlock(libc)
    if sys.platform != "win32":
        for name, most in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            if name != "CPU":  # of which the hard limit, a second later, kills without saying why
                hard = most
            with contextlib.nullcontext() if sys.platform == "linux" else contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (most, hard))


def refuse_all_else() -> None:
    """Have Python refuse every audited act that reading a checkpoint has no need of, from now on."""

    def hook(event: str, _: object) -> None:
        if event not in _HARMLESS:
            raise RefusedError(f"is an unsafe checkpoint: reading it led to {event!r}, which was not done")

    sys.addaudithook(hook)


def _landlock(libc: ctypes.CDLL) -> None:
    """No path can be opened, changed or run, no TCP used and no other process signalled; what the kernel knows of it.

    https://docs.kernel.org/userspace-api/landlock.html
    """
    create, restrict = 444, 446  # of linux/landlock.h, the same on every processor
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return
    files = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # rights there are
    rights = (ctypes.c_uint64 * 3)((1 << files) - 1, 0b11, 0b11)  # all of files, of TCP, of signals and sockets
    known = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(create, rights, known, 0)
    libc.syscall(restrict, ruleset, 0)
    os.close(ruleset)


# ---- what is in the file


@dataclass(frozen=True)
class Found:
    """A tensor that is dense, and how to have its values."""

    dtype: str  # of DTYPES
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class Contents:
    """The weights of a file, by the names that a timm model has, and where they were found.

    Attributes:
        tensors: Without `prefix` before their names.
        part: Dotted keys under which they lie; None if the file is the state dict itself.
        parts: All parts of the file that are such weights.
        prefix: What stood before each name.
        beside: Names of tensors of the part that do not lie under the prefix.
    """

    tensors: dict[str, Found]
    part: str | None
    parts: tuple[str, ...]
    prefix: str
    beside: tuple[str, ...]


def contents_of(file: BinaryIO, size: int, suffix: str, weights: str) -> Contents:
    """The weights, told by what the file is and not by what it is called.

    Args:
        weights: Which, if there are several: "auto", "ema" or "plain".
    Raises:
        RefusedError: It is no checkpoint, or not a safe one, or has no such weights.
    """
    head = file.read(512)
    if not head:
        raise RefusedError("is empty (0 bytes)", COPY)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MOST_HEADER_BYTES:
        found = _of_safetensors(file, size, weights)  # asked first: its length may begin like another format
    else:
        for at, magic, why, step in _OTHERS:
            if head.startswith(magic, at):
                raise RefusedError(why, step)
        kind = "a zip archive" if head.startswith(ZIP) else "a pickle" if head.startswith(PICKLE) else None
        if kind and suffix == ".safetensors":
            raise RefusedError(f"is an unsafe checkpoint: it is called .safetensors and is {kind}")
        if kind == "a pickle":
            if _TORCH_LEGACY in head[:16]:
                raise RefusedError("is a checkpoint in the format before torch 1.6, which is not read")
            raise RefusedError("is an unsafe checkpoint: a raw pickle, which could run any program")
        if not kind and suffix != ".safetensors":
            begins = head[:8].hex(" ")
            raise RefusedError(f"begins with {begins}, as neither torch's archives nor safetensors files do")
        found = (_of_archive if kind else _of_safetensors)(file, size, weights)
    together = sum(each.nbytes for each in found.tensors.values())
    if together > size:
        raise RefusedError(
            f"has tensors of {together} bytes and is {size}: some share their values", "save a clone of each tensor"
        )
    return found


def checked(name: str, found: Found) -> np.ndarray:
    """The values, which are numbers.

    Raises:
        RefusedError: Some are not.
    """
    values = found.values()
    for start in range(0, values.size, CHUNK):
        part = values.reshape(-1)[start : start + CHUNK]
        if found.dtype == "BF16":
            finite = (part & 0x7F80) != 0x7F80
        elif found.dtype.startswith("F"):
            finite = np.isfinite(part)
        elif found.dtype == "BOOL":
            finite = part <= 1
        else:
            break
        if not finite.all():
            what = "a value that is neither true nor false" if found.dtype == "BOOL" else "NaN or Inf"
            raise BadTensorError(name, f"has {what}; nothing computed from it would be a number", "give whole weights")
    return values


def _printable(name: str) -> None:
    if not 0 < len(name) <= MOST_NAME or not name.isprintable():
        raise BadTensorError(name[:40], f"is not called by 1 to {MOST_NAME} printable characters")


def _shape(name: str, given: object) -> tuple[int, ...]:
    dims = tuple(given) if isinstance(given, list | tuple) else (None,)
    if len(dims) > MOST_DIMENSIONS or not all(type(each) is int and 0 <= each < 1 << 40 for each in dims):
        right = f"up to {MOST_DIMENSIONS} whole numbers from 0 on"
        raise BadTensorError(name, f"has a false shape or stride, {str(given)[:60]}; right is {right}")
    return dims


def _dtype(name: str, given: object) -> str:
    if not isinstance(given, str) or given not in DTYPES:
        raise BadTensorError(name, f"has dtype {str(given)[:20]!r}; the dtypes read are {', '.join(DTYPES)}", CONVERT)
    return given


# ---- which weights

# Names that every ViT of timm's has: what stands before them is a prefix, as `module.` and `model.backbone.`
ANCHORS = ("patch_embed.proj.weight", "blocks.0.norm1.weight")

# Parts of a file and prefixes are of averaged weights (EMA) if their names have one of these words. What is averaged to
# be used comes first, as in timm's load_checkpoint; what is averaged to be a target of training comes last.
AVERAGES, TARGETS = {"ema", "teacher"}, {"momentum", "target"}
# Among several of a kind: the first of these, then in the order of the file.
KEYS = (
    *("state_dict_ema", "model_ema", "teacher"),
    *("state_dict", "model", "model_state_dict", "net", "weights", "module", "student"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class WeightSet:
    """One set of weights in a file: those whose names begin with `prefix` in one part of it."""

    part: str | None
    prefix: str

    @property
    def _words(self) -> set[str]:
        apart = (each if each.isalnum() else " " for each in f"{self.part or ''} {self.prefix}".lower())
        return set("".join(apart).split())

    @property
    def averaged(self) -> bool:
        return bool(self._words & (AVERAGES | TARGETS))

    @property
    def rank(self) -> tuple[int, int]:
        """Lower is taken first."""
        kind = 0 if self._words & AVERAGES else 2 if self._words & TARGETS else 1
        keys = [KEYS.index(key) for key in (self.part or "").split(".") if key in KEYS]
        return kind, min(keys, default=len(KEYS))

    def __str__(self) -> str:
        where = f"under {self.part!r}" if self.part else "as the file itself"
        return f"{where}, with {self.prefix[:80]!r} before each name" if self.prefix else where


def prefixes_of(names: Collection[str]) -> list[str]:
    """What stands before the names of each of timm's ViTs among these names; empty if there is none."""
    for anchor in ANCHORS:
        found = [name.removesuffix(anchor) for name in names if name == anchor or name.endswith(f".{anchor}")]
        if found:
            return [each for each in found if each + ANCHORS[1] in names] or found
    return []


def chosen(parts: Mapping[str | None, dict[str, T]], weights: str) -> tuple[WeightSet, dict[str, T], list[str]]:
    """The set of weights that is meant, its tensors without their prefix, and names of the others beside them.

    Raises:
        RefusedError: There is none of that kind, or several that nothing tells apart.
    """
    prefixes = {part: prefixes_of(state) for part, state in parts.items()}
    sets = [WeightSet(part, prefix) for part, several in prefixes.items() for prefix in several or [""]]
    of_kind = sets if weights == "auto" else [each for each in sets if each.averaged == (weights == "ema")]
    if not of_kind:
        right, other = ("EMA", "plain") if weights == "ema" else ("plain", "ema")
        there = " and ".join(map(str, sets[:MOST_KEYS]))
        raise RefusedError(
            f"has no {right} weights; its weights lie {there}", f"give --weights {other}, or leave it out"
        )
    best = min(of_kind, key=lambda each: each.rank)
    rivals = [each for each in of_kind if each.part == best.part and each.rank == best.rank]
    if len(rivals) > 1:
        names = ", ".join(repr(each.prefix[:80]) for each in rivals[:MOST_KEYS])
        why = f"has {len(rivals)} sets of weights side by side, whose names begin with {names}"
        raise RefusedError(why, "save the state dict of the one that is meant")
    state = parts[best.part]
    others = tuple(each for each in prefixes[best.part] if len(each) > len(best.prefix))
    inside = {name for name in state if name.startswith(best.prefix) and not name.startswith(others)}
    taken = {name.removeprefix(best.prefix): tensor for name, tensor in state.items() if name in inside}
    return best, taken, [name for name in state if name not in inside]


# ---- safetensors: https://github.com/huggingface/safetensors#format


def _of_safetensors(file: BinaryIO, size: int, weights: str) -> Contents:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
    if not 2 <= length <= MOST_HEADER_BYTES:
        raise UnsoundError(f"its header says {length} bytes; a ViT's has 2 to {MOST_HEADER_BYTES}")
    room = size - 8 - length
    if room < 0:
        raise UnsoundError(f"its header says {length} bytes and {size - 8} follow")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UnsoundError(f"its header is no JSON ({_short(error)})") from error
    if not isinstance(header, dict):
        raise UnsoundError("its header is no table of tensors")
    header.pop("__metadata__", None)
    _few(len(header))
    found: dict[str, Found] = {}
    ends = []
    for name, said in header.items():
        _printable(name)
        if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
            raise BadTensorError(name, "is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = _dtype(name, said["dtype"]), _shape(name, said["shape"]), said["data_offsets"]
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int for at in offsets):
            raise BadTensorError(name, f"has false offsets, {str(offsets)[:60]}; they are two whole numbers")
        begin, end = offsets
        if not 0 <= begin <= end <= room:
            where = f"{str(begin)[:20]} to {str(end)[:20]}"
            raise BadTensorError(name, f"is said to lie at bytes {where}; the file has {room} bytes of tensors")
        found[name] = Found(dtype, shape, _reading(file, 8 + length + begin, end - begin, dtype, shape))
        if found[name].nbytes != end - begin:
            raise BadTensorError(name, f"has {end - begin} bytes; {dtype} of shape {shape} has {found[name].nbytes}")
        ends.append((begin, end, name))
    last = 0
    for begin, end, name in sorted(ends):
        if begin != last:
            how = "overlaps the one before it" if begin < last else "leaves a gap before it"
            raise BadTensorError(name, f"{how}: it begins at byte {begin}, not {last}")
        last = end
    if last != room:
        raise UnsoundError(f"its tensors end at byte {last} and the file at {room}")
    best, taken, beside = chosen({None: found}, weights)
    return Contents(taken, None, (), best.prefix, tuple(beside))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, which hold no name twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise UnsoundError(f"its header has {twice[:MOST_NAME]!r} twice")
    return found


def _reading(file: BinaryIO, at: int, size: int, dtype: str, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    def values() -> np.ndarray:
        file.seek(at)
        data = file.read(size)
        if len(data) != size:
            raise RefusedError("changed while it was read", COPY)
        return np.frombuffer(data, DTYPES[dtype]).reshape(shape)

    return values


# ---- torch.save's archive: a zip of a pickle, data.pkl, and of a file for the bytes of each storage


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str  # of DTYPES, or torch's name of one that is not read


@dataclass(frozen=True)
class _Strided:
    """A tensor as the pickle says it is; nothing of it is true until it was checked."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


@dataclass(frozen=True)
class _Odd:
    """A tensor that is no plain one."""

    what: str


class _StandIn(type):
    """A class that a file names, which is never looked up. Its instances hold nothing and do nothing.

    A pickle makes an instance of a class without calling it (NEWOBJ), and then hands it its contents: that is how
    settings, optimizers and whole models lie in a file, and these are passed over. What a pickle *calls* (REDUCE) may
    as well be a command. Of calls, those in CALLED are passed over, and those of classes outside Python's own library,
    by which members of enumerations are made; any other is refused. None is run, so this decides only what is said.
    """

    full: str

    def __call__(cls, *_: Any, **__: Any) -> Any:
        package, name = cls.full.partition(".")[0], cls.full.rpartition(".")[2]
        is_class = name.lstrip("_")[:1].isupper() and package not in sys.stdlib_module_names
        if cls.full not in CALLED and not is_class:
            raise _asks_for(cls.full)
        return super().__call__()


class _Inert(metaclass=_StandIn):
    """All that a pickle can ask of an object: its state, and to take items."""

    __slots__ = ()
    full = ""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


def _asks_for(full: str) -> RefusedError:
    return RefusedError(
        f"is an unsafe checkpoint: its pickle asks for {full[:120]!r}, which is no part of a state dict; "
        "nothing of it was run"
    )


def _odd(what: str) -> Callable[..., _Odd]:
    return lambda *_: _Odd(what)


def _strided(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Strided:
    return _Strided(storage, offset, shape, stride)


_NAMES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor_v3": _odd("of a dtype that is not read"),
    "torch._utils._rebuild_sparse_tensor": _odd("sparse"),
    "torch._utils._rebuild_qtensor": _odd("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": _odd("without values"),
    "torch._utils._rebuild_wrapper_subclass": _odd("of a class of its own"),
    "torch._tensor._rebuild_from_type_v2": _odd("of a class of its own"),
}

# What pickles call to make plain data: numbers, times, paths, sets, arrays, generators of random numbers. Only its
# name tells such a call from a command.
CALLED = {
    *(f"builtins.{name}" for name in ("set", "frozenset", "slice", "range", "complex", "bytearray", "object")),
    *("_codecs.encode", "copyreg._reconstructor", "collections.deque", "functools.partial"),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "random.Random", "types.SimpleNamespace"),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{pure}{system}Path"
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for system in ("", "Posix", "Windows")
    ),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("randomstate", "generator", "bit_generator")),
    *("numpy.random.bit_generator.__pyx_unpickle_SeedSequence", "torch.device", "torch.serialization._get_layout"),
}
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2 called them, and pickles of protocol 2 do


class _Tensors(pickle.Unpickler):
    """A pickle's lists, tables and numbers. Names are looked up in `_NAMES` alone, so it can call nothing else."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self._classes: dict[str, _StandIn] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda", "torch.storage") and name.isidentifier() and name.endswith("Storage"):
            return name
        full = f"{_MODULES.get(module, module)}.{name}"
        if full in _NAMES:
            return _NAMES[full]
        if full not in self._classes:
            if len(self._classes) >= MOST_CLASSES:
                raise RefusedError(f"names more than {MOST_CLASSES} classes", "give the weights alone")
            self._classes[full] = _StandIn("_StandIn", (_Inert,), {"__slots__": (), "full": full})
        return self._classes[full]

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str):
            raise RefusedError("is not a sound torch archive: its pickle points at something that is no storage")
        return _Storage(pid[2], _STORAGES.get(str(pid[1]), str(pid[1])[:40]))


def _of_archive(file: BinaryIO, size: int, weights: str) -> Contents:
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter: a version zipfile does not read
        raise RefusedError(f"is damaged or cut short after {size} bytes ({_short(error)})", COPY) from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise RefusedError("is not a sound torch archive: it has an entry twice")
    inner = {name.partition("/")[2] for name in entries}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise RefusedError("is an unsafe checkpoint: a TorchScript program, which is never run")
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        raise RefusedError("is an unsafe checkpoint: an exported program (.pt2), which is never run")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise RefusedError("is a zip archive that torch.save did not make: it has no data.pkl, or several")
    if len(entries) > 2 * MOST_TENSORS:
        _few(len(entries))
    root = pickles[0].removesuffix("data.pkl")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise RefusedError(
                f"has a compressed entry, {name[:80]!r}: {entry.compress_size} bytes that say they are "
                f"{entry.file_size}; torch.save compresses nothing"
            )
        if entry.flag_bits & 1:
            raise RefusedError(f"has an encrypted entry, {name[:80]!r}")
    if (described := entries[pickles[0]].file_size) > MOST_HEADER_BYTES:
        raise RefusedError(f"has a pickle of {described} bytes; a ViT's is smaller than {MOST_HEADER_BYTES}")
    if f"{root}byteorder" in entries and _entry(archive, entries, f"{root}byteorder") != b"little":
        raise RefusedError("was saved on a machine with the other order of bytes")
    with archive.open(pickles[0]) as opened:
        parts = _parts(_Tensors(opened).load())
    best, taken, beside = chosen(parts, weights)
    _few(len(parts[best.part]))
    for name in parts[best.part]:
        _printable(name)
    last: list[Any] = [None, b""]  # a model may be views of one storage

    def bytes_of(key: str) -> bytes:
        if last[0] != key:
            last[:] = None, b""  # two storages at a time would need twice the memory
            last[:] = key, _entry(archive, entries, f"{root}data/{key}")
        return bytes(last[1])

    found = {}
    for name, tensor in taken.items():
        if isinstance(tensor, _Odd):
            raise BadTensorError(name, f"is not dense (it is {tensor.what})", "save plain dense tensors")
        stored = entries.get(f"{root}data/{tensor.storage.key}") if isinstance(tensor.storage, _Storage) else None
        if stored is None:
            raise BadTensorError(name, "has no bytes in the archive, which is cut short", COPY)
        found[name] = _of_storage(name, tensor, stored.file_size, bytes_of)
    return Contents(found, best.part, tuple(part for part in parts if part), best.prefix, tuple(beside))


def _parts(loaded: Any) -> dict[str | None, dict[str, _Strided | _Odd]]:
    """Every set of weights in what was saved, by the dotted keys under which it lies; None is all that was saved.

    If any has the names of a ViT of timm's, only such are meant.

    Raises:
        RefusedError: There are none.
    """
    found = {part: state for part, value in _tables(loaded) if (state := _weights(value))}
    vits = {part: state for part, state in found.items() if prefixes_of(state)}
    if vits or found:
        return vits or found
    if isinstance(loaded, _Inert | _StandIn):
        raise _asks_for(loaded.full)
    why = "holds no state dict (tensors by name)"
    if isinstance(loaded, dict) and loaded:
        first = itertools.islice(dict.items(loaded), MOST_KEYS)
        there = [f"{repr(key[:40]) if isinstance(key, str) else _kind(key)} ({_kind(value)})" for key, value in first]
        more = f" and {len(loaded) - MOST_KEYS} more" if len(loaded) > MOST_KEYS else ""
        why += f"; its keys are {', '.join(there)}{more}"
    raise RefusedError(why, "save model.state_dict()")


def _tables(loaded: Any) -> Iterator[tuple[str | None, dict[Any, Any]]]:
    """What was saved, and the tables in it to a depth of two, without those of optimizers.

    They are read by `dict.items`: a pickle may have put an `items` of its own on an OrderedDict.
    """
    level: list[tuple[str | None, dict[Any, Any]]] = [(None, loaded)] if isinstance(loaded, dict) else []
    for _ in range(3):
        yield from level
        inner = (
            (f"{part}.{key}" if part else key, value)
            for part, table in level
            for key, value in dict.items(table)
            if isinstance(value, dict) and isinstance(key, str) and _is_part(key)
        )
        level = list(itertools.islice(inner, MOST_TABLES + 1))
        if len(level) > MOST_TABLES:
            raise RefusedError(f"has more than {MOST_TABLES} tables", "give the weights alone")


def _is_part(key: str) -> bool:
    return 0 < len(key) <= MOST_NAME // 3 and key.isprintable() and not key.startswith("opt")


def _weights(table: dict[Any, Any]) -> dict[str, _Strided | _Odd] | None:
    """The tensors of a table; None if it has none, or others too and not the names of a ViT of timm's."""
    state = {
        name: value for name, value in dict.items(table) if isinstance(name, str) and isinstance(value, _Strided | _Odd)
    }
    return state if state and (len(state) == len(table) or prefixes_of(state)) else None


def _kind(value: Any) -> str:
    """What a value of a checkpoint is, for people."""
    if isinstance(value, _Inert | _StandIn):
        return f"{'the' if isinstance(value, type) else 'an object of'} class {value.full[:120]!r}"
    kinds = {_Strided: "a tensor", _Odd: "a tensor", dict: "a table", OrderedDict: "a table", list: "a list"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__.lower())


def _of_storage(name: str, said: _Strided, size: int, bytes_of: Callable[[str], bytes]) -> Found:
    """The tensor, if all of it lies in its storage of `size` bytes and it has no more values than that."""
    storage = said.storage
    dtype = _dtype(name, storage.dtype)
    item = np.dtype(DTYPES[dtype]).itemsize
    shape, stride = _shape(name, said.shape), _shape(name, said.stride)
    count = math.prod(shape)
    if len(shape) != len(stride) or type(said.offset) is not int or said.offset < 0:
        raise BadTensorError(name, f"has false strides, {stride} for shape {shape}, or a false offset")
    if count * item > size:
        why = f"is not dense (it is expanded): it claims {count * item} bytes and has {size}"
        raise BadTensorError(name, why, "save a clone of it")
    last = said.offset + sum((many - 1) * step for many, step in zip(shape, stride, strict=True))
    if count and (last + 1) * item > size:
        raise BadTensorError(name, f"ends at byte {(last + 1) * item}; its storage has {size}", COPY)

    def values() -> np.ndarray:
        if not count:
            return np.empty(shape, DTYPES[dtype])
        stored = np.frombuffer(bytes_of(storage.key), DTYPES[dtype], count=size // item)[said.offset :]
        steps = [step * item for step in stride]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(stored, shape, steps, writeable=False))

    return Found(dtype, shape, values)


def _entry(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    try:
        return archive.read(entries[name])
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:  # the second: a method zipfile does not read
        raise RefusedError(f"is damaged at {name[:80]!r} ({_short(error)})", COPY) from error


def _few(tensors: int) -> None:
    if tensors > MOST_TENSORS:
        raise RefusedError(f"has {tensors} tensors; a ViT has fewer than {MOST_TENSORS}", "give the weights alone")


def _short(error: BaseException) -> str:
    """What went wrong, in a line that is never blank."""
    return " ".join(str(error).split())[:160] or type(error).__name__


# ---- the answer


def answers(file: BinaryIO, size: int, suffix: str, weights: str = "auto") -> Iterator[dict[str, Any] | memoryview]:
    """What is to be said of the file, in order: of each tensor a line and its bytes; at the end, how it ended."""
    try:
        contents = contents_of(file, size, suffix, weights)
        for name, found in contents.tensors.items():
            values = checked(name, found)
            yield {"tensor": name, "dtype": found.dtype, "shape": found.shape}
            yield values.reshape(-1).view(np.uint8).data
        for name in contents.beside:
            yield {"beside": name}
        yield {"done": {"part": contents.part, "parts": contents.parts, "prefix": contents.prefix}}
    except Exception as error:  # noqa: BLE001  whatever the readers of zip and pickle trip over
        yield {"refused": str(_refusal(error))[:2000]}


def _refusal(error: Exception) -> RefusedError:
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, MemoryError):
        return RefusedError("is an unsafe checkpoint: reading it takes more memory than its size calls for")
    return RefusedError(f"cannot be read: {type(error).__name__}: {_short(error)}")


def main() -> NoReturn:
    """Answer for standard input. Arguments: the file's suffix, seconds of CPU, bytes of memory, which weights."""
    suffix, cpu_seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    file, out = sys.stdin.buffer, sys.stdout.buffer
    size = os.fstat(file.fileno()).st_size
    confine(cpu_seconds, memory)
    refuse_all_else()
    out.write(b'{"ready": true}\n')
    out.flush()
    for said in answers(file, size, suffix, *sys.argv[4:]):
        out.write(said if isinstance(said, memoryview) else json.dumps(said).encode() + b"\n")
    out.flush()
    os._exit(0)  # no clean-up, of which the hook would refuse parts


if __name__ == "__main__":
    main()
