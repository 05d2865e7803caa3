"""What is refused of other people's shards, naming shard and member."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import pytest

from shards.datasets import tar_index
from tests.shards.foreign import encoded, opened, samples, write_tar


def linked(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("b.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


PICTURE, LABEL = ("a.png", encoded(0)), ("a.cls", b"1")
REFUSALS = {
    "symlink": ([(linked(tarfile.SYMTYPE), b"")], ("'b.png'", "a link")),
    "hard link": ([(linked(tarfile.LNKTYPE), b"")], ("'b.png'", "a link")),
    "device": ([(linked(tarfile.CHRTYPE), b"")], ("'b.png'", "no plain file")),
    "fifo": ([(linked(tarfile.FIFOTYPE), b"")], ("'b.png'", "no plain file")),
    "dots": ([("x/../../b.png", b"")], ("'x/../../b.png'", "`..`")),
    "absolute": ([("/b.png", b"")], ("'/b.png'", "absolute")),
    "newline": ([("b\nc.png", b"")], ("b\\nc.png", "control characters")),
    "pickle": ([PICTURE, LABEL, ("a.pyd", b"x")], ("'a.pyd'", "a pickle")),
    "weights": ([PICTURE, LABEL, ("a.x.pth", b"x")], ("'a.x.pth'", "a pickle")),
    "key again": ([PICTURE, LABEL, ("b.png", b""), ("b.cls", b"1"), PICTURE, LABEL], ("`a`",)),
    "member twice": ([PICTURE, PICTURE, LABEL], ("`a.png`", "twice")),
    "no image": ([LABEL], ("`a`", "no image", ".webp")),
    "two images": ([PICTURE, ("a.jpg", encoded(0, "jpeg")), LABEL], ("`a`", "2 images")),
    "no label": ([PICTURE], ("`a`", "no label", ".cls", ".json")),
    "empty": ([], ("no sample",)),
    "text label": ([PICTURE, ("a.cls", b"cat")], ("`a.cls`", "b'cat'", "ASCII integer")),
    "float label": ([PICTURE, ("a.cls", b"1.0")], ("`a.cls`", "ASCII integer")),
    "no integer": ([PICTURE, ("a.json", b'{"label": true}')], ("`a.json`", "label, cls, class")),
    "a list": ([PICTURE, ("a.json", b"[1]")], ("`a.json`", "integer field")),
    "bad json": ([PICTURE, ("a.json", b"{")], ("`a.json`", "integer field")),
    "deep json": ([PICTURE, ("a.json", b"[" * 100_000)], ("`a.json`", "integer field")),
    "negative": ([PICTURE, ("a.cls", b"-1")], ("`a.cls`", "label -1", "0 to 999,999")),
    "huge": ([PICTURE, ("a.cls", b"1000000")], ("`a.cls`", "label 1000000")),
    "long label": ([PICTURE, ("a.json", bytes(2 << 20))], ("`a.json`", "2,097,152 bytes")),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_shard_and_member(case: str, shards: Path, refused) -> None:
    members, parts = REFUSALS[case]
    write_tar(shards / "train-1.tar", members)
    refused(lambda: opened(shards), "train-1.tar", *parts)


def extension(kind: bytes, size: int) -> bytes:
    """One header block of a kind whose body tarfile reads, claiming `size` bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
@pytest.mark.parametrize("size", [8 << 40, (1 << 20) + 1])
def test_extended_headers_that_claim_too_much_are_refused(kind, size, shards, refused) -> None:
    """Alone, after whole samples, and behind another such header."""
    file = write_tar(shards / "train-1.tar", samples(4, 3))
    whole, name = file.read_bytes().rstrip(b"\0"), extension(b"L", 4) + b"a.b\0"
    for before in (b"", whole, name):
        padded = before + bytes(-len(before) % 512)
        file.write_bytes(padded + extension(kind, size) + bytes(10240))
        refused(lambda: opened(shards), "train-1.tar", f"{kind.decode()!r} claims {size:,} bytes")


def test_a_long_name_is_read_and_a_thousand_in_a_row_are_refused(shards: Path, refused) -> None:
    file = write_tar(
        shards / "train-1.tar",
        [("d" * 300 + ".png", encoded(0)), ("d" * 300 + ".cls", b"1")],
        format=tarfile.GNU_FORMAT,
    )
    assert opened(shards).keys("train")[-1].endswith("d" * 300)
    name = extension(b"L", 4) + b"a.b\0" + bytes(508)
    file.write_bytes(name * 3000 + file.read_bytes())
    refused(lambda: opened(shards), "train-1.tar", "recursion")


@pytest.mark.parametrize("cut", [100, 512, 600, 1536, -10240, -9728])
def test_truncated_tars_are_refused(cut: int, shards: Path, refused) -> None:
    """Within a header, at member borders, inside data, and where only the end mark is missing."""
    file = write_tar(shards / "train-1.tar", samples(0, 12))
    data = file.read_bytes().rstrip(b"\0")
    whole = data + bytes(-len(data) % 512)
    file.write_bytes(whole[:cut] if cut > 0 else whole)
    refused(lambda: opened(shards), "train-1.tar")


def test_every_cut_at_a_block_is_refused(shards: Path, refused) -> None:
    file = write_tar(shards / "train-1.tar", samples(0, 2))
    data = file.read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(0, end + 1, 512):
        file.write_bytes(data[:cut])
        refused(lambda: opened(shards), "train-1.tar")


def test_a_flipped_bit_in_a_header_is_refused(shards: Path, refused) -> None:
    file = write_tar(shards / "train-1.tar", samples(0, 3))
    data = bytearray(file.read_bytes())
    with tarfile.open(file) as tar:
        second = tar.getmembers()[2].offset
    data[second + 1] ^= 4
    file.write_bytes(data)
    refused(lambda: opened(shards), "train-1.tar", f"byte {second:,}")


@pytest.mark.parametrize("data", [b"", b"hello" * 300, b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_is_refused(data: bytes, shards: Path, refused) -> None:
    (shards / "train-1.tar").write_bytes(data)
    refused(lambda: opened(shards), "train-1.tar", "uncompressed tar")


def test_a_member_that_claims_terabytes_is_refused(shards: Path, refused) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 8 << 40
    (shards / "train-1.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(lambda: opened(shards), "train-1.tar", "a.png", "8,796,093,022,208")


def test_bombs_and_spoilt_images_are_refused(shards: Path, refused) -> None:
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + encoded(0)[24:29]
    bomb = encoded(0)[:12] + header + zlib.crc32(header).to_bytes(4, "big") + encoded(0)[33:]
    for data, part in ((bomb, "refused"), (encoded(0)[:-900], "readable"), (b"x", "readable")):
        write_tar(shards / "test-0.tar", [*samples(0, 1), ("b.png", data), ("b.cls", b"0")])
        refused(lambda: opened(shards).read("test", 0, 2), "test-0.tar", "sample `b`", part)


def test_a_passing_read_error_costs_only_time(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = tar_index.storage.open_stream

    def flaky(location: str):
        calls.append(location)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return real(location)

    monkeypatch.setattr(tar_index.storage, "open_stream", flaky)
    assert opened(shards).count("train") == 7
    assert len(calls) == 4
