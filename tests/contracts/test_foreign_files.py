"""Files that nobody here made: each kind decodes to a defined picture, or is refused by name.

Expected pixels are computed with NumPy from the array that was encoded, never with Pillow's own
conversions, which are what is being checked.
"""

from __future__ import annotations

import io
import os
import random
import struct
import sys
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from shards.datasets import open_dataset
from shards.datasets.decoder import decode, upright_size
from tests.shards.foreign import encoded as encoded_sample
from tests.shards.foreign import opened, write_tar

HEIGHT, WIDTH = 16, 24
RNG = np.random.default_rng(7)
GREY8 = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ALPHA8 = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def encoded(picture: Image.Image, container: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, container, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    picture = decode(data, "some/file")
    assert picture.mode == "RGB"
    assert picture.size == upright_size(data, "some/file")
    return np.asarray(picture).astype(int)


def grey_of(levels_HW: np.ndarray) -> np.ndarray:
    return np.repeat(levels_HW[..., None].astype(int), 3, axis=2)


def on_white(rgb_HW3: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    alpha_HW1 = alpha_HW[..., None] / 255
    return np.rint(rgb_HW3 * alpha_HW1 + 255 * (1 - alpha_HW1)).astype(int)


def tiff(values: bytes, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """A little-endian TIFF of one uncompressed grey strip, written byte by byte."""
    entries = [
        (256, 4, WIDTH),
        (257, 4, HEIGHT),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, HEIGHT),
        (279, 4, len(values)),
        (339, 3, sample_format),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(values))
    return header + values + directory + struct.pack("<I", 0)


# ---- more than 8 bits ----


def packed_12_bits(levels_HW: np.ndarray) -> bytes:
    pairs = levels_HW.reshape(-1, 2).astype(np.uint32)
    word_P = (pairs[:, 0] << 12) | pairs[:, 1]
    return (
        np.stack([word_P >> 16, (word_P >> 8) & 255, word_P & 255], axis=1).astype("u1").tobytes()
    )


SIXTEEN_BIT = {
    "png": encoded(Image.fromarray(GREY16), "PNG"),
    "tiff, little-endian": encoded(Image.fromarray(GREY16), "TIFF"),
    "tiff, big-endian": encoded(
        Image.frombytes("I;16B", (WIDTH, HEIGHT), GREY16.astype(">u2").tobytes()), "TIFF"
    ),
    "pgm": b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + GREY16.astype(">u2").tobytes(),
    "jpeg 2000": encoded(Image.fromarray(GREY16), "JPEG2000", irreversible=False),
}


@pytest.mark.parametrize("kind", SIXTEEN_BIT)
def test_16_bit_grey_keeps_its_upper_8_bits(kind: str) -> None:
    assert np.array_equal(decoded(SIXTEEN_BIT[kind]), grey_of(GREY16 >> 8))


def test_16_bit_grey_with_white_as_0_is_inverted() -> None:
    data = tiff(GREY16.astype("<u2").tobytes(), bits=16, photometric=0)
    assert np.array_equal(decoded(data), grey_of(255 - (GREY16 >> 8)))


def test_12_bit_grey_keeps_its_upper_8_bits() -> None:
    data = tiff(packed_12_bits(GREY16 >> 4), bits=12, photometric=1)
    assert np.array_equal(decoded(data), grey_of(GREY16 >> 8))


def test_a_pgm_of_another_maximum_is_scaled_to_the_full_range() -> None:
    levels_HW = GREY16 >> 6
    data = b"P5\n%d %d\n1023\n" % (WIDTH, HEIGHT) + levels_HW.astype(">u2").tobytes()
    expected = np.rint(levels_HW * (65535 / 1023)).astype(int) >> 8
    assert np.abs(decoded(data) - grey_of(expected)).max() <= 1


def test_16_bit_rgb_keeps_its_upper_8_bits() -> None:
    rgb16_HW3 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    data = b"P6\n%d %d\n65535\n" % (WIDTH, HEIGHT) + rgb16_HW3.astype(">u2").tobytes()
    assert np.abs(decoded(data) - (rgb16_HW3 >> 8)).max() <= 1


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encoded(Image.fromarray(GREY8.astype(np.float32) / 255), "TIFF"), "F"),
        (encoded(Image.fromarray(GREY16.astype(np.int32)), "TIFF"), "I"),
        (tiff(GREY16.astype("<u2").tobytes(), bits=16, photometric=1, sample_format=2), "I"),
        (tiff(GREY8.tobytes(), bits=8, photometric=1, sample_format=2), "L, signed"),
        (encoded(Image.fromarray(GREY8.astype(np.float32)), "PPM"), "F"),
        (encoded(Image.new("LAB", (WIDTH, HEIGHT)), "TIFF"), "LAB"),
        (encoded(Image.fromarray(GREY16), "IM"), "I;16"),
    ],
    ids=[
        "float tiff",
        "32-bit tiff",
        "signed tiff",
        "signed 8-bit tiff",
        "pfm",
        "lab",
        "16-bit im",
    ],
)
def test_a_mode_without_a_known_range_is_refused_by_file_and_mode(data: bytes, mode: str) -> None:
    with pytest.raises(ValueError, match=rf"^some/file: a \w+ picture of mode {mode}, .*convert"):
        decode(data, "some/file")


# ---- 8 bits ----


@pytest.mark.parametrize(
    "container", ["PNG", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "SGI", "PCX"]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bit_pictures_come_back_as_they_are(mode: str, container: str) -> None:
    pixels = GREY8 if mode == "L" else RGB8
    expected = grey_of(GREY8) if mode == "L" else RGB8
    assert np.array_equal(decoded(encoded(Image.fromarray(pixels), container)), expected)


@pytest.mark.parametrize("container", ["PNG", "TIFF", "BMP", "PPM", "TGA"])
def test_1_bit_pictures_are_black_and_white(container: str) -> None:
    bits_HW = GREY8 > 127
    data = encoded(Image.fromarray(bits_HW), container)
    assert np.array_equal(decoded(data), grey_of(bits_HW * 255))


@pytest.mark.parametrize("container", ["PNG", "TIFF", "BMP", "GIF", "TGA"])
def test_palettes_are_looked_up(container: str) -> None:
    palette = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    picture = Image.fromarray(GREY8 // 16, "P")
    picture.putpalette(palette.tobytes())
    assert np.array_equal(decoded(encoded(picture, container)), palette[GREY8 // 16])


def test_cmyk_is_subtractive() -> None:
    cmyk_HW4 = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    data = encoded(Image.frombytes("CMYK", (WIDTH, HEIGHT), cmyk_HW4.tobytes()), "TIFF")
    ink = cmyk_HW4.astype(float) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    assert np.abs(decoded(data) - expected).max() <= 1.5


# ---- transparency ----


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([RGB8, ALPHA8]))


@pytest.mark.parametrize("container", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000"])
def test_rgba_is_composited_on_white(container: str) -> None:
    options = {"lossless": True, "exact": True} if container == "WEBP" else {}
    got = decoded(encoded(rgba(), container, **options))
    assert np.abs(got - on_white(RGB8, ALPHA8)).max() <= 1


@pytest.mark.parametrize("container", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_white(container: str) -> None:
    data = encoded(Image.fromarray(np.dstack([GREY8, ALPHA8])), container)
    assert np.abs(decoded(data) - on_white(grey_of(GREY8), ALPHA8)).max() <= 1


@pytest.mark.parametrize("container", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(container: str) -> None:
    palette = RNG.integers(0, 200, (16, 3), dtype=np.uint8)
    picture = Image.fromarray(GREY8 // 16, "P")
    picture.putpalette(palette.tobytes())
    expected = palette[GREY8 // 16].astype(int)
    expected[GREY8 // 16 == 3] = 255
    assert np.array_equal(decoded(encoded(picture, container, transparency=3)), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_transparent_colour_of_a_png_becomes_white(mode: str) -> None:
    pixels = {"L": GREY8, "RGB": RGB8, "I;16": GREY16}[mode]
    key = pixels[5, 7]
    transparency = tuple(int(v) for v in key) if mode == "RGB" else int(key)
    expected = {"L": grey_of(GREY8), "RGB": RGB8.astype(int), "I;16": grey_of(GREY16 >> 8)}[mode]
    same_HW = (pixels == key).all(axis=2) if mode == "RGB" else pixels == key
    expected[same_HW] = 255
    data = encoded(Image.fromarray(pixels), "PNG", transparency=transparency)
    assert np.array_equal(decoded(data), expected)


def png(rows: list[bytes], bits: int, colour_type: int, transparent: tuple[int, ...]) -> bytes:
    """A PNG of WIDTH x HEIGHT pixels with one transparent colour, written byte by byte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(kind + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
    colour = struct.pack(f">{len(transparent)}H", *transparent)
    pixels = compress(b"".join(b"\0" + row for row in rows))
    chunks = ((b"IHDR", header), (b"tRNS", colour), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_level_of_few_bits_becomes_white(bits: int) -> None:
    levels_HW, most = GREY8 >> (8 - bits), (1 << bits) - 1
    bits_HWB = np.unpackbits(levels_HW[..., None], axis=2)[..., -bits:]
    rows = [row.tobytes() for row in np.packbits(bits_HWB.reshape(HEIGHT, -1), axis=1)]
    for level in {0, 1, most}:
        expected = grey_of(levels_HW * (255 // most))
        expected[levels_HW == level] = 255
        assert np.array_equal(decoded(png(rows, bits, 0, (level,))), expected)


def test_a_transparent_colour_of_16_bits_is_refused_where_its_upper_8_are_there() -> None:
    rgb16_HW3 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    red, green, blue = (int(level) for level in rgb16_HW3[3, 5])
    rows = [row.astype(">u2").tobytes() for row in rgb16_HW3]
    for other in (red, red ^ 1):
        with pytest.raises(ValueError, match=r"^some/file: a 16-bit RGB .*transparent.*convert it"):
            decode(png(rows, 16, 2, (other, green, blue)), "some/file")
    rgb16_HW3[(rgb16_HW3 >> 8 == 7).all(axis=2)] = 0
    rows = [row.astype(">u2").tobytes() for row in rgb16_HW3]
    for absent in (0x0707, 0x0007):  # of which the lower 8 bits are not compared with the upper
        assert np.array_equal(decoded(png(rows, 16, 2, (absent,) * 3)), rgb16_HW3 >> 8)


def test_shapes_that_live_in_the_alpha_channel_alone_stay_apart() -> None:
    one_HW, other_HW = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    one_HW[4:8], other_HW[:, 4:8] = 255, 255
    black_HW3 = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pictures = [
        decoded(encoded(Image.fromarray(np.dstack([black_HW3, a])), "PNG"))
        for a in (one_HW, other_HW)
    ]
    assert (pictures[0] != pictures[1]).any()
    assert pictures[0][0, 0].tolist() == [255] * 3
    assert pictures[0][5, 5].tolist() == [0] * 3


# ---- orientation ----

UPRIGHT = {  # EXIF 2.3, tag 274: where row 0 and column 0 of the stored picture are shown
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("container", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, container: str) -> None:
    blocks = np.kron(RNG.integers(0, 2, (2, 3)) * 255, np.ones((8, 8))).astype(np.uint8)
    stored = grey_of(blocks).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if container == "WEBP" else {}
    got = decoded(encoded(Image.fromarray(stored), container, exif=exif, **options))
    expected = UPRIGHT[orientation](stored).astype(int)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= (8 if container == "JPEG" else 0)


def test_a_folder_of_phone_pictures_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            blocks = np.zeros((16, 16, 3), dtype=np.uint8)
            blocks[:, :8] = 255
            data = encoded(Image.fromarray(blocks), "JPEG", quality=95, exif=exif)
            (tmp_path / split / name / "0.jpg").write_bytes(data)
    block = open_dataset(f"folder:{tmp_path}").read("train", 0, 2)
    assert block.images_NHWC[:, :7].min() > 240
    assert block.images_NHWC[:, 9:].max() < 15


def test_the_first_frame_of_several_is_taken() -> None:
    first, second = Image.fromarray(GREY8), Image.fromarray(255 - GREY8)
    for container in ("GIF", "TIFF"):
        data = encoded(first, container, save_all=True, append_images=[second])
        assert np.array_equal(decoded(data), grey_of(GREY8))


# ---- what is no picture ----


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", encoded(Image.fromarray(RGB8), "PNG")[:200]],
    ids=["empty", "text", "cut short"],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^some/file: not a readable image"):
        decode(data, "some/file")


# ---- which files of a folder are used ----

TINY = encoded(Image.fromarray(RGB8[:8, :8]), "PNG")


def write(root: Path, *names: str, data: bytes = TINY) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def two_classes(root: Path) -> Path:
    write(
        root, *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in "01")
    )
    return root


@pytest.mark.parametrize("seed", range(8))
def test_files_labels_and_order_are_those_of_imagefolder(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    words = (
        "a",
        "b",
        "B",
        "a-b",
        "a b",
        "a.b",
        "10",
        "9",
        "\N{GREEK SMALL LETTER PHI}",
        "session2",
    )
    for split in ("train", "test"):
        for name in ("cat", "Dog", "a-b", "10", "9"):
            for _ in range(dice.randint(2, 8)):
                folders = [dice.choice(words) for _ in range(dice.choice((0, 0, 1, 1, 2, 3)))]
                file = dice.choice(words) + dice.choice((".png", ".PNG", ".jpg", ".webp", ".Tif"))
                write(tmp_path, "/".join([split, name, *folders, file]))
    data = open_dataset(f"folder:{tmp_path}")
    for split in ("train", "test"):
        reference = ImageFolder(str(tmp_path / split))
        files = [os.path.relpath(file, tmp_path) for file, _ in reference.samples]
        assert data.keys(split) == tuple(files)
        assert data.labels(split).tolist() == reference.targets
        assert data.classes == tuple(reference.classes)
        assert np.array_equal(data.read(split, 0, 1).images_NHWC[0], RGB8[:8, :8])


def test_what_a_folder_leaves_out_is_said_once(tmp_path: Path, capsys) -> None:
    two_classes(tmp_path)
    write(tmp_path, "train/cat/deep/er/2.png", "train/cat/noext", "train/outside.png")
    write(tmp_path, "train/cat/1.HEIC", "train/dog/2.heic", "train/dog/x.pdf", data=b"x")
    write(tmp_path, "train/cat/.DS_Store", "train/cat/._0.png", "test/.cache/0.png", data=b"x")
    (tmp_path / "train/dog/loop").symlink_to(tmp_path / "train")
    os.mkfifo(tmp_path / "train/dog/pipe.png")  # would be waited for without end
    data = open_dataset(f"folder:{tmp_path}")
    open_dataset(f"folder:{tmp_path}")
    assert data.count("train") == 5
    assert "train/cat/deep/er/2.png" in data.keys("train")
    (line,) = capsys.readouterr().err.splitlines()
    for part in (
        f"dataset folder:{tmp_path}: ",
        ".heic files left out (Pillow has no reader): 2 (first `train/cat/1.HEIC`)",
        ".pdf files left out (Pillow has no reader): 1",
        "files without an extension left out: 1 (first `train/cat/noext`)",
        "files outside the class folders left out: 1 (first `train/outside.png`)",
        "hidden files left out: 2 (first `train/cat/.DS_Store`)",
        "hidden folders left out: 1 (first `test/.cache`)",
        "links to a folder around them: 1 (first `train/dog/loop`)",
        "pipes, sockets and devices left out: 1 (first `train/dog/pipe.png`)",
    ):
        assert part in line


def test_a_folder_that_is_used_whole_says_nothing(tmp_path: Path, capsys) -> None:
    open_dataset(f"folder:{two_classes(tmp_path)}")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
@pytest.mark.parametrize("name", [b"train/cat/caf\xe9.png", b"train/cat/caf\xe9/0.png"])
def test_names_that_are_not_utf8_are_refused_in_readable_form(name: bytes, tmp_path: Path) -> None:
    write(two_classes(tmp_path), os.fsdecode(name))
    with pytest.raises(ValueError, match=r"caf\\xe9.*is not UTF-8; rename it") as caught:
        open_dataset(f"folder:{tmp_path}")
    assert str(caught.value).isprintable()


def test_a_name_that_is_not_utf8_of_a_file_left_out_is_readable(tmp_path: Path, capsys) -> None:
    write(two_classes(tmp_path), os.fsdecode(b"train/cat/caf\xe9.txt"))
    open_dataset(f"folder:{tmp_path}")
    assert r"(first `train/cat/caf\xe9.txt`)" in capsys.readouterr().err


# ---- which members of a tar are used ----


def test_what_a_tar_leaves_out_is_said(tmp_path: Path, capsys) -> None:
    members = [("README", b"x"), ("._0.png", b"x")]
    for row in range(4):
        members += [(f"{row}.png", encoded_sample(row)), (f"{row}.cls", b"%d" % (row % 2))]
    for split in ("train", "test"):
        write_tar(tmp_path / f"{split}-0.tar", members)
    (tmp_path / "classnames.txt").write_text("cat\ndog\nemu\n")
    opened(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "members that belong to no sample left out: 4 (first `train-0.tar: README`)" in line
    assert "classes without a train image: 1 (first `emu`)" in line


def test_a_member_whose_name_is_not_utf8_is_refused_in_readable_form(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [(os.fsdecode(b"caf\xe9.png"), encoded_sample(0))])
    write_tar(tmp_path / "test-0.tar", [("0.png", encoded_sample(0)), ("0.cls", b"0")])
    with pytest.raises(ValueError, match=r"member 'caf\\xe9.png'.*not UTF-8"):
        opened(tmp_path)
