"""Zips that no honest program writes, field by field."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

PICTURE = bytes(range(256)) * 4  # stands for one where nobody decodes it


@dataclass
class Part:
    """A file in an archive. What is None is true."""

    name: bytes = b"a.png"
    data: bytes = PICTURE
    deflated: bool = False
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    method: int | None = None
    flags: int = 0
    mode: int = 0o100644
    local_name: bytes | None = None
    local_size: int | None = None
    local_flags: int | None = None
    extra: bytes = b""
    at: int | None = None  # where the directory says that it is
    after: bytes = b""  # follows what is packed, and counts as packed
    unwritten: bool = False  # it is in the directory alone
    disk: int = 0

    @property
    def raw(self) -> bytes:
        if not self.deflated:
            return self.data + self.after
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.data) + packer.flush() + self.after

    def fields(self) -> dict[str, Any]:
        true = {"size": len(self.data), "packed": len(self.raw), "crc": zlib.crc32(self.data)}
        given = {name: getattr(self, name) for name in ("size", "packed", "crc", "method")}
        true["method"] = 8 if self.deflated else 0
        return {name: true[name] if value is None else value for name, value in given.items()}


def zipped(*parts: Part, before: bytes = b"", after: bytes = b"", comment: bytes = b"", **end: int) -> bytes:
    """An archive of parts.

    Args:
        before, after: Bytes around the entries, which the offsets do not know of.
        end: Of the end record: disk, of_disk, here, count, size, start.
    """
    body, listed = bytearray(), bytearray()
    for part in parts:
        told, at = part.fields(), len(body) if part.at is None else part.at
        if not part.unwritten:
            size = told["size"] if part.local_size is None else part.local_size
            name = part.name if part.local_name is None else part.local_name
            flags = part.flags if part.local_flags is None else part.local_flags
            head = (b"PK\3\4", 20, flags, told["method"], 0, 33, told["crc"], told["packed"], size, len(name), 0)
            body += struct.pack("<4s5H3L2H", *head) + name + part.raw
        listed += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 3 << 8 | 20, 20, part.flags, told["method"], 0, 33, told["crc"], told["packed"],
            told["size"], len(part.name), len(part.extra), 0, part.disk, 0, part.mode << 16, at,
        ) + part.name + part.extra  # fmt: skip
    true = {"disk": 0, "of_disk": 0, "here": len(parts), "count": len(parts), "size": len(listed), "start": len(body)}
    told = true | end
    return before + body + listed + after + struct.pack("<4s4H2LH", b"PK\5\6", *told.values(), len(comment)) + comment


def overlapping(entries: int, data: bytes) -> bytes:
    """So many entries that share one run of packed `data`: each quotes the headers of those behind it.

    After D. Fifield, A better zip bomb (WOOT 2019); the checksums are false.
    """
    stream, size = Part(data=data, deflated=True).raw, len(data)
    body, listed = b"", b""
    told: list[tuple[bytes, int, int, int]] = []
    for number in reversed(range(entries)):
        name = f"{number:05d}.png".encode()
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(stream), size, len(name), 0) + name
        body = head + stream
        told.append((name, len(stream), size, len(body)))
        # A stored block that is the header; what follows it is packed as before.
        stream, size = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + body, size + len(head)
    for name, packed, size, back in told:
        head = (b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, packed, size, len(name), 0, 0, 0, 0, 0, len(body) - back)
        listed += struct.pack("<4s6H3L5H2L", *head) + name
    return body + listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, len(listed), len(body), 0)
