"""From an encoded picture to 8-bit RGB: the one decoder of `folder:`, `wds:` and `hf:` data sets.

Pillow's `convert("RGB")` alone is silently wrong for several kinds of files that people have: it
clips 16-bit grey to white, turns float pictures black, drops transparency (a black drawing on a
transparent ground becomes all black) and ignores the orientation that a phone stores. The rules:

| what the file holds | what comes out |
|---|---|
| 8-bit grey, palette, RGB, CMYK, YCbCr, HSV, 1 bit | Pillow's conversion to RGB |
| 16-bit grey (PNG, TIFF, JPEG 2000, PGM; either byte order) | value >> 8; 12-bit TIFF: value >> 4 |
| 16-bit grey TIFF with white as 0 | the same, inverted |
| transparency: an alpha channel, or one transparent colour | composited on BACKGROUND |
| EXIF orientation 2 to 8 | turned upright, as viewers show it |
| several frames (GIF, TIFF, WebP, APNG) | the first |
| float, 32-bit or signed integers, CIE Lab | refused: their range is not known |
| 16-bit RGB PNG with one transparent colour that pixels may have | refused: 8 bits are compared |

Colour profiles (ICC) are not applied, as in torchvision.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

# Part of the identity of every data set that is decoded here: raise it whenever a pixel changes.
DECODER_VERSION = 3
MAX_PIXELS = 64 * 1024 * 1024  # a picture that claims more is refused before it is decoded
BACKGROUND = (255, 255, 255)

PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
# Containers whose 16-bit values are known to span the full range of their stated depth.
SIXTEEN_BIT_FORMATS = ("PNG", "TIFF", "JPEG2000")
ORIENTATION = 0x0112  # EXIF tag
# Factors by which Pillow scales the levels of a PNG, but not its transparent level, to 8 bits.
SCALES = {"L;2": 85, "L;4": 17}
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
WHITE_IS_ZERO, SIGNED = 0, 2
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height


@contextlib.contextmanager
def no_bomb_warnings() -> Iterator[None]:
    """Silence Pillow's warning about large pictures, which are refused here by MAX_PIXELS.

    `warnings.catch_warnings` is not thread-safe: enter this before starting threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def open_picture(data: bytes, path: str) -> Image.Image:
    """Read a picture's header, not its pixels.

    Raises: ValueError for what is not a picture, and for one that claims over MAX_PIXELS.
    """
    try:
        picture = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}; refused") from None
    except Exception as error:  # each format's parser raises errors of its own
        raise _unreadable(path, error) from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path}: claims {width}x{height} pixels, more than {MAX_PIXELS:,}; refused"
        )
    return picture


def upright_size(data: bytes, path: str) -> tuple[int, int]:
    """(width, height) of the decoded picture. Raises: ValueError, as `open_picture`."""
    picture = open_picture(data, path)
    width, height = picture.size
    orientation = None
    # A PNG may keep its EXIF behind the pixels, and Pillow then decodes these here. Damaged pixels
    # are reported when the picture itself is decoded.
    with contextlib.suppress(Exception):
        orientation = picture.getexif().get(ORIENTATION)
    # Pillow's TIFF reader swaps the sides itself when it reads the header.
    turned = picture.format != "TIFF" and orientation in TRANSPOSED
    return (height, width) if turned else (width, height)


def decode(data: bytes, path: str) -> Image.Image:
    """Encoded bytes to an upright RGB picture, by the rules in the table above.

    Raises: ValueError naming `path` for what is no picture, is cut short, claims over MAX_PIXELS,
    or is of a mode without a defined range.
    """
    return upright_rgb(open_picture(data, path), path)


def upright_rgb(picture: Image.Image, path: str) -> Image.Image:
    """A picture that Pillow has opened, as `decode` gives it; its pixels stay as they are.

    Raises: ValueError naming `path`, as `decode`.
    """
    is_png = isinstance(picture, PngImageFile)
    layout = picture.tile[0][3] if is_png and picture.tile else None
    try:
        picture.load()
        _scale_transparency(picture, layout, path)
        rgb = _to_rgb(picture, path)
        # After load(), because Pillow's TIFF reader turns the picture itself while loading.
        orientation = picture.getexif().get(ORIENTATION, 1)
        rgb.info.clear()
        rgb.getexif()[ORIENTATION] = orientation
        ImageOps.exif_transpose(rgb, in_place=True)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # each format's decoder raises errors of its own
        raise _unreadable(path, error) from None
    return rgb


class _Refused(Exception):
    """A mode whose black and white are not known, or pixels that may be transparent or not."""


def _scale_transparency(picture: Image.Image, layout: object, path: str) -> None:
    """Bring a PNG's one transparent colour to the 8 bits of the loaded pixels.

    layout: of the encoded pixels, by Pillow's name. Raises: _Refused for 16-bit RGB where a pixel
    has the colour's upper 8 bits: Pillow drops the lower ones, which may differ.
    """
    colour = picture.info.get("transparency")
    if layout in SCALES and isinstance(colour, int):
        bits = int(str(layout)[-1])
        picture.info["transparency"] = colour % (1 << bits) * SCALES[str(layout)]
    elif layout == "RGB;16B" and isinstance(colour, tuple):
        if (np.asarray(picture) == [level >> 8 for level in colour]).all(axis=2).any():
            raise _Refused(
                f"{path}: a 16-bit RGB picture with one transparent colour, of which only the "
                "upper 8 bits are read; expected an alpha channel: convert it first"
            )
        del picture.info["transparency"]  # no pixel has it


def _to_rgb(picture: Image.Image, path: str) -> Image.Image:
    mode, kind = picture.mode, picture.format or "converted"
    transparent = "transparency" in picture.info
    if SIGNED in np.ravel(getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT, 1)):
        mode += ", signed"  # at 8 bits, Pillow reads them as unsigned
    if mode.startswith("I;16") and kind in SIXTEEN_BIT_FORMATS:
        return _sixteen_bit_grey(np.asarray(picture).astype(np.uint16), picture)
    if mode == "I" and kind in ("PPM", "PNG"):  # Pillow widens their unsigned 16-bit grey to 32
        return _sixteen_bit_grey(np.clip(np.asarray(picture), 0, 65535).astype(np.uint16), picture)
    if mode in ALPHA_MODES or (transparent and mode in ("1", "L", "P", "RGB")):
        return _on_background(picture)
    if mode in PLAIN_MODES:
        return picture.convert("RGB")
    raise _Refused(
        f"{path}: a {kind} picture of mode {mode}, whose range of values is not known; "
        "expected 8-bit or 16-bit unsigned pixels: convert it first"
    )


def _sixteen_bit_grey(grey_HW: np.ndarray, picture: Image.Image) -> Image.Image:
    """Unsigned grey levels to RGB by their upper 8 bits; a transparent level becomes white."""
    tags = getattr(picture, "tag_v2", {})
    bits = int(np.ravel(tags.get(BITS_PER_SAMPLE, 16))[0])
    grey8_HW = (grey_HW >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts it at 8 bits, not at 16
        grey8_HW = 255 - grey8_HW
    rgb_HW3 = np.repeat(grey8_HW[..., None], 3, axis=2)
    level = picture.info.get("transparency")
    if isinstance(level, int):
        rgb_HW3[grey_HW == level] = BACKGROUND
    return Image.fromarray(rgb_HW3)


def _on_background(picture: Image.Image) -> Image.Image:
    """Composited on BACKGROUND: alpha * picture + (1 - alpha) * background, in 8 bits."""
    if picture.mode in ("La", "RGBa"):  # premultiplied by alpha
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    rgba = picture.convert("RGBA")
    ground = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


def _unreadable(path: str, error: Exception) -> ValueError:
    # Pillow names its stream or a temporary file; that says nothing to the reader.
    detail = str(error).split(" <_io")[0].split(" file <")[0]
    return ValueError(f"{path}: not a readable image ({detail}); expected e.g. PNG or JPEG")
