"""What are the pixels? One stated rule for every kind of picture, and a reason for every file refused.

The rules are listed in docs/images.md. Files are hostile until decoded: only six formats are tried, sizes are
read from the header first, and a large set is decoded in its own processes, so that a crash costs one file.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from workers.images import RAW_SUFFIXES, Entry

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_MEGAPIXELS = 50  # 150 MB as RGB. Larger than any photo set; Pillow alone would load 178
MAX_BYTES = 1 << 30  # 50 megapixels of 16-bit RGBA, stored plainly, are 400 MB
GREY = 128  # what lies under transparent pixels: the middle, which favours neither light nor dark objects
RULES = 2  # raise it when a rule of this module changes: what a journal says by older rules is then not used
MOST_SECONDS = 60  # of CPU, a file, in a decoding process: 50 megapixels take some seconds in any format
MOST_MEMORY = 3 << 30  # bytes a decoding process may ask for, beside its libraries: 50 megapixels of floats take 1.5
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as many decode at a time as there are cores
FEW = 64  # below this many files, starting processes takes longer than decoding

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF orientation (CIPA DC-008, tag 0x0112): what brings the picture upright
_EIGHT_BIT = np.rint(np.arange(65536) * (255 / 65535)).astype(np.uint8)  # all 256 levels are reached


class BadImageError(ValueError):
    """The bytes are not a picture that can be used. The message is a short reason for a person."""


class ImageChangedError(RuntimeError):
    """A file is no longer the one that was scanned."""


class DecoderStartError(RuntimeError):
    """The processes that decode cannot be started at all."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A file that decodes, and what it was at that time."""

    id: str
    path: Path
    label: str | None
    sha256: str  # of the file's bytes
    width: int  # pixels, once upright
    height: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that is left out, and why."""

    id: str
    reason: str


Scanned = DecodedImage | Quarantined
Stamp = tuple[int, int]  # size in bytes, mtime in ns: while they stay, the file counts as unchanged
Examined = tuple[Scanned, Stamp | None]  # None: not a verdict on the file's bytes, so it is not remembered


def decode(data: bytes) -> Image.Image:
    """The picture in `data`: mode RGB, upright, first frame, over grey where transparent, without metadata.

    Raises:
        BadImageError: `data` is not a whole picture of one of FORMATS with at most MAX_MEGAPIXELS.
    """
    rgb = decode_as(data, _rgb)
    rgb.info = {}  # no EXIF, ICC profile or comment travels on
    return rgb


def decode_as(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture in `data`, upright, first frame, its pixels as `convert` makes them of what is in the file.

    Raises:
        BadImageError: As `decode`; whatever `convert` raises becomes one.
    """
    if not data:
        raise BadImageError("zero bytes")
    try:
        # Pillow warns from 89 megapixels on. All that it warns about is over our own limit, so is refused.
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if (pixels := picture.width * picture.height) > MAX_MEGAPIXELS * 1_000_000:
                raise BadImageError(_too_large(pixels))
            picture.load()
            return convert(_upright(picture))
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImageError(_unidentified(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(_too_large(int(re.findall(r"\d+", str(error))[0]))) from None
    except Exception as error:  # damaged bytes: OSError, SyntaxError, ValueError, struct.error and more
        raise BadImageError(_damage(data, error)) from error


def scan(
    entries: Sequence[Entry],
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
    apart: bool = False,
) -> list[Scanned]:
    """Read and decode every entry once: which are kept, with their SHA-256, and which not, and why.

    Args:
        entries: From `find_images`. The result has the same order.
        journal: A file that this function appends to, one JSON line a decoded file. A later scan takes the
            verdict from it where size and mtime are the same. Crashes and read errors are not remembered, but
            tried again.
        progress: Called with (files done, files in all) after each.
        processes: How many decode at once; by default one for each CPU that this process may use. Fewer than
            FEW files are decoded in this process.
        apart: Decode even few files in processes of their own, under their limits: for files of strangers.
    Raises:
        DecoderStartError: No decoding process starts, mostly as a script lacks `if __name__ == "__main__":`.
    """
    known = _remembered(journal)
    found: dict[int, Scanned] = {}
    for at, entry in enumerate(entries):
        verdict = Quarantined(entry.id, entry.refused) if entry.refused else _again(entry, known)
        if verdict is not None:
            found[at] = verdict
    if progress and found:
        progress(len(found), len(entries))
    waiting = [(at, entry) for at, entry in enumerate(entries) if at not in found]
    with ExitStack() as stack:
        write = stack.enter_context(_appending(journal)).write if journal and waiting else None
        if len(waiting) < FEW and not apart:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata: nothing a person could act on
            results: Iterator[tuple[int, Examined]] = ((at, _examine(entry)) for at, entry in waiting)
        else:
            results = _in_processes(_examine_limited, waiting, min(processes or _cpus(), len(waiting) or 1))
        for at, (scanned, stamp) in results:
            found[at] = scanned
            if write and stamp:
                write(_line(scanned, stamp))
            if progress:
                progress(len(found), len(entries))
    return [found[at] for at in range(len(entries))]


def decode_apart(entry: Entry) -> tuple[DecodedImage, Image.Image] | Quarantined:
    """One file of a stranger and its picture, read and decoded in a process of its own, under its limits."""
    with _pool(1) as pool:
        _prove_start(pool)
        try:
            return pool.submit(_picture_limited, entry).result()
        except BrokenProcessPool:
            return Quarantined(entry.id, "the decoder crashed")


def load(scanned: DecodedImage) -> Image.Image:
    """The picture that was scanned.

    Raises:
        ImageChangedError: The file is gone, or its bytes are not those that were scanned.
    """
    again = "put the scanned file back, or start a new run"
    try:
        data = scanned.path.read_bytes()
    except OSError as error:
        raise ImageChangedError(f"{scanned.id} can no longer be read ({error.strerror}); {again}") from error
    if hashlib.sha256(data).hexdigest() != scanned.sha256:
        raise ImageChangedError(f"{scanned.id} changed since the run began; {again}")
    return decode(data)


# ---- pixels


def _upright(picture: Image.Image) -> Image.Image:
    """`picture` turned as its EXIF orientation asks. TIFF was already turned by Pillow on loading."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(0x0112, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  EXIF that cannot be parsed says nothing, and the pixels are whole
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> Image.Image:
    """`picture` in RGB, 8 bits a channel."""
    if picture.mode.startswith("I"):
        return _grey_rgb(_from_integers(picture))
    if picture.mode == "F":
        return _grey_rgb(_from_floats(np.asarray(picture)))
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        ground = Image.new("RGB", picture.size, (GREY, GREY, GREY))
        ground.paste(over.convert("RGB"), mask=over.getchannel("A"))
        return ground
    return picture.convert("RGB")


def _grey_rgb(grey: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(grey).convert("RGB")


def _from_integers(picture: Image.Image) -> NDArray[np.uint8]:
    """0..65535 becomes 0..255; with values outside (32-bit, signed) it is min..max that becomes 0..255."""
    levels = np.asarray(picture)
    if levels.min() < 0 or levels.max() > 65535:
        return _stretched(levels, levels.min(), levels.max())
    grey: NDArray[np.uint8] = _EIGHT_BIT[levels]
    if isinstance(clear := picture.info.get("transparency"), int):  # PNG: the one level that is transparent
        grey[levels == clear] = GREY
    return grey


def _from_floats(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 becomes 0..255; with values outside it is min..max that becomes 0..255."""
    if broken := int((~np.isfinite(levels)).sum()):
        raise BadImageError(f"{broken} of its {levels.size} pixels are NaN or infinite")
    low, high = levels.min(), levels.max()
    return _stretched(levels, 0, 1) if low >= 0 and high <= 1 else _stretched(levels, low, high)


def _stretched(levels: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low`..`high` as 0..255, rounded; all 0 where they are equal."""
    span = float(high) - float(low) or 1.0
    return np.rint((levels.astype(np.float64) - float(low)) * (255 / span)).astype(np.uint8)


# ---- reasons

_READ = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_UNREAD = (
    (0, b"%!PS", "EPS or PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypcrx", "CR3, a camera's raw file"),
    (0, b"FUJIFILMCCD-RAW", "RAF, a camera's raw file"),
    (0, b"IIU\0", "RW2, a camera's raw file"),
    (0, b"IIR", "ORF, a camera's raw file"),
    (0, b"MMOR", "ORF, a camera's raw file"),
)
_NO_IMAGE = (
    (0, b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (4, b"ftyp", "video"),
)


NOT_READ = "which is not read; save it as PNG or JPEG"


def _raw(entry: Entry, data: bytes) -> str | None:
    """Why a camera's raw file is not read: to its bytes most are a TIFF, and the first picture in that is a preview."""
    suffixes = (Path(entry.id).suffix.lower(), entry.path.suffix.lower())
    suffix = next((each for each in suffixes if each in RAW_SUFFIXES), None)
    if suffix is None or kind_of_bytes(data) != "TIFF":
        return None
    return f"{suffix[1:].upper()}, a camera's raw file, {NOT_READ}"


def _too_large(pixels: int) -> str:
    return f"{pixels / 1e6:,.1f}".removesuffix(".0") + f" megapixels; the limit is {MAX_MEGAPIXELS}"


def _unidentified(data: bytes) -> str:
    """Why none of FORMATS opens `data`."""
    for at, magic, what in _UNREAD:
        if data.startswith(magic, at):
            return f"{what}, {NOT_READ}"
    for at, magic, what in _NO_IMAGE:
        if data.startswith(magic, at):
            return f"not an image ({what})"
    head = data[:1024].decode("utf-8", "ignore").lstrip("\ufeff \t\r\n").lower()
    if "<svg" in head:
        return f"SVG, {NOT_READ}"
    if head.startswith(("<!doctype html", "<html")):
        return "not an image (HTML text)"
    if not data.strip(b"\0"):
        return f"not an image ({len(data)} NUL bytes)"
    if _is_text(data[:1024]):
        return "not an image (text)"
    if kind := kind_of_bytes(data):
        return _truncated(data) or f"damaged or truncated {kind}: its header cannot be read ({len(data)} bytes)"
    return f"not an image (starts with {data[:8].hex(' ')})"


def _is_text(data: bytes) -> bool:
    """Whether `data` is UTF-8 without control characters; a character cut off at the end is no matter."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)


def _damage(data: bytes, error: Exception) -> str:
    """What is wrong with a file that `error` stopped."""
    if _is_text(data[:1024]):  # "BM" begins a BMP, and also a sentence about a car
        return _unidentified(data)
    text = " ".join(str(error).split())[:120] or type(error).__name__
    text = re.sub(r"decoder error -?\d+", "the pixel data cannot be decoded", text)
    if reason := _truncated(data):
        return reason
    if "truncated" in text.lower():
        return f"truncated after {len(data)} bytes"
    return f"damaged {kind_of_bytes(data) or 'picture'}: {text}"


def _truncated(data: bytes) -> str | None:
    """What to say of a file that is shorter than its own header says, or None. BMP and WebP say."""
    where = {"BMP": (2, 0), "WEBP": (4, 8)}.get(kind_of_bytes(data) or "")
    if where is None:
        return None
    whole = int.from_bytes(data[where[0] : where[0] + 4], "little") + where[1]
    return f"truncated after {len(data)} of {whole} bytes" if len(data) < whole else None


def kind_of_bytes(data: bytes) -> str | None:
    """Which of FORMATS a file is, by its first bytes; None if none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for magic, kind in _READ if data.startswith(magic)), None)


# ---- files


def _examine(entry: Entry) -> Examined:
    """Read and decode one file."""
    try:
        with entry.path.open("rb") as file:
            status = os.fstat(file.fileno())  # before reading: a file that grows is read again
            if status.st_size > MAX_BYTES:
                size = f"{status.st_size / 1e9:.1f} GB; the limit is {MAX_BYTES / 1e9:.1f}"
                return Quarantined(entry.id, size), None
            data = file.read()
        if raw := _raw(entry, data):
            raise BadImageError(raw)
        picture = decode(data)
    except OSError as error:
        return Quarantined(entry.id, f"cannot be read: {error.strerror or error}"), None
    except MemoryError:
        return Quarantined(entry.id, "not enough memory to decode it"), None
    except BadImageError as error:
        return Quarantined(entry.id, str(error)), (status.st_size, status.st_mtime_ns)
    content = hashlib.sha256(data).hexdigest()
    kept = DecodedImage(entry.id, entry.path, entry.label, content, picture.width, picture.height)
    return kept, (status.st_size, status.st_mtime_ns)


def _examine_limited(entry: Entry) -> Examined:
    """`_examine` in a process of its own, which the system ends when the file takes more than MOST_SECONDS."""
    _limit_seconds()
    return _examine(entry)


def _picture_limited(entry: Entry) -> tuple[DecodedImage, Image.Image] | Quarantined:
    """As `_examine_limited`, with the picture."""
    scanned, _ = _examine_limited(entry)
    return scanned if isinstance(scanned, Quarantined) else (scanned, load(scanned))


def _limit_seconds() -> None:
    with suppress(ValueError, OSError):  # where the system has no such limit
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + MOST_SECONDS, hard))


def _line(scanned: Scanned, stamp: Stamp) -> str:
    said: dict[str, object] = {"rules": RULES, "id": scanned.id, "size": stamp[0], "mtime_ns": stamp[1]}
    if isinstance(scanned, DecodedImage):
        said |= {"sha256": scanned.sha256, "width": scanned.width, "height": scanned.height}
    else:
        said |= {"reason": scanned.reason}
    return json.dumps(said) + "\n"


def _remembered(journal: Path | None) -> dict[tuple[str, int, int], dict[str, Any]]:
    """What a journal says, by id, size and mtime. A torn line, or one by other rules, says nothing."""
    known = {}
    if journal is not None and journal.exists():
        for line in journal.read_bytes().splitlines():
            try:
                said = json.loads(line)
                whole = "reason" in said or {"sha256", "width", "height"} <= said.keys()
                if whole and said["rules"] == RULES:
                    known[said["id"], said["size"], said["mtime_ns"]] = said
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the process died while it wrote this line; the file is decoded again
    return known


def _again(entry: Entry, known: dict[tuple[str, int, int], dict[str, Any]]) -> Scanned | None:
    """The verdict on an unchanged file, or None."""
    if not known:
        return None
    try:
        status = entry.path.stat()
    except OSError:
        return None  # _examine says why
    said = known.get((entry.id, status.st_size, status.st_mtime_ns))
    if said is None:
        return None
    if "reason" in said:
        return Quarantined(entry.id, said["reason"])
    return DecodedImage(entry.id, entry.path, entry.label, said["sha256"], said["width"], said["height"])


def _appending(journal: Path) -> io.TextIOWrapper:
    """`journal` open at a fresh line; every line written reaches the system at once."""
    text = journal.open("a+", encoding="utf-8", buffering=1)
    if text.tell():
        text.write("\n")  # ends a line that a killed process left torn; an empty line says nothing
    return text


# ---- processes


def _in_processes(
    examine: Callable[[Entry], Examined], jobs: Iterable[tuple[int, Entry]], processes: int
) -> Iterator[tuple[int, Examined]]:
    """`examine` of every numbered entry, as they finish. A process that dies costs the entry it was given."""
    waiting = deque(jobs)
    first = True
    while waiting:
        suspects: list[tuple[int, Entry]] = []  # in the pool when one of its processes died
        with _pool(processes) as pool:
            if first:
                _prove_start(pool)
            first = False
            flying: dict[Future[Examined], tuple[int, Entry]] = {}
            while flying or (waiting and not suspects):
                while waiting and not suspects and len(flying) < 2 * processes:
                    job = waiting.popleft()
                    try:
                        flying[pool.submit(examine, job[1])] = job
                    except BrokenProcessPool:
                        suspects.append(job)
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    job = flying.pop(future)
                    try:
                        yield job[0], future.result()
                    except BrokenProcessPool:
                        suspects.append(job)
        yield from _one_at_a_time(examine, suspects)


def _one_at_a_time(
    examine: Callable[[Entry], Examined], jobs: Iterable[tuple[int, Entry]]
) -> Iterator[tuple[int, Examined]]:
    """As `_in_processes`, with one process and one entry in it: here a crash names its file."""
    pool = None
    try:
        for at, entry in jobs:
            pool = pool or _pool(1)
            try:
                yield at, pool.submit(examine, entry).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = None
                yield at, (Quarantined(entry.id, "the decoder crashed"), None)
    finally:
        if pool:
            pool.shutdown()


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Decoder(SpawnProcess):
    """A process with one thread: NumPy's OpenBLAS starts one a core as it is imported, and reads no setting later."""

    _starting = threading.Lock()  # what is set for the child, this process has for a moment too

    def start(self) -> None:
        with self._starting:
            before = {name: os.environ.get(name) for name in ONE_THREAD}
            os.environ.update(ONE_THREAD)
            try:
                super().start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value


class _Decoders(SpawnContext):
    Process = _Decoder


def _pool(processes: int) -> ProcessPoolExecutor:
    # spawn: a fork would copy the threads' locks of whoever calls (torch, a web server) in any state
    return ProcessPoolExecutor(processes, _Decoders(), initializer=_begin)


def _prove_start(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise DecoderStartError(
            "no process to decode in could be started; if this is a script, put the code that runs under "
            '`if __name__ == "__main__":`'
        ) from error


def _begin() -> None:
    """What a decoding process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends them
    with suppress(ValueError, OSError):  # where the system has no such limit
        most = psutil.Process().memory_info().vms + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's remarks; what matters comes back as the result
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot say goodbye, and its children would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
