"""Hostile zips, each refused by its own rule before anything is written; and honest ones, read whole."""

import io
import random
import shutil
import stat
import struct
import subprocess
import time
import tracemalloc
import zipfile
from contextlib import contextmanager

import pytest

from tests.zips import PICTURE, Part, overlapping, zipped
from workers import archives
from workers.archives import ArchiveError, chunks, directory

GB = 10**9
LONG = b"a" * 296 + b".png"
ZIP64_OF_NOTHING = struct.pack("<2H", 1, 0)

# Archives by the words of the rule that refuses them.
HOSTILE = {
    "'../a.png' has an empty part, . or .. in its path": zipped(Part(b"../a.png")),
    "'a/../../b.png' has an empty part, . or ..": zipped(Part(b"a/../../b.png")),
    "'a//b.png' has an empty part": zipped(Part(b"a//b.png")),
    "'/etc/a.png' is an absolute path": zipped(Part(b"/etc/a.png")),
    "'C:/a.png' is an absolute path": zipped(Part(b"C:/a.png")),
    r"'..\\\\a.png' has a backslash": zipped(Part(rb"..\a.png")),
    r"'a\\x00.png' has U\+0000 in its name": zipped(Part(b"a\0.png")),
    r"'a\\n<img onerror=x>.png' has U\+000A": zipped(Part(b"a\n<img onerror=x>.png")),
    r"has U\+202E in its name": zipped(Part("gnp\u202e.png".encode())),
    "has a name of 300 bytes; 255 are allowed": zipped(Part(LONG)),
    "'' has an empty part": zipped(Part(b"")),
    "'a.png' is a symlink": zipped(Part(data=b"/etc/passwd", mode=stat.S_IFLNK | 0o777)),
    "'a.png' is a device or another special file": zipped(Part(mode=stat.S_IFCHR | 0o666)),
    "'b.png' is a device": zipped(Part(), Part(b"b.png", mode=stat.S_IFIFO | 0o666)),
    "'a' is a folder and a file": zipped(Part(b"a", mode=stat.S_IFDIR | 0o755)),
    "'a/' is a folder and a file": zipped(Part(b"a/")),
    "'a.png' is there twice": zipped(Part(), Part()),
    "'A.png' and 'a.png' are one name on some systems": zipped(Part(), Part(b"A.png")),
    "are one name": zipped(Part("é.png".encode()), Part("e\u0301.png".encode())),
    "'b.png' overlaps another entry": zipped(
        Part(data=zipped(Part(b"b.png"))), Part(b"b.png", unwritten=True, at=30 + len("a.png"))
    ),
    "'00001.png' overlaps": overlapping(20, random.Random(0).randbytes(1_000_000)),
    "'a.png' unpacks from .* bytes; 100 times is allowed": zipped(Part(data=bytes(1_000_000), deflated=True)),
    "the archive of .* unpacks to .*, over 100 times its size": zipped(
        *(Part(b"%d.png" % n, data=bytes(60_000), deflated=True) for n in range(500))
    ),
    "unpacks to 2,000.0 MB, and 1,000.0 MB are allowed": zipped(
        Part(size=2 * GB, packed=2 * GB, unwritten=True), Part(b"b.png")
    ),
    "'inner.zip' is an archive in the archive": zipped(Part(b"inner.zip", data=zipped(Part()))),
    "'cats/all.tar.GZ' is an archive": zipped(Part(b"cats/all.tar.GZ")),
    "'a.png' is encrypted": zipped(Part(flags=1)),
    "'b.png' is encrypted": zipped(Part(), Part(b"b.png", flags=1 | 1 << 6, method=99)),
    "'a.png' is packed by method 12": zipped(Part(method=12)),
    "'a.png' is packed by method 99": zipped(Part(method=99)),
    "'a.png' is stored in 1,024 bytes and claims 10: its size is false": zipped(Part(size=10)),
    "'a.png' has another size in its header": zipped(Part(local_size=99)),
    "'a.png' is another entry than the directory says": zipped(Part(local_name=b"b.png")),
    "'b.png' is another entry": zipped(
        Part(), Part(b"b.png", unwritten=True, at=30 + len("a.png") + len(PICTURE)), Part(b"c.png")
    ),
    "'a.png' is not where the directory says": zipped(Part(at=2**31)),
    "'a.png' reaches into the archive's directory": zipped(Part(size=5000, packed=5000)),
    "'a.png' does not say how large": zipped(Part(size=2**32 - 1, extra=ZIP64_OF_NOTHING)),
    "'a.png' is on another disk": zipped(Part(disk=1)),
    "one of several disks": zipped(Part(), disk=1),
    "claims 2 entries and lists others": zipped(Part(), here=2, count=2),
    "claims 1 entries and lists others": zipped(Part(), Part(b"b.png"), here=1, count=1),
    "not where its end says": zipped(Part(), before=b"#!/bin/sh\n"),
    "other bytes stand before, in or after it": zipped(Part(), after=b"PK\5\5\0\0"),
    "the archive is empty": zipped(),
    "this is no zip archive": b"Rar!\x1a\x07\x00" + bytes(100),
    "it is cut off at its end": zipped(Part())[:-1],
    "or it is cut off": b"",
    "in a directory of 4,295.0 MB": zipped(Part(), size=2**32 - 10),
}


@contextmanager
def at_most(seconds, memory):
    """What is done in the meantime takes no longer and no more."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < seconds
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rule", HOSTILE)
def test_a_hostile_archive_is_refused_by_its_own_rule_and_costs_nothing(rule):
    with at_most(5, 4_000_000), pytest.raises(ArchiveError, match=rule) as refused:
        directory(io.BytesIO(HOSTILE[rule]), GB)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Part(deflated=True, size=len(PICTURE) - 1), "larger than the 1,023 bytes that it claims"),
        (Part(deflated=True, size=len(PICTURE) + 1), "has 1,024 bytes and claims 1,025: its size is false"),
        (Part(crc=1), "its checksum is wrong"),
        (Part(deflated=True, crc=1), "its checksum is wrong"),
        (Part(deflated=True, after=b"more"), "followed by bytes of no entry"),
        (Part(data=b"\xff" * 9, method=8), "damaged in the archive"),
        (Part(deflated=True, packed=9), "cut off in the archive"),
    ],
)
def test_bytes_that_are_not_what_the_directory_says_are_refused_while_they_are_read(part, said):
    file = io.BytesIO(zipped(part))
    (member,) = directory(file, GB)
    with pytest.raises(ArchiveError, match=said):
        b"".join(chunks(file, member))


def test_a_member_never_gives_more_than_it_claims_and_little_at_a_time():
    file = io.BytesIO(zipped(Part(data=bytes(50_000_000), deflated=True, size=100_000)))
    (member,) = directory(file, GB)
    done = 0
    with at_most(5, 2_000_000), pytest.raises(ArchiveError, match="larger than the 100,000 bytes"):
        for chunk in chunks(file, member):
            done += len(chunk)
            assert len(chunk) <= archives.CHUNK
    assert done <= 100_000


def written(files, **options):
    """What Python writes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made


FILES = {"cats/1.png": PICTURE, "dogs/é 1.png": bytes(30_000), "empty.png": b"", "a.txt": b"text" * 9}


def read_back(file):
    return {member.name: b"".join(chunks(file, member)) for member in directory(file, GB)}


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_archive_is_read_whole(packing):
    assert read_back(written(FILES, compression=packing)) == FILES


def test_an_archive_that_was_written_as_a_stream_with_large_fields_and_a_comment_is_read():
    class Pipe(io.RawIOBase):
        made = b""

        def writable(self):
            return True

        def write(self, data):
            self.made += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"PK\5\6 of the lab"
        archive.mkdir("cats")
        with archive.open("cats/1.png", "w", force_zip64=True) as out:
            out.write(PICTURE)
    assert read_back(io.BytesIO(pipe.made)) == {"cats/1.png": PICTURE}


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs Info-ZIP's zip")
def test_what_the_zip_command_writes_is_read(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-r", "a.zip", "set"], cwd=tmp_path, check=True)
    with (tmp_path / "a.zip").open("rb") as file:
        assert read_back(file) == {f"set/{name}": data for name, data in FILES.items()}


def test_names_that_are_not_said_to_be_utf8_are_read_as_it_and_else_as_the_old_code_page():
    file = io.BytesIO(zipped(Part("é.png".encode()), Part(b"\x82.jpg")))
    assert [member.name for member in directory(file, GB)] == ["é.png", "é.jpg"]


def test_as_many_entries_as_are_allowed_are_read_in_seconds_and_one_more_is_refused(monkeypatch):
    many = written({f"{n % 1000}/{n}.png": b"" for n in range(archives.MOST_ENTRIES)})
    began = time.process_time()
    assert len(directory(many, GB)) == archives.MOST_ENTRIES  # above 65,535 the count stands in the zip64 end
    assert time.process_time() - began < 5
    monkeypatch.setattr(archives, "MOST_ENTRIES", archives.MOST_ENTRIES - 1)
    with pytest.raises(ArchiveError, match=r"has 100,000 entries in a directory of .*; 99,999"):
        directory(many, GB)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_whatever_byte_is_changed_the_archive_is_refused_or_its_files_are_whole(packing):
    whole = written(FILES, compression=packing).getvalue()
    true = set(FILES.values())
    draw = random.Random(0)
    refused = 0
    for number in range(3000):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            # Mostly in the directory and the end, which all rules read.
            at = draw.randrange(len(data) - 400, len(data)) if number % 4 else draw.randrange(len(data))
            data[at] = draw.choice((data[at] ^ (1 << draw.randrange(8)), 0, 255, draw.randrange(256)))
        if number % 10 == 0:
            data = data[: draw.randrange(len(data))]
        try:
            found = read_back(io.BytesIO(bytes(data)))
        except ArchiveError as error:
            assert str(error).isprintable()
            refused += 1
        else:
            assert set(found.values()) <= true
    assert refused > 1000


def test_57_kilobytes_that_claim_ten_gigabytes_are_refused_at_once():
    bomb = overlapping(460, bytes(21_849_600))
    assert len(bomb) < 90_000
    began = time.process_time()
    with pytest.raises(ArchiveError, match=r"unpacks from 21,\d+ to 21,849,600 bytes; 100 times is allowed"):
        directory(io.BytesIO(bomb), 2 * GB)
    assert time.process_time() - began < 5


def test_a_directory_of_millions_of_empty_entries_is_not_read_to_its_end():
    entry = zipped(Part(b"", data=b""))[30:-22]
    body = entry * ((archives.MOST_DIRECTORY - 1) // len(entry))
    lies = body + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(body), 0, 0)
    began = time.process_time()
    with pytest.raises(ArchiveError):
        directory(io.BytesIO(lies), GB)
    assert time.process_time() - began < 5
