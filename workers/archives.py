"""What is in a zip that nobody vouches for? Its directory is judged before anything is unpacked, its bytes are counted.

Stricter than readers that make the best of what they get: whatever two of them could read differently is refused. The
rules are listed in docs/images.md.
"""

import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

MOST_ENTRIES = 100_000
MOST_NAME = 255  # bytes
MOST_RATIO = 100  # pictures are packed already; deflate itself ends at 1032
SMALL = 1 << 16  # bytes: a one-coloured BMP of this size may well be packed a hundredfold
MOST_DIRECTORY = 64 << 20  # bytes: as many entries as there may be have 46 and a name each, and extra fields
CHUNK = 1 << 16

# Archives by their names; one that is called a picture is found out by the decoder.
NESTED = (
    *(".zip", ".jar", ".7z", ".rar", ".tar", ".cab", ".iso", ".lzh", ".ar", ".cpio"),
    *(".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".lzma", ".zst", ".lz4", ".z"),
)

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 | 1 << 6 | 1 << 13  # by password, strongly, and with the directory hidden
_SIZES_FOLLOW = 1 << 3  # the local header has none
_BIG, _BIG_COUNT = 0xFFFFFFFF, 0xFFFF  # it stands in the zip64 field
_ZIP64 = 1  # id of that field

_DRIVE = re.compile(r"[A-Za-z]:")
# Control characters, line and paragraph separators, and what turns the direction of text round.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class ArchiveError(ValueError):
    """The archive is not to be unpacked. The message names the entry and the rule, for a person."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Relative, with forward slashes. Text only: never a path here.
        size, packed: Bytes of the file, and of what is in the archive for it.
        at: Where that begins.
    """

    name: str
    size: int
    packed: int
    crc: int
    deflated: bool
    at: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member or folder."""

    raw: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    begin: int  # of its local header


def directory(file: BinaryIO, most_bytes: int) -> list[Member]:
    """The files of the zip `file`, in the order of their bytes, when every rule holds of all of them.

    Args:
        most_bytes: Of all files, unpacked.
    Raises:
        ArchiveError: It is no zip, it is damaged, or a rule does not hold.
    """
    whole = file.seek(0, 2)
    count, start, end = _end(file, whole)
    entries = _entries(_read(file, start, end - start, "its directory"), count)
    _refuse_twins(entries)
    total = sum(entry.size for entry in entries)
    if total > most_bytes:
        raise ArchiveError(
            f"the archive unpacks to {_mb(total)}, and {_mb(most_bytes)} are allowed; send it in several parts"
        )
    if total > max(MOST_RATIO * whole, SMALL):
        raise ArchiveError(f"the archive of {_mb(whole)} unpacks to {_mb(total)}, over {MOST_RATIO} times its size")
    found, free = [], 0  # up to where entries lie
    for entry in sorted(entries, key=lambda entry: entry.begin):
        if entry.begin < free:
            raise ArchiveError(f"{shown(entry.name)} overlaps another entry; zip the pictures again")
        at = _begin(file, entry, start)
        free = at + entry.packed
        if free > start:
            raise ArchiveError(f"{shown(entry.name)} reaches into the archive's directory: its size is false")
        if not entry.name.endswith("/"):
            deflated = entry.method == _DEFLATED
            found.append(Member(entry.name, entry.size, entry.packed, entry.crc, deflated, at))
    return found


def chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The bytes of a member, never more at a time than CHUNK, nor in all than its size.

    Raises:
        ArchiveError: They are not as many as the directory says, or not those.
    """
    done, crc = 0, 0
    try:
        for chunk in _inflated(file, member) if member.deflated else _stored(file, member):
            done += len(chunk)
            if done > member.size:
                raise ArchiveError(f"{shown(member.name)} is larger than the {member.size:,} bytes that it claims")
            crc = zlib.crc32(chunk, crc)
            yield chunk
    except zlib.error as error:
        raise ArchiveError(f"{shown(member.name)} is damaged in the archive ({error}); zip it again") from None
    if done != member.size:
        raise ArchiveError(f"{shown(member.name)} has {done:,} bytes and claims {member.size:,}: its size is false")
    if crc != member.crc:
        raise ArchiveError(f"{shown(member.name)} is damaged in the archive: its checksum is wrong; zip it again")


def shown(name: str) -> str:
    """A name in a message: quoted, on one line, not too long."""
    return repr(name if len(name) <= 80 else f"{name[:79]}…")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _read(file: BinaryIO, at: int, size: int, what: str) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) < size:
        raise ArchiveError(f"the archive is cut off in {what}; send it again")
    return data


def _end(file: BinaryIO, whole: int) -> tuple[int, int, int]:
    """How many entries the directory has, where it begins, and where it ends."""
    begin = max(0, whole - _END.size - 0xFFFF)
    tail = _read(file, begin, whole - begin, "its end")
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and not _ends(tail, at):  # a comment may have those letters in it
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise ArchiveError(
            "this is no zip archive, or it is cut off at its end; make one of the folder of pictures and send it whole"
        )
    _, disk, of_disk, here, count, size, start, _ = _END.unpack_from(tail, at)
    end = begin + at
    if disk or of_disk:
        raise ArchiveError("the archive is one of several disks; make it in one file")
    if end >= _LOCATOR.size:
        magic, _, end64, _ = _LOCATOR.unpack(_read(file, end - _LOCATOR.size, _LOCATOR.size, "its end"))
        if magic == b"PK\6\7":
            if end64 + _END64.size > end - _LOCATOR.size:
                raise ArchiveError("the archive's directory is not where its end says; zip the pictures again")
            magic, _, _, _, disk, of_disk, here64, count64, size64, start64 = _END64.unpack(
                _read(file, end64, _END64.size, "its end")
            )
            counts, places = ((here, here64), (count, count64)), ((size, size64), (start, start64))
            agree = all(said in (_BIG_COUNT, true) for said, true in counts)
            agree = agree and all(said in (_BIG, true) for said, true in places)
            if magic != b"PK\6\6" or disk or of_disk or not agree:
                raise ArchiveError("the archive says two things of its directory; zip the pictures again")
            here, count, size, start, end = here64, count64, size64, start64, end64
    if count > MOST_ENTRIES or size > MOST_DIRECTORY:
        raise ArchiveError(
            f"the archive has {count:,} entries in a directory of {_mb(size)}; {MOST_ENTRIES:,} and "
            f"{_mb(MOST_DIRECTORY)} are allowed; send it in several parts"
        )
    if here != count or start + size != end:
        raise ArchiveError(
            "the archive's directory is not where its end says, as other bytes stand before, in or after it; "
            "zip the pictures again"
        )
    return count, start, end


def _ends(tail: bytes, at: int) -> bool:
    """Whether the end record at `at`, with its comment, reaches to the end of `tail`."""
    return len(tail) - at >= _END.size and at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail)


def _entries(data: bytes, count: int) -> list[_Entry]:
    """What a directory lists."""
    found: list[_Entry] = []
    at = 0
    while at < len(data):
        if len(data) - at < _ENTRY.size or data[at : at + 4] != b"PK\1\2":
            raise ArchiveError(f"the archive's directory is damaged after {len(found):,} entries; zip it again")
        (_, _, _, flags, method, _, _, crc, packed, size, named, more, noted, disk, _, outside, begin) = (
            _ENTRY.unpack_from(data, at)
        )
        at += _ENTRY.size
        if at + named + more + noted > len(data):
            raise ArchiveError(f"the archive's directory is damaged after {len(found):,} entries; zip it again")
        raw, extra = data[at : at + named], data[at + named : at + named + more]
        at += named + more + noted
        name = _name(raw)
        size, packed, begin = _long(name, extra, size, packed, begin)
        entry = _Entry(raw, name, flags, method, crc, packed, size, begin)
        _refuse_kind(entry, outside >> 16)
        _refuse_sizes(entry)
        if disk:
            raise ArchiveError(f"{shown(name)} is on another disk; make the archive in one file")
        found.append(entry)
        if len(found) > count:
            break
    if len(found) != count:
        raise ArchiveError(f"the archive claims {count:,} entries and lists others; zip the pictures again")
    if not found:
        raise ArchiveError("the archive is empty; zip the folder of pictures")
    return found


def _name(raw: bytes) -> str:
    """A name that is plainly one of a file or folder in the archive."""
    try:
        name = raw.decode()  # whatever the flag says: some write UTF-8 and do not say so
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    if len(raw) > MOST_NAME:
        raise ArchiveError(f"{shown(name)} has a name of {len(raw):,} bytes; {MOST_NAME} are allowed")
    if found := _UNSEEN.search(name):
        raise ArchiveError(f"{shown(name)} has U+{ord(found[0]):04X} in its name, which is not to be seen; rename it")
    if "\\" in name:
        raise ArchiveError(f"{shown(name)} has a backslash in its name; folders are separated by /")
    if name.startswith("/") or _DRIVE.match(name):
        raise ArchiveError(f"{shown(name)} is an absolute path; names begin in the archive's folder")
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        raise ArchiveError(f"{shown(name)} has an empty part, . or .. in its path; names go down only")
    return name


def _long(name: str, extra: bytes, size: int, packed: int, begin: int) -> tuple[int, int, int]:
    """Size, packed size and place of an entry, from its zip64 field where they do not fit elsewhere."""
    at = 0
    while _BIG in (size, packed, begin) and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4 + length
        if kind == _ZIP64 and at <= len(extra):
            numbers = [number for (number,) in struct.iter_unpack("<Q", extra[at - length : at - length % 8])]
            wanted = [value == _BIG for value in (size, packed, begin)]
            if len(numbers) < sum(wanted):
                break
            size, packed, begin = (
                numbers.pop(0) if big else value for value, big in zip((size, packed, begin), wanted, strict=True)
            )
            return size, packed, begin
    if _BIG in (size, packed, begin):
        raise ArchiveError(f"{shown(name)} does not say how large it is; zip it again")
    return size, packed, begin


def _refuse_kind(entry: _Entry, mode: int) -> None:
    """Refuse what is neither a file nor a folder, or what cannot be read as one."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise ArchiveError(f"{shown(entry.name)} is a symlink; put the picture itself into the archive")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{shown(entry.name)} is a device or another special file; only files and folders may be")
    is_folder = entry.name.endswith("/")
    if (kind == stat.S_IFDIR and not is_folder) or (is_folder and entry.size):
        raise ArchiveError(f"{shown(entry.name)} is a folder and a file at once; zip it again")
    if entry.flags & _ENCRYPTED:
        raise ArchiveError(f"{shown(entry.name)} is encrypted; make the archive without a password")
    if entry.method not in (_STORED, _DEFLATED):
        raise ArchiveError(
            f"{shown(entry.name)} is packed by method {entry.method}; only stored (0) and deflate (8) are read"
        )
    if entry.name.lower().endswith(NESTED):
        raise ArchiveError(f"{shown(entry.name)} is an archive in the archive; unpack it and zip the pictures alone")


def _refuse_sizes(entry: _Entry) -> None:
    if entry.method == _STORED and entry.size != entry.packed:
        raise ArchiveError(
            f"{shown(entry.name)} is stored in {entry.packed:,} bytes and claims {entry.size:,}: its size is false"
        )
    if entry.size > max(MOST_RATIO * entry.packed, SMALL):
        raise ArchiveError(
            f"{shown(entry.name)} unpacks from {entry.packed:,} to {entry.size:,} bytes; {MOST_RATIO} times is allowed"
        )


def _refuse_twins(entries: Sequence[_Entry]) -> None:
    """Refuse names that are the same, or are on some systems."""
    seen: dict[str, str] = {}
    for entry in entries:
        alike = unicodedata.normalize("NFC", unicodedata.normalize("NFC", entry.name.rstrip("/")).casefold())
        twin = seen.setdefault(alike, entry.name)
        if twin is entry.name:
            continue
        if twin == entry.name:
            raise ArchiveError(f"{shown(entry.name)} is there twice; keep one of them")
        raise ArchiveError(f"{shown(entry.name)} and {shown(twin)} are one name on some systems; rename one of them")


def _begin(file: BinaryIO, entry: _Entry, most: int) -> int:
    """Where an entry's bytes begin; its own header has to say what the directory does."""
    if entry.begin + _LOCAL.size > most:
        raise ArchiveError(f"{shown(entry.name)} is not where the directory says; zip it again")
    magic, _, flags, method, _, _, crc, packed, size, named, more = _LOCAL.unpack(
        _read(file, entry.begin, _LOCAL.size, "a header")
    )
    if magic != b"PK\3\4" or file.read(named) != entry.raw or method != entry.method or flags & _ENCRYPTED:
        raise ArchiveError(f"{shown(entry.name)} is another entry than the directory says; zip it again")
    told = ((size, entry.size), (packed, entry.packed))
    if not flags & _SIZES_FOLLOW and (crc != entry.crc or any(said not in (true, _BIG) for said, true in told)):
        raise ArchiveError(f"{shown(entry.name)} has another size in its header than in the directory: one is false")
    return entry.begin + _LOCAL.size + int(named) + int(more)


def _stored(file: BinaryIO, member: Member) -> Iterator[bytes]:
    file.seek(member.at)
    left = member.packed
    while left and (chunk := file.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk


def _inflated(file: BinaryIO, member: Member) -> Iterator[bytes]:
    inflate, left = zlib.decompressobj(-zlib.MAX_WBITS), member.packed
    at = member.at
    while not inflate.eof:
        packed = inflate.unconsumed_tail
        if not packed and left:
            file.seek(at)
            packed = file.read(min(CHUNK, left))
            at, left = at + len(packed), left - len(packed)
        chunk = inflate.decompress(packed, CHUNK)
        if not chunk and not packed and not inflate.eof:
            raise ArchiveError(f"{shown(member.name)} is cut off in the archive; zip it again")
        yield chunk
    if left or inflate.unused_data or inflate.unconsumed_tail:
        raise ArchiveError(f"{shown(member.name)} is followed by bytes of no entry: its packed size is false")
