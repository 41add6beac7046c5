"""What a hostile or broken checkpoint costs: a throw-away process, a tenth of a second, a sentence with the rule.

Every file is made here.
"""

import argparse
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from precompute import checkpoint
from precompute import checkpoint_child as child
from precompute.checkpoint import ReaderStartError, read_checkpoint
from precompute.errors import ModelError

ROOT = Path(__file__).parents[1]
MB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="these limits are Linux's")


class Evil:
    """What runs a command when it is unpickled: the canary is a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.system, (f"touch {self.canary}",))


def safetensors(header, values: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def tensor(begin: int = 0, end: int = 8, shape=(2,), dtype: str = "F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def archive(file: Path, said: bytes, *, extra=(), **storages: bytes) -> None:
    """A torch archive of a pickle and its storages."""
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("w/data.pkl", said)
        for key, values in storages.items():
            opened.writestr(f"w/data/{key}", values)
        for name in extra:
            opened.writestr(f"w/{name}", b"3")


def strided(name: str, shape, stride, offset: int = 0, key: str = "s") -> bytes:
    """A pickle of a state dict of one tensor, as torch writes it."""

    def whole(number: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", number)

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word.encode())) + word.encode()

    def numbers(given) -> bytes:
        return b"(" + b"".join(map(whole, given)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + whole(2) + b"tQ"
    made = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(offset) + numbers(shape) + numbers(stride) + b"\x89"
    )
    return b"\x80\x02}" + text(name) + made + b"ccollections\nOrderedDict\n)RtRs."


# ---- the files: each writes one, and is told where a canary would be

FILES = {}


def hostile(said: str, suffix: str = "pth"):
    def kept(write):
        name = write.__name__
        FILES[name] = (write, f"{name}.{suffix}", said)
        return write

    return kept


def raw(name: str, content: bytes, said: str, suffix: str = "safetensors") -> None:
    FILES[name] = (lambda file, canary: file.write_bytes(content), f"{name}.{suffix}", said)


@hostile("unsafe checkpoint: its pickle asks for 'posix.system'")
def a_command_in_a_torch_archive(file, canary):
    torch.save({"model": Evil(canary)}, file)


@hostile("unsafe checkpoint: its pickle asks for 'builtins.eval'")
def a_protocol_4_pickle_in_an_archive(file, canary):
    archive(file, b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x0eopen('x', 'w')\x85R.")


@hostile("unsafe checkpoint: its pickle asks for 'torch.hub.load'")
def a_torch_function_in_an_archive(file, canary):
    archive(file, b"\x80\x02ctorch.hub\nload\n(X\x04\x00\x00\x00evilX\x01\x00\x00\x00xtR.")


VIT = {"patch_embed.proj.weight": torch.zeros(2), "blocks.0.norm1.weight": torch.zeros(2)}


@hostile("unsafe checkpoint: its pickle asks for 'posix.system'")
def a_command_beside_good_weights(file, canary):
    torch.save({"state_dict": VIT, "args": argparse.Namespace(lr=0.1), "epoch": Evil(canary)}, file)


@hostile("unsafe checkpoint: its pickle asks for 'posix.system'")
def a_command_in_the_state_of_an_object_that_is_passed_over(file, canary):
    torch.save({"state_dict": VIT, "args": argparse.Namespace(lr=Evil(canary))}, file)


@hostile("unsafe checkpoint: its pickle asks for 'subprocess.Popen'")
def a_class_of_pythons_own_that_runs_a_command(file, canary):
    archive(file, beside(b"csubprocess\nPopen\nX\x04\x00\x00\x00true\x85R"))


@hostile("unsafe checkpoint: its pickle asks for 'torch.hub.load'")
def a_function_of_another_library_beside_the_weights(file, canary):
    archive(file, beside(b"ctorch.hub\nload\nX\x04\x00\x00\x00evil\x85R"))


def beside(code: bytes) -> bytes:
    """A pickle of {"args": what the code makes}."""
    return b"\x80\x02}X\x04\x00\x00\x00args" + code + b"s."


@hostile("unsafe checkpoint: its pickle asks for 'os.system'")
def a_command_as_the_oldest_pickles_make_objects(file, canary):
    archive(file, beside(b"(X\x04\x00\x00\x00trueios\nsystem\n"))


@hostile("unsafe checkpoint: its pickle asks for 'os.system'")
def a_command_as_old_pickles_make_objects(file, canary):
    archive(file, beside(b"(cos\nsystem\nX\x04\x00\x00\x00trueo"))


@hostile("unsafe checkpoint: its pickle asks for 'builtins.getattr'")
def a_method_of_an_object_that_is_passed_over(file, canary):
    archive(file, beside(b"c__builtin__\ngetattr\n(cargparse\nNamespace\n)\x81X\x06\x00\x00\x00__or__tR"))


@hostile("cannot be read: TypeError: .* not callable")
def a_call_of_an_object_that_is_passed_over(file, canary):
    archive(file, beside(b"cfunctools\npartial\n(cos\nsystem\ntRX\x04\x00\x00\x00true\x85R"))


@hostile("cannot be read: TypeError: .*__setstate__")
def a_class_that_is_passed_over_and_is_to_be_changed(file, canary):
    archive(file, beside(b"cargparse\nNamespace\nN}X\x07\x00\x00\x00__new__cos\nsystem\ns\x86b"))


@hostile("names more than 1000 classes; give the weights alone")
def half_a_million_classes(file, canary):
    archive(file, b"\x80\x02" + b"".join(b"ca\n%x\n0" % at for at in range(400_000)) + b"N.")


@hostile("holds no state dict")
def a_table_in_itself(file, canary):
    archive(file, b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")


@hostile("has more than 1000 tables; give the weights alone")
def a_table_in_itself_under_each_of_many_keys(file, canary):
    keys = b"".join(b"X\x05\x00\x00\x00%05xh\x00" % at for at in range(100_000))
    archive(file, b"\x80\x02}q\x00(" + keys + b"u.")


@hostile("unsafe checkpoint: reading it led to 'object.__setattr__', which was not done")
def a_pickle_that_changes_what_it_is_read_with(file, canary):
    name = b"X\x0c\x00\x00\x00__defaults__"
    archive(file, b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + name + b")s\x86b.")


@hostile("its pickle asks for 'torch.nn.modules.linear.Linear', which is no part of a state dict")
def a_whole_model(file, canary):
    torch.save(torch.nn.Linear(2, 2), file)


@hostile("unsafe checkpoint: a raw pickle")
def a_raw_pickle(file, canary):
    file.write_bytes(pickle.dumps(Evil(canary), 2))


@hostile("format before torch 1.6")
def the_legacy_format(file, canary):
    torch.save({"model": Evil(canary)}, file, _use_new_zipfile_serialization=False)


@hostile("unsafe checkpoint: a TorchScript program", "pt")
def torchscript(file, canary):
    torch.jit.save(torch.jit.script(torch.nn.Identity()), file)


@hostile(r"unsafe checkpoint: an exported program \(\.pt2\)", "pt")
def an_exported_program(file, canary):
    archive(file, b"", extra=("archive_format", "models/model.json", "data/weights/weight_0"))


@hostile("is a tar archive")
def a_tar(file, canary):
    with tarfile.open(file, "w") as opened:
        opened.add(__file__, "data.pkl")


@hostile("called .safetensors and is a pickle", "safetensors")
def a_pickle_called_safetensors(file, canary):
    file.write_bytes(pickle.dumps(Evil(canary)))


@hostile("called .safetensors and is a zip archive", "safetensors")
def an_archive_called_safetensors(file, canary):
    with file.open("wb") as opened:
        torch.save({"w": torch.zeros(2)}, opened)


@hostile(r"tensor 'w' is not dense \(it is sparse\)")
def a_false_sparse_tensor(file, canary):
    false = torch.sparse_csr_tensor([0, 1, 2], [10**9, 10**9], [1.0, 1.0], (2, 2), check_invariants=False)
    torch.save({"w": false}, file)


@hostile(r"tensor 'w' is not dense \(it is expanded\): it claims 40000000000 bytes and has 4")
def an_expanded_tensor(file, canary):
    torch.save({"w": torch.zeros(1).expand(10**10)}, file)


@hostile(r"tensor 'w' is not dense \(it is quantized\)")
def a_quantized_tensor(file, canary):
    torch.save({"w": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}, file)


@hostile(r"tensor 'w' is not dense \(it is without values\)")
def a_tensor_without_values(file, canary):
    torch.save({"w": torch.zeros(2, device="meta")}, file)


@hostile("tensor 'w' has dtype 'ComplexFloatStorage'; the dtypes read are F64")
def complex_numbers(file, canary):
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, file)


@hostile("has a compressed entry, 'w/data/s': 2.* bytes that say they are 240000000")
def a_quarter_of_a_gigabyte_in_234_kilobytes(file, canary):
    archive(file, strided("w", [60_000_000], [1]))
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr("w/data/s", bytes(240_000_000), zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 300_000


@hostile("has a compressed entry, 'w/data/s': 8 bytes that say they are 4000000000")
def a_stored_entry_with_a_false_size(file, canary):
    archive(file, strided("w", [10**9], [1]), s=bytes(8))
    content = bytearray(file.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 4_000_000_000)
    file.write_bytes(content)


@hostile("has an encrypted entry, 'w/data/s'")
def an_encrypted_entry(file, canary):
    archive(file, strided("w", [2], [1]), s=bytes(8))
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)


@hostile("damaged at 'w/data/s' .*CRC")
def a_flipped_bit(file, canary):
    archive(file, strided("w", [2], [1]), s=b"\1\2\3\4\5\6\7\1")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\1\2\3\4\5\6\7\1", b"\1\2\3\4\5\6\7\2"))


@hostile("has an entry twice")
def an_entry_that_is_there_twice(file, canary):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(file, strided("w", [2], [1]), s=bytes(8), extra=("data/s",))


@hostile("damaged or cut short after 500 bytes")
def a_truncated_archive(file, canary):
    torch.save({"w": torch.zeros(2000)}, file)
    file.write_bytes(file.read_bytes()[:500])


@hostile("tensor 'w' has no bytes in the archive")
def a_missing_storage(file, canary):
    archive(file, strided("w", [2], [1]))


@hostile("tensor 'w' ends at byte 404; its storage has 8")
def strides_that_lead_out(file, canary):
    archive(file, strided("w", [2], [100]), s=bytes(8))


@hostile("tensor 'w' has a false shape or stride, .*-1")
def strides_that_lead_back(file, canary):
    archive(file, strided("w", [2], [-1], offset=1), s=bytes(8))


@hostile("tensor 'w' has false strides, .* or a false offset")
def an_offset_before_the_start(file, canary):
    archive(file, strided("w", [2], [1], offset=-1), s=bytes(8))


@hostile("some share their values; save a clone of each tensor")
def a_thousand_tensors_of_the_same_values(file, canary):
    shared = torch.zeros(1 << 18)
    torch.save({f"w{at}": shared for at in range(1000)}, file)


@hostile("is not called by 1 to 200 printable characters")
def a_name_that_rewrites_the_terminal(file, canary):
    torch.save({"\x1b[2Jall is well": torch.zeros(2)}, file)


@hostile("is not called by 1 to 200 printable characters", "safetensors")
def a_name_of_a_megabyte(file, canary):
    file.write_bytes(safetensors({"n" * MB: tensor()}, bytes(8)))


@hostile("holds no state dict")
def no_state_dict(file, canary):
    torch.save([torch.zeros(1)], file)


@hostile("that torch.save did not make")
def another_zip(file, canary):
    np.savez(file.with_suffix(".npz"), w=np.zeros(2))
    file.with_suffix(".npz").rename(file)


@hostile("has a pickle of 5000000 bytes")
def a_pickle_that_is_too_long(file, canary):
    archive(file, bytes(5_000_000))


@hostile("takes more memory than its size calls for")
def a_pickle_that_wants_all_memory(file, canary):
    archive(file, b"\x80\x02Nr\xff\xff\xff\x0f.")  # LONG_BINPUT 268,435,455: a table of as many pointers


@hostile("cannot be read: EOFError|cannot be read: .*Ran out of input")
def a_pickle_of_nothing(file, canary):
    archive(file, b"")


@hostile("tensor 'w' has NaN or Inf; nothing computed from it would be a number")
def inf_in_bfloat16(file, canary):
    torch.save({"v": torch.zeros(2), "w": torch.tensor([0, torch.inf], dtype=torch.bfloat16)}, file)


@hostile("tensor 'w' has NaN or Inf", "safetensors")
def nan_far_into_a_safetensors_file(file, canary):
    values = torch.zeros(child.CHUNK + 10)
    values[-1] = torch.nan
    save_file({"v": torch.ones(3), "w": values}, file)


@hostile("header says 32388891 bytes; a ViT's has 2 to 4194304", "safetensors")
def half_a_million_tensors(file, canary):
    said = '":' + json.dumps(tensor(0, 0, [0]))
    file.write_bytes(safetensors(("{" + ",".join(f'"t{at}{said}' for at in range(500_000)) + "}").encode()))


@hostile("has 10001 tensors; a ViT has fewer than 10000", "safetensors")
def too_many_tensors(file, canary):
    file.write_bytes(safetensors({f"t{at}": tensor(0, 0, [0]) for at in range(10_001)}))


GOOD = safetensors({"w": tensor()}, bytes(8))
raw("nothing", b"", r"is empty \(0 bytes\); copy it again", "pth")
raw("nothing_called_safetensors", b"", r"is empty \(0 bytes\)")
raw("text", b"<!doctype html><title>404</title>", "begins with 3c 21", "pth")
raw("a_lfs_pointer", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`")
raw("gzip", b"\x1f\x8b\x08" + bytes(20), "is a gzip archive", "pth")
raw("a_header_longer_than_the_file", struct.pack("<Q", 1000) + b"{}", "header says 1000 bytes and 2 follow")
raw("a_header_of_a_terabyte", struct.pack("<Q", 1 << 40) + b"{}", "header says 1099511627776 bytes")
raw("a_header_that_is_no_json", safetensors(b"{oops"), "its header is no JSON")
raw("a_header_that_is_no_table", safetensors(b"[1]"), "its header is no table of tensors")
raw("a_header_deeper_than_a_stack", safetensors(b"[" * MB), "its header is no JSON")
raw("a_name_twice", safetensors(f'{{"w": {json.dumps(tensor())}, "w": {json.dumps(tensor())}}}'.encode(), bytes(8)),
    "its header has 'w' twice")  # fmt: skip
raw("overlapping", safetensors({"v": tensor(), "w": tensor(4, 12)}, bytes(12)), "tensor 'w' overlaps the one before it")
raw("a_gap", safetensors({"v": tensor(), "w": tensor(12, 20)}, bytes(20)), "tensor 'w' leaves a gap before it")
raw("bytes_behind_the_last", GOOD + bytes(4), "its tensors end at byte 8 and the file at 12")
raw("out_of_range", safetensors({"w": tensor(0, 800, [200])}, bytes(8)), "tensor 'w' is said to lie at bytes 0 to 800")
raw("backwards", safetensors({"w": tensor(8, 0)}, bytes(8)), "tensor 'w' is said to lie at bytes 8 to 0")
raw("offsets_that_are_none", safetensors({"w": tensor(0, "8")}, bytes(8)), "tensor 'w' has false offsets")
raw("a_false_dtype", safetensors({"w": tensor(dtype="F33")}, bytes(8)), "tensor 'w' has dtype 'F33'")
raw(
    "a_negative_shape",
    safetensors({"w": tensor(shape=[-2])}, bytes(8)),
    r"tensor 'w' has a false shape or stride, \[-2",
)
raw("a_shape_of_another_size", safetensors({"w": tensor(shape=[3])}, bytes(8)), "tensor 'w' has 8 bytes; F32 of shape")
raw("a_shape_that_overflows", safetensors({"w": tensor(shape=[1 << 32, 1 << 32])}, bytes(8)), "tensor 'w' has 8 bytes")
raw("nothing_said_of_a_tensor", safetensors({"w": {}}, bytes(8)), "tensor 'w' is not described by")
raw("a_truncated_safetensors_file", GOOD[:-4], "tensor 'w' is said to lie at bytes 0 to 8; the file has 4")
raw("neither_true_nor_false", safetensors({"w": tensor(0, 2, dtype="BOOL")}, b"\1\2"), "neither true nor false")


@pytest.mark.filterwarnings("ignore:.*(deprecated|Sparse CSR)")
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_runs_nothing_costs_little_and_is_told_its_rule(name, tmp_path):
    write, called, said = FILES[name]
    canary = tmp_path / "canary"
    write(tmp_path / called, canary)
    others, before, began = psutil.Process().children(), psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(ModelError, match=said) as refused:
        read_checkpoint(tmp_path / called)
    assert time.monotonic() - began < 10
    assert psutil.Process().memory_info().rss - before < 500 * MB
    assert str(refused.value).startswith(called) and "; " in str(refused.value)  # the next step follows
    assert not canary.exists()
    assert psutil.Process().children() == others


HUNGRY = (
    "a_quarter_of_a_gigabyte_in_234_kilobytes",
    "a_stored_entry_with_a_false_size",
    "a_thousand_tensors_of_the_same_values",
    "a_pickle_that_wants_all_memory",
    "a_header_deeper_than_a_stack",
    "half_a_million_classes",
    "too_many_tensors",
)


@LINUX
def test_the_process_itself_takes_little_memory_for_the_files_that_ask_for_much(tmp_path):
    """Started by a small process: Linux counts what the starting process had, too, and torch is in this one."""
    for name in HUNGRY:
        FILES[name][0](tmp_path / FILES[name][1], tmp_path / "canary")
    code = f"""
        import pathlib, resource, subprocess, sys
        for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            memory = {child.MEMORY} + 3 * file.stat().st_size
            command = [sys.executable, "-I", {child.__file__!r}, file.suffix, "20", str(memory)]
            subprocess.run(command, stdin=file.open("rb"), env={{"OPENBLAS_NUM_THREADS": "1"}})
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(code), str(tmp_path)]
    *said, most = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert sum("refused" in line for line in said) == len(HUNGRY)
    assert int(most) * 1024 < 150 * MB


# ---- good files are what they were


def test_every_dtype_shape_and_layout_comes_through_unchanged(tmp_path):
    torch.manual_seed(0)
    state = {
        "f64": torch.rand(2, 3, dtype=torch.float64),
        "f32": torch.rand(5),
        "f16": torch.rand(2).half(),
        "bf16": torch.rand(3).bfloat16(),
        "i64": torch.tensor(7),
        "i32": torch.tensor([[1], [-2]], dtype=torch.int32),
        "i16": torch.tensor([-3], dtype=torch.int16),
        "i8": torch.tensor([-4, 4], dtype=torch.int8),
        "u8": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }
    save_file(state, tmp_path / "w.safetensors", metadata={"format": "pt"})
    both = torch.rand(4, 6)
    views = {"turned": both[:2].T, "stepped": both[2, ::2], "parameter": torch.nn.Parameter(both[3])}
    torch.save({"epoch": 3, "model": state | views, "optimizer": {"lr": 0.1, "of": torch.float32}}, tmp_path / "w.pth")
    for found, wanted in (
        (read_checkpoint(tmp_path / "w.safetensors").tensors, state),
        (read_checkpoint(tmp_path / "w.pth").tensors, state | views),
    ):
        assert found.keys() == wanted.keys()
        for name, tensor_ in wanted.items():
            assert found[name].dtype == tensor_.dtype and torch.equal(found[name], tensor_), name
            assert found[name].is_contiguous()
    assert list(read_checkpoint(tmp_path / "w.pth").tensors) == list(state | views)


@pytest.mark.parametrize("length", [0x80, 0x8B1F])
def test_a_header_whose_length_begins_like_a_pickle_or_gzip_is_a_header_all_the_same(tmp_path, length):
    header = json.dumps({"w": tensor()}).encode().ljust(length)
    (tmp_path / "w.safetensors").write_bytes(safetensors(header, bytes(8)))
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors").tensors["w"], torch.zeros(2))


def test_the_contents_decide_and_not_the_name(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.bin")
    assert torch.equal(read_checkpoint(tmp_path / "w.bin").tensors["w"], torch.ones(2))


# ---- the process


@LINUX
def test_any_damage_to_a_file_ends_in_its_tensors_or_in_a_sentence(tmp_path):
    """2,000 files with a few bytes changed, in one confined process."""
    torch.manual_seed(0)
    state = {"turned": torch.rand(3, 2).T, "counts": torch.arange(3), "half": torch.rand(4).half()}
    torch.save({"model": state, "epoch": 1}, tmp_path / "w.pth")
    save_file({name: each.contiguous() for name, each in state.items()}, tmp_path / "w.safetensors")
    code = """
        import io, os, random, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import checkpoint_child
        rng = random.Random(0)
        files = [bytearray(Path(file).read_bytes()) for file in sys.argv[2:]]
        checkpoint_child.confine(60, 1 << 29)
        checkpoint_child.refuse_all_else()
        ends = {"done": 0, "refused": 0}
        suffixes = [Path(file).suffix for file in sys.argv[2:]]
        for at in range(2000):
            changed = bytearray(files[at % 2])
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            if rng.random() < 0.1:
                del changed[rng.randrange(len(changed)):]
            *tensors, end = checkpoint_child.answers(io.BytesIO(changed), len(changed), suffixes[at % 2])
            (how, said), = end.items()
            ends[how] += 1
            assert how == "done" or (len(said) > 20 and "; " in said), said
            assert all("tensor" in each for each in tensors[::2]) and len(tensors) % 2 == 0
        print(*ends.values(), flush=True)
        os._exit(0)
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(code), str(ROOT / "precompute")]
    files = [str(tmp_path / name) for name in ("w.pth", "w.safetensors")]
    ended = subprocess.run(command + files, capture_output=True, text=True, env={"OPENBLAS_NUM_THREADS": "1"})
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    done, refused = map(int, ended.stdout.split())
    assert done + refused == 2000 and done > 100 and refused > 500


def reader(tmp_path, monkeypatch, code: str, ready: bool = True) -> Path:
    """Has this code answer for checkpoints, and gives one to ask of."""
    program = tmp_path / "reader.py"
    start = "import json, os, signal, sys, time\n" + ("print('{\"ready\": true}', flush=True)\n" if ready else "")
    program.write_text(start + textwrap.dedent(code))
    monkeypatch.setattr(checkpoint, "PROGRAM", program)
    file = tmp_path / "w.safetensors"
    file.write_bytes(GOOD)
    return file


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"unsafe checkpoint: it ended the process that read it \(SIGSEGV\)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "as when a machine runs out of memory"),
        ("sys.exit(3)", "exit code 3"),
        ("os.close(1); time.sleep(60)", "no longer says what was agreed"),
        ("time.sleep(60)", "took more than 1 s to read"),
        ("print('x' * 10**6, flush=True)", "no longer says what was agreed"),
        ("print('[' * 10**4)", "no longer says what was agreed"),
        ("print(json.dumps({'tensor': 'w', 'dtype': 'F32', 'shape': [-1]}))", "no longer says what was agreed"),
        ("print(json.dumps({'tensor': 'w', 'dtype': 'F32', 'shape': [10**12]}))", "more than the file has"),
        ("print(json.dumps({'done': True}))", "no longer says what was agreed"),
        (
            "print(json.dumps({'done': {'part': '\\x1b[2J', 'parts': [], 'prefix': ''}}))",
            "no longer says what was agreed",
        ),
        ("while True: print(json.dumps({'beside': 'w'}))", "no longer says what was agreed"),
        (
            "line = json.dumps({'tensor': 'w', 'dtype': 'U8', 'shape': [0]})\nprint(line); print(line)",
            "more than the file",
        ),
        ("print(json.dumps({'tensor': 'w', 'dtype': 'U8', 'shape': [8]}) + '1234', end='')", "exit code 0"),
    ],
)
def test_a_reader_that_was_taken_over_or_killed_is_a_refusal_and_nothing_else(tmp_path, monkeypatch, code, said):
    monkeypatch.setattr(checkpoint, "WALL_SECONDS", 1)
    monkeypatch.setattr(checkpoint, "GRACE_SECONDS", 0.2)
    others = psutil.Process().children()
    with pytest.raises(ModelError, match=said):
        read_checkpoint(reader(tmp_path, monkeypatch, code))
    assert psutil.Process().children() == others


@LINUX
def test_a_file_that_takes_for_ever_to_compute_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CPU_SECONDS", 1)
    doubled = b")" + b"2\x86" * 60  # a tuple of the same tuple twice, 60 deep: its hash takes 2⁶⁰ steps
    archive(tmp_path / "w.pth", b"\x80\x02}" + doubled + b"Ns.")
    began = time.monotonic()
    with pytest.raises(ModelError, match="took more than 1 s of computing to read"):
        read_checkpoint(tmp_path / "w.pth")
    assert time.monotonic() - began < 10


def test_a_reader_that_does_not_start_is_no_fault_of_the_file(tmp_path, monkeypatch):
    with pytest.raises(ReaderStartError, match="does not start: ModuleNotFoundError: No module named 'numpie'"):
        read_checkpoint(reader(tmp_path, monkeypatch, "import numpie", ready=False))


def test_the_reader_has_none_of_our_environment_files_or_modules(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_SECRET", "hush")
    with (tmp_path / "open").open("w") as opened:
        os.set_inheritable(opened.fileno(), True)
        code = """
            there = [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}") or os.path.exists(f"/dev/fd/{n}")]
            print(json.dumps({"refused": json.dumps([dict(os.environ), there, sys.path[0], os.getcwd()])}))
        """
        with pytest.raises(ModelError) as said:
            read_checkpoint(reader(tmp_path, monkeypatch, code))
    environment, handles, first, folder = json.loads(str(said.value).removeprefix("w.safetensors"))
    assert "HEADSCOPE_SECRET" not in environment and "HOME" not in environment and "PATH" not in environment
    assert handles == []
    assert first != str(tmp_path) and folder == os.sep


PROBES = """
    import ctypes, json, os, resource, signal, socket, sys
    sys.path.insert(0, sys.argv[1])
    import checkpoint_child
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    checkpoint_child.confine(20, 64 << 20)

    def happened(act):
        try:
            act()
        except MemoryError:
            return "no memory"
        except OSError as error:
            return error.strerror
        except ValueError as error:
            return str(error)
        return "done"

    print(json.dumps({
        "read a file": happened(lambda: open("/etc/passwd").read()),
        "write a file": happened(lambda: open(sys.argv[2] + "/written", "w")),
        "remove a file": happened(lambda: os.unlink(sys.argv[2] + "/precious")),
        "run a program": happened(lambda: os.execv("/bin/true", ["true"])),
        "a socket": happened(lambda: socket.socket()),
        "a socket in place of the input": happened(lambda: (os.close(0), socket.socket())),
        "signal the worker": happened(lambda: os.kill(parent, 0)),
        "memory": happened(lambda: bytearray(1 << 30)),
        "more files": happened(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))),
        "new rights": libc.prctl(39, 0, 0, 0, 0),
    }))
"""


@LINUX
def test_a_confined_process_has_no_files_no_network_and_no_memory_to_speak_of(tmp_path):
    """Asked of the kernel: without the audit hook, as code that a file smuggled in would."""
    (tmp_path / "precious").touch()
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(PROBES), str(ROOT / "precompute"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={"OPENBLAS_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout or done.stderr)
    always = ("read a file", "write a file", "a socket", "a socket in place of the input")
    assert all(found[each] in ("Too many open files", "Permission denied") for each in always), found
    assert found["memory"] == "no memory"
    assert found["new rights"] == 1
    if os.geteuid() != 0:
        assert found["more files"] != "done"
    import ctypes

    version = ctypes.CDLL(None).syscall(444, None, 0, 1)
    if version >= 1:
        assert {found["remove a file"], found["run a program"]} == {"Permission denied"}
        assert (tmp_path / "precious").exists()
    if version >= 6:
        assert found["signal the worker"] == "Operation not permitted"


@pytest.mark.parametrize(
    "act", ["open('/etc/passwd')", "import colorsys", "os.system('true')", "exec('1')", "socket()"]
)
def test_python_itself_refuses_what_reading_has_no_need_of(act):
    code = f"""
        import os, sys
        from socket import socket
        sys.path.insert(0, sys.argv[1])
        import checkpoint_child
        checkpoint_child.refuse_all_else()
        try:
            {act}
        except checkpoint_child.RefusedError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code), str(ROOT / "precompute")], capture_output=True, text=True
    )
    assert "is an unsafe checkpoint: reading it led to" in done.stdout, done.stderr


def test_a_worker_outlives_a_file_and_reads_the_next(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04" + os.urandom(1000))
    worker = os.getpid()
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(GOOD)
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors").tensors["w"], torch.zeros(2))
    assert os.getpid() == worker


def test_nothing_else_opens_pickles_of_others():
    """torch.load and pickle.load stand nowhere, so no fallback can."""
    for package in ("store", "precompute", "workers", "dashboard"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            assert not any(each in text for each in ("torch.load(", "pickle.load", "weights_only", "jit.load")), file


def test_a_signal_to_everyone_at_the_terminal_is_not_for_the_reader(tmp_path, monkeypatch, hears_ctrl_c):
    code = "print(json.dumps({'refused': ' ' + str(os.getpgid(0) == os.getpid())}))"
    with pytest.raises(ModelError, match="True"):
        read_checkpoint(reader(tmp_path, monkeypatch, code))
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
