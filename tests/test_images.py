"""Which files become entries, with which ids and labels, and what is said of a source that is none."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from workers.images import ImageSourceError, find_images, fingerprint


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def csv_in(folder: Path, *lines: str, name: str = "set.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_a_folder_a_class_labels_by_its_first_level(tmp_path):
    touch(tmp_path, "dog/b.png", "cat/2020/deep/a.JPEG", "cat/z.jpg")
    found = find_images(tmp_path).entries
    assert [(entry.id, entry.label) for entry in found] == [
        ("cat/2020/deep/a.JPEG", "cat"),
        ("cat/z.jpg", "cat"),
        ("dog/b.png", "dog"),
    ]
    assert [entry.path for entry in found] == [tmp_path / entry.id for entry in found]


def test_a_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "b.webp", "a.tif")
    assert [(entry.id, entry.label) for entry in find_images(tmp_path).entries] == [
        ("a.tif", None),
        ("b.webp", None),
    ]


def test_pictures_beside_class_folders_are_unlabelled(tmp_path):
    touch(tmp_path, "top.jpg", "cat/a.jpg")
    assert {entry.id: entry.label for entry in find_images(tmp_path).entries} == {
        "top.jpg": None,
        "cat/a.jpg": "cat",
    }


def test_order_is_by_id_code_point_by_code_point(tmp_path):
    touch(tmp_path, "img2.jpg", "img10.jpg", "b/1.jpg", "b.jpg", "Z.jpg")
    assert [entry.id for entry in find_images(tmp_path).entries] == [
        "Z.jpg",
        "b.jpg",
        "b/1.jpg",
        "img10.jpg",
        "img2.jpg",
    ]


def test_other_files_are_ignored_and_returned(tmp_path):
    touch(
        tmp_path,
        "a.jpg",
        "README",
        "cat/notes.txt",
        ".DS_Store",
        "cat/._a.jpg",
        ".cache/a.jpg",
        "labels.json",
    )
    found = find_images(tmp_path)
    assert [entry.id for entry in found.entries] == ["a.jpg"]
    assert found.ignored == (".DS_Store", ".cache/", "README", "cat/._a.jpg", "cat/notes.txt", "labels.json")


def test_what_looks_like_a_picture_is_an_entry_whatever_is_inside(tmp_path):
    touch(tmp_path, "page.jpg", "phone.HEIC", "drawing.svg", "camera.DNG", "stereo.mpo")
    (tmp_path / "page.jpg").write_text("<html>")
    assert all(entry.refused is None for entry in find_images(tmp_path).entries)
    assert len(find_images(tmp_path).entries) == 5


def test_symlinks_that_lead_out_are_refused_and_those_inside_are_not(tmp_path):
    folder = tmp_path / "set"
    touch(tmp_path, "secret.jpg", "elsewhere/x.jpg", "set-evil/y.jpg", "set/real.jpg")
    (folder / "in.jpg").symlink_to(folder / "real.jpg")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "twin.jpg").symlink_to("../set-evil/y.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "dir").symlink_to(tmp_path / "elsewhere")
    refused = {entry.id: entry.refused for entry in find_images(folder).entries}
    assert refused.pop("in.jpg") is None and refused.pop("real.jpg") is None
    assert refused.pop("loop.jpg")
    assert refused == {
        "out.jpg": "a symlink that leads out of the folder; copy the picture here instead",
        "twin.jpg": "a symlink that leads out of the folder; copy the picture here instead",
        "gone.jpg": "a symlink to nothing",
        "dir": "a symlink to a folder, which is not followed; copy the folder here",
    }


def test_a_source_that_is_itself_a_symlink_is_followed(tmp_path):
    touch(tmp_path, "real/cat/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (entry,) = find_images(tmp_path / "link").entries
    assert (entry.id, entry.label, entry.refused) == ("cat/a.jpg", "cat", None)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert find_images(tmp_path).entries[0].refused == "not a regular file"


def test_a_name_that_is_not_utf8_is_refused_under_a_name_that_is(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / name / "a.jpg").write_bytes(b"")
    (entry,) = find_images(tmp_path).entries
    assert (entry.id, entry.label) == ("caf\\xe9/a.jpg", "caf\\xe9")
    assert entry.refused == "its name is not valid UTF-8; rename it"


def test_per_class_keeps_the_first_of_each_class_and_of_the_unlabelled(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "top1.jpg", "top2.jpg", "top3.jpg")
    kept = [entry.id for entry in find_images(tmp_path, per_class=2).entries]
    assert kept == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "top1.jpg", "top2.jpg"]
    with pytest.raises(ImageSourceError, match="per_class is 0; give 1 or more"):
        find_images(tmp_path, per_class=0)


def test_a_csv_lists_paths_relative_to_its_folder(tmp_path):
    touch(tmp_path, "x/b.jpg", "x/a.dat", "not listed.jpg")
    file = csv_in(tmp_path, "\ufeffPath,source,Label", f"{tmp_path}/x/b.jpg,web,dog", "", 'x/../x/a.dat,,"cat, big"')
    found = find_images(file)
    assert found.source == file
    assert [(entry.id, entry.label, entry.refused) for entry in found.entries] == [
        ("x/a.dat", "cat, big", None),
        ("x/b.jpg", "dog", None),
    ]


def test_a_csv_may_leave_labels_out_in_part_or_wholly(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    assert [e.label for e in find_images(csv_in(tmp_path, "path", "a.jpg", "b.jpg")).entries] == [None, None]
    assert [e.label for e in find_images(csv_in(tmp_path, "path,label", "a.jpg,cat", "b.jpg,")).entries] == [
        "cat",
        None,
    ]


def test_a_missing_file_in_a_csv_is_refused_alone(tmp_path):
    touch(tmp_path, "a.jpg")
    assert [e.refused for e in find_images(csv_in(tmp_path, "path", "a.jpg", "b.jpg")).entries] == [
        None,
        "no such file",
    ]


def test_a_csv_cannot_reach_out_through_a_symlinked_folder(tmp_path):
    touch(tmp_path, "secret/x.jpg", "set/a.jpg")
    (tmp_path / "set" / "dir").symlink_to(tmp_path / "secret")
    entries = find_images(csv_in(tmp_path / "set", "path", "a.jpg", "dir/x.jpg")).entries
    assert entries[1].refused == "a symlink that leads out of the folder; copy the picture here instead"


def test_backslashes_in_a_csv_are_named_as_the_cause(tmp_path):
    touch(tmp_path, "cat/a.jpg")
    here, lost = find_images(csv_in(tmp_path, "path", "cat/a.jpg", r"cat\a.jpg")).entries
    assert (here.refused, lost.refused) == (None, "no such file; write / between folders rather than \\")
    with pytest.raises(ImageSourceError, match=r"lists exists, .*; write / between folders rather than \\, and"):
        find_images(csv_in(tmp_path, "path", r"cat\a.jpg", r"dog\b.jpg"))


def test_a_backslash_is_part_of_a_name_where_there_is_such_a_file(tmp_path):
    touch(tmp_path, r"a\b.jpg")
    (entry,) = find_images(csv_in(tmp_path, "path", r"a\b.jpg")).entries
    assert (entry.id, entry.refused) == (r"a\b.jpg", None)


@pytest.mark.parametrize("outside", ["../secret.jpg", "/etc/passwd", "x/../../secret.jpg", "../set-evil/a.jpg"])
def test_a_csv_path_outside_its_folder_is_an_error_naming_the_line(tmp_path, outside):
    touch(tmp_path, "secret.jpg", "set-evil/a.jpg", "set/a.jpg")
    with pytest.raises(ImageSourceError, match=r"line 3 of .*set\.csv names '.*', which is outside .*set; write paths"):
        find_images(csv_in(tmp_path / "set", "path", "a.jpg", outside))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg,cat"], r"first line of .* is 'a\.jpg,cat'; it must be a header with one column `path`"),
        (["path;label", "a.jpg;cat"], r"is 'path;label'; it must be a header .* separated by commas"),
        (["path,label,path"], "one column `path`"),
        ([""], "is ''; it must be a header"),
        (["path,label"], "has a header but lists no pictures; add a line"),
        (
            ["path,label", "a.jpg,great white shark, white shark"],
            "line 2 of .* 2 fields, as the header has. Quote a",
        ),
        (["path,label", ",cat"], "line 2 of .* is ',cat'; it must have a path"),
        (["path", "a.jpg", "./a.jpg"], r"lines 2 and 3 of .* both name 'a\.jpg'; keep one"),
        (["path,label", 'a.jpg,"cat"dog'], "line 2 of .* is not CSV"),
        (
            ["path", "b.jpg", "c.jpg"],
            r"none of the 2 pictures that .* lists exists, such as 'b\.jpg'; write paths rel",
        ),
    ],
)
def test_a_csv_that_cannot_be_understood_says_what_would_be_right(tmp_path, lines, message):
    touch(tmp_path, "a.jpg")
    with pytest.raises(ImageSourceError, match=message):
        find_images(csv_in(tmp_path, *lines))


def test_a_csv_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "set.csv").write_bytes("path,label\na.jpg,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ImageSourceError, match="is not UTF-8 text; save it as CSV with UTF-8"):
        find_images(tmp_path / "set.csv")


def test_no_source_says_so_and_what_to_give(tmp_path):
    with pytest.raises(ImageSourceError, match=r"there is no folder or CSV .*nowhere; check the spelling, or give"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "photo.jpg")
    with pytest.raises(
        ImageSourceError, match=r"photo\.jpg is a file, but neither a folder nor a \.csv; give a folder"
    ):
        find_images(tmp_path / "photo.jpg")


def test_a_folder_without_pictures_says_what_counts(tmp_path):
    with pytest.raises(
        ImageSourceError, match=r"has no pictures in it\. Files ending in \.jpg .* count; give a folder"
    ):
        find_images(tmp_path)
    touch(tmp_path, "README.md", "data.json")
    with pytest.raises(ImageSourceError, match=r"but other files: README\.md, data\.json \(2 in all\)\. Files"):
        find_images(tmp_path)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        if os.access(tmp_path / "locked", os.R_OK):
            pytest.skip("this user lists every folder, as root does")
        refused = {entry.id: entry.refused for entry in find_images(tmp_path).entries}
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert refused == {"a.jpg": None, "locked": "a folder that cannot be listed: Permission denied"}


def test_the_fingerprint_is_of_names_and_contents_whatever_the_order():
    pairs = [("b", "2" * 64), ("a", "1" * 64)]
    assert fingerprint(pairs) == fingerprint(reversed(pairs))
    assert fingerprint(pairs) == sha256(f"a\0{'1' * 64}\nb\0{'2' * 64}\n".encode()).hexdigest()
    assert len({fingerprint(pairs), fingerprint(pairs[:1]), fingerprint([]), fingerprint([("b", "1" * 64)])}) == 4
