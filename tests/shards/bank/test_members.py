from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from shards.bank.manifest import Manifest
from shards.bank.members import DTYPES, column_kind, pack, unpack
from shards.bank.reader import iter_shards, load_manifest, load_shard
from shards.bank.splits import load_splits

KEYS = ("a", "b", "ü")
MEMBERS = ["image", "label", "params", "embedding.0", "norm.0"]


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        "label": np.arange(3),
        "params": rng.integers(-(1 << 62), 1 << 62, (3, 2, 1)),
        "embedding.0": rng.standard_normal((3, 2, 5)).astype(np.float16),
        "norm.0": rng.random((3, 2), dtype=np.float32),
    }


def npy_bytes(shape: tuple[int, ...], descr: str = "<i8", fortran: bool = False) -> bytes:
    part = io.BytesIO()
    header = {"descr": descr, "fortran_order": fortran, "shape": shape}
    npy.write_array_header_1_0(part, header)
    return part.getvalue() + bytes(24)


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind if name.startswith("link") else tarfile.REGTYPE
            info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_unpack_gives_back_what_was_packed() -> None:
    arrays, keys = unpack(pack(7, columns(), KEYS), "x.tar")
    assert keys == KEYS
    assert list(arrays) == MEMBERS
    for name, array in columns().items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)
        assert not arrays[name].flags.writeable


WHOLE = pack(7, columns(), KEYS)
# Offsets of the 512-byte tar headers; damage there and in the .npy headers behind them is likelier
# to find a defect of the parser than damage in the data.
HEADERS = [i - 257 for i in range(len(WHOLE)) if WHOLE.startswith(b"ustar", i)]
OFFSETS = st.sampled_from(HEADERS).flatmap(lambda start: st.integers(start, start + 700))


@given(st.lists(st.tuples(OFFSETS, st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damage_is_refused_or_harmless(edits: list[tuple[int, int]], checksums: bool) -> None:
    data = bytearray(WHOLE)
    for offset, value in edits:
        data[min(offset, len(data) - 1)] = value
    for start in HEADERS if checksums else ():  # so that tarfile accepts the damaged header
        block = data[start : start + 512]
        block[148:156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    arrays, keys = {}, ()
    with contextlib.suppress(ValueError):  # any other error fails the test
        arrays, keys = unpack(bytes(data), "x.tar")
    assert all(len(array) == len(keys) for array in arrays.values())
    assert all(array.dtype == DTYPES[column_kind(name)] for name, array in arrays.items())


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^x\.tar: "):
        unpack(data, "x.tar")


def test_packing_twice_gives_the_same_bytes_without_time_or_owner() -> None:
    data = pack(7, columns(), KEYS)
    assert data == pack(7, {n: np.asfortranarray(a) for n, a in columns().items()}, KEYS)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = [(i.mtime, i.uid, i.gid, i.uname, i.mode) for i in tar]
    assert set(found) == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize(
    ("name", "array", "parts"),
    [
        ("image", np.full((3, 4, 4, 3), 0.5, np.float32), ("row 0 has 0.5 (float32)", "uint8")),
        ("image", np.arange(3 * 48).reshape(3, 4, 4, 3) * 3, ("row 1 has 258 (int64)", "uint8")),
        ("label", np.array([0, 1, 1 << 63], np.uint64), ("row 2 has 9223372036854775808", "int64")),
        ("label", np.array([0.0, np.nan, 1.0]), ("row 1 has nan (float64)", "int64")),
    ],
)
def test_numbers_that_a_column_cannot_hold_are_not_packed(
    name: str, array: np.ndarray, parts: tuple[str, ...], refused
) -> None:
    refused(lambda: pack(7, columns() | {name: array}, KEYS), f"000007.{name}.npy", *parts)


def test_whole_numbers_of_another_type_are_packed_as_they_are() -> None:
    other = {
        n: a.astype("f8" if n == "image" else "u1") for n, a in columns().items() if a.ndim != 3
    }
    other.pop("norm.0")
    assert pack(7, columns() | other, KEYS) == pack(7, columns(), KEYS)


def test_webdataset_reads_one_group_with_our_members(bank: Path) -> None:
    file = bank / "train-000001.tar"
    groups = list(webdataset.WebDataset(str(file), shardshuffle=False))
    assert len(groups) == 1
    assert groups[0]["__key__"] == "000001"
    names = {name for name in groups[0] if not name.startswith("__")}
    assert names == {"key.json", *(f"{member}.npy" for member in MEMBERS)}
    arrays, keys = unpack(file.read_bytes(), "x")
    assert json.loads(groups[0]["key.json"]) == list(keys)
    assert np.array_equal(np.load(io.BytesIO(groups[0]["label.npy"])), arrays["label"])


GOOD = ("000000.key.json", b'["a", "b", "c"]')
LABEL = "000000.label.npy"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (tar_of(("000000.image.pkl", b"x"), GOOD), ("000000.image.pkl", "refused")),
        (tar_of(("000000.label.pth", b"x"), GOOD), ("label.pth", "refused")),
        (tar_of(("../000000.label.npy", b"x"), GOOD), ("../000000", "refused")),
        (tar_of(("/etc/000000.label.npy", b"x"), GOOD), ("refused",)),
        (tar_of((f"{LABEL}\n", npy_bytes((3,))), GOOD), ("refused",)),
        (tar_of((LABEL, npy_bytes((3,))), (LABEL, npy_bytes((3,))), GOOD), ("occurs twice",)),
        (tar_of((LABEL, npy_bytes((3,))), GOOD, GOOD), ("key.json", "occurs twice")),
        (tar_of((LABEL, npy_bytes((3,)))), ("key.json",)),
        (tar_of((LABEL, npy_bytes((1 << 40,))), GOOD), (LABEL, "claims shape")),
        (tar_of((LABEL, npy_bytes((-3,))), GOOD), (LABEL, "shape")),
        (tar_of((LABEL, npy_bytes((3,), "|O")), GOOD), (LABEL, "object")),
        (tar_of((LABEL, npy_bytes((6,), "<i4")), GOOD), (LABEL, "int32", "expected int64")),
        (tar_of((LABEL, npy_bytes((3,), fortran=True)), GOOD), (LABEL, "Fortran")),
        (tar_of((LABEL, npy_bytes((3, 1))), GOOD), (LABEL, "expected int64 with 1 dim")),
        (tar_of((LABEL, npy_bytes(())), GOOD), (LABEL, "dimensions")),
        (tar_of((LABEL, npy_bytes((3,))[:-1]), GOOD), (LABEL, "claims shape")),
        (tar_of((LABEL, b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((")), (LABEL, "header")),
        (tar_of((LABEL, b"")), (LABEL, ".npy")),
        (tar_of((LABEL, npy_bytes((3,))), ("000000.key.json", b'["a"]')), ("3 rows for 1 keys",)),
        (tar_of(("000000.key.json", b'{"a": 1}')), ("list of strings",)),
        (tar_of(("000000.key.json", b"[1, 2]")), ("list of strings",)),
        (tar_of(("000000.key.json", b"[" * 100_000)), ("list of strings",)),
        (b"not a tar at all" * 100, ("x.tar", "tar")),
        (b"", ("x.tar", "tar")),
    ],
)
def test_foreign_members_and_headers_are_refused(data: bytes, parts, refused) -> None:
    refused(lambda: unpack(data, "x.tar"), *parts)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_refused(kind: bytes, refused) -> None:
    data = tar_of(("link", b""), GOOD, kind=kind)
    refused(lambda: unpack(data, "x.tar"), "'link' is refused")
    renamed = io.BytesIO()
    with tarfile.open(fileobj=renamed, mode="w") as tar:
        info = tarfile.TarInfo(LABEL)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    refused(lambda: unpack(renamed.getvalue(), "x.tar"), LABEL, "refused")


def test_a_member_that_claims_8_tebibytes_is_refused(refused) -> None:
    info = tarfile.TarInfo(LABEL)
    info.size = 8 << 40
    refused(lambda: unpack(info.tobuf() + bytes(1024), "x.tar"), LABEL, "8,796,093,022,208")


def test_every_cut_of_a_tar_is_refused(refused) -> None:
    data = pack(0, columns(), KEYS)
    last = data.rindex(b"]") + 1
    for cut in [*range(0, last, 512), *range(1, last, 331)]:
        refused(lambda cut=cut: unpack(data[:cut], "x.tar"))


def test_flipped_bits_raise_nothing_but_value_error() -> None:
    """Even without the checksum: other exceptions would be tracebacks."""
    data = pack(0, columns(), KEYS)
    rng = np.random.default_rng(0)
    raised = 0
    for _ in range(1500):
        spoilt = bytearray(data)
        spoilt[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            unpack(bytes(spoilt), "x.tar")
        except ValueError:
            raised += 1
    assert raised > 100


def test_every_flipped_bit_and_cut_of_a_shard_is_caught(copy: Path) -> None:
    manifest = load_manifest(str(copy))
    record = manifest.shards[0]
    file = copy / record.name
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [*rng.integers(0, len(data), 40), *(512 * rng.integers(0, len(data) // 512, 20))]
    spoilt = [data[: int(cut)] for cut in cuts]
    for at, bit in zip(rng.integers(0, len(data), 200), rng.integers(0, 8, 200), strict=True):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        spoilt.append(bytes(flipped))
    for case in spoilt:
        file.write_bytes(case)
        with pytest.raises(ValueError, match=record.name):
            load_shard(str(copy), manifest, record)
    file.write_bytes(data)
    assert len(load_shard(str(copy), manifest, record).keys) == record.samples


def test_a_missing_shard_is_named(copy: Path, failed) -> None:
    (copy / "train-000001.tar").unlink()
    failed(copy, "shards", "train-000001.tar is missing", "same options again")


def test_a_shard_of_another_size_is_named_with_both_sizes(copy: Path, failed) -> None:
    file = copy / "test-000000.tar"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"x")
    failed(copy, "shards", file.name, f"{size:,}", f"{size + 1:,}")


def test_swapped_shards_are_caught(copy: Path, failed) -> None:
    first, second = copy / "train-000000.tar", copy / "train-000001.tar"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    failed(copy, "shards", "train-000000.tar")


@pytest.mark.parametrize(
    ("column", "value", "parts"),
    [
        ("embedding.0", np.nan, ("unit vector",)),
        ("embedding.0", 0, ("unit vector",)),
        ("embedding.0", np.inf, ("unit vector",)),
        ("embedding.0", 0.5, ("unit vector",)),
        ("norm.0", 0, ("positive norm",)),
        ("norm.0", -1, ("positive norm",)),
        ("norm.0", np.nan, ("positive norm",)),
        ("norm.0", np.inf, ("positive norm",)),
        ("label", 10, ("label", "0 to 9")),
        ("label", -1, ("label", "0 to 9")),
    ],
)
def test_poisoned_values_with_a_valid_hash_are_refused(
    column, value, parts, copy, rewrite, refused
) -> None:
    where: list[str] = []

    def edit(arrays: dict, keys: list) -> None:
        arrays[column][7] = value
        where.append(keys[7])

    manifest = rewrite("train-000001.tar", edit)
    named = () if column == "label" else (where[0],)
    refused(lambda: list(iter_shards(str(copy), manifest, "train")), *parts, *named)


@pytest.mark.parametrize(
    ("column", "narrow"),
    [
        ("embedding.0", lambda a: a[..., :-1]),
        ("embedding.0", lambda a: a[:, :-1]),
        ("norm.0", lambda a: a[:, :-1]),
        ("params", lambda a: a[..., :-1]),
        ("params", lambda a: a[:, :-1]),
        ("image", lambda a: a[:, :-1]),
        ("image", lambda a: a[..., :1]),
    ],
)
def test_wrong_shapes_with_a_valid_hash_are_refused(column, narrow, copy, rewrite, refused) -> None:
    def edit(arrays: dict, keys: list) -> None:
        arrays[column] = narrow(arrays[column])

    manifest = rewrite("train-000000.tar", edit)
    refused(lambda: list(iter_shards(str(copy), manifest, "train")), column, "expected")


def test_a_key_in_two_shards_is_named_with_both(copy: Path, rewrite, refused) -> None:
    first = unpack((copy / "train-000000.tar").read_bytes(), "")[1][3]
    manifest = rewrite("train-000002.tar", lambda arrays, keys: keys.__setitem__(5, first), True)
    parts = (first, "train-000000.tar", "train-000002.tar")
    refused(lambda: list(iter_shards(str(copy), manifest, "train")), *parts)


def test_a_shard_left_out_of_the_manifest_is_counted(bank: Path, refused) -> None:
    manifest = load_manifest(str(bank))
    fewer = manifest.model_copy(update={"shards": manifest.shards[:-1]})
    refused(lambda: list(iter_shards(str(bank), fewer, "train")), "50 train", "expected 60")


def test_changed_draws_with_a_valid_hash_are_caught_by_verify(copy, rewrite, failed) -> None:
    def edit(arrays: dict, keys: list) -> None:
        arrays["params"][0, 1, 0] += 1

    rewrite("train-000000.tar", edit)
    failed(copy, "draws", "parameters of arm crop_flip:4", "seed 0")


def test_splits_hold_the_shards_columns_in_order(bank: Path) -> None:
    manifest = load_manifest(str(bank))
    splits = load_splits(str(bank), manifest, "train", ("clean", "noise:0.1"))
    shards = list(iter_shards(str(bank), manifest, "train"))
    keys = tuple(key for shard in shards for key in shard.keys)
    noisy = splits["noise:0.1"]
    assert noisy.keys == keys
    assert noisy.params_NVP.shape == (60, 2, 1)
    stored = np.concatenate([shard.arrays["embedding.0"] for shard in shards])
    assert np.array_equal(noisy.embedding_NVD, stored[:, 3:5])
    assert np.array_equal(splits["clean"].embedding_NVD, stored[:, :1])
    assert noisy.images_NHWC is splits["clean"].images_NHWC


def test_an_arm_that_is_not_there_is_refused_with_what_is(bank: Path, refused) -> None:
    manifest: Manifest = load_manifest(str(bank))
    parts = ("arm `noise:0.2`", "clean, crop_flip:4, noise:0.1")
    refused(lambda: load_splits(str(bank), manifest, "train", ("noise:0.2",)), *parts)
