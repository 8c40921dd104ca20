"""One picture file -> one array of pixels, by rules that do not depend on the kind of file.

- Kinds: PNG, JPEG, BMP, WebP and TIFF, told apart by their content, not their name. Of several frames, the first.
- Turned upright as the EXIF orientation says (orientations that stand in XMP alone are not looked at).
- Grey of 1 to 8 bits becomes 8 bits; grey of 16 bits becomes round(v / 257), so 65535 is 255. Colour of 16 bits keeps
  its high byte (so does grey of 16 bits with alpha, which counts as colour): that is how Pillow reads it.
- Palettes become RGB, CMYK becomes RGB by Pillow's plain formula; colour profiles are not applied.
- Transparent pixels are laid over white, the page that cut-out objects and drawings are made for. (A transparent
  *value* of a 16-bit grey PNG is not looked at.)
- Asked for grey, colour becomes ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B); asked for colour, grey is repeated.
- Resizing is bilinear with antialiasing (each new pixel averages all old ones under it), after the rest.

Pillow's plug-ins are called directly, not through `Image.open`: that keeps the limit on pixels ours, and no warning
of Pillow's arises that would have to be silenced, which no thread can do without disturbing the others.
"""

import io
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnnjax.errors import Unreadable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}
TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # bytes of an entry's values, by their kind
STRIP = 256  # rows that are copied at once, so that of a large picture there is no further copy
MAX_MEGAPIXELS = 100  # a decoded picture takes 3 or 4 bytes a pixel, in each thread that reads

Source = str | os.PathLike | BinaryIO


def read_image(source: Source, *, channels: int, size: int | tuple[int, int], resize: str) -> np.ndarray:
    """Reads a picture.

    Args:
      source: a path, or a file open for reading in binary.
      channels: 1 (grey) or 3 (colour).
      size: (height, width) to bring it to, or the side of a square; 0: as stored.
      resize: for another shape, 'crop' scales it to cover the new shape and takes the centre, 'stretch' scales both sides,
        'pad' scales it to fit in and centres on black. A picture of the right size is not touched.

    Returns:
      [height, width, channels] uint8.

    Raises:
      Unreadable: it cannot be read.
    """
    image = _of_mode("L" if channels == 1 else "RGB", _decoded(content(source)))
    if size:
        height, width = (size, size) if isinstance(size, int) else size
        image = _resized(image, height, width, resize)
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        pixels[top : top + STRIP] = np.asarray(strip).reshape(-1, image.width, channels)
    return pixels


def probe(source: Source) -> tuple[int, int, int]:
    """Decodes a picture completely -> (height, width, channels) as it is stored, upright; channels is 1 or 3.

    Raises:
      Unreadable: it cannot be read.
    """
    image = _decoded(content(source))
    return image.height, image.width, len(image.getbands())


def read_stored(source: Source, colours: bool = False) -> np.ndarray:
    """The pixels of a file as they are stored, upright: what a mask says.

    Args:
      colours: they are what counts: a palette is looked up.

    Returns:
      [H, W] uint8 or uint16, of a palette its numbers, of one bit 0 and 1; or [H, W, 3] uint8 of colour, but where all three
      are equal everywhere, which is grey. Alpha is left out.

    Raises:
      Unreadable: it cannot be read.
    """
    in_colour = lambda image: image.convert("RGB") if image.mode in ("P", "PA") else _as_stored(image)
    pixels = np.array(_decoded(content(source), in_colour if colours else _as_stored))
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels.astype(np.uint16 if pixels.dtype.itemsize > 1 else np.uint8)


def content(source: Source) -> bytes:
    """The bytes of a file, or Unreadable."""
    try:
        return Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source.read()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error


def _decoded(data: bytes, brought_to: Callable[[Image.Image], Image.Image] | None = None) -> Image.Image:
    """An upright picture of mode L or RGB, or of what `brought_to` makes of it."""
    if not data:
        raise Unreadable("is empty (0 bytes)")
    try:
        image, exif = _opened(data)
        _check_size(*image.size)
        image.load()
        return _upright((brought_to or _flattened)(image), _orientation(exif))
    except (Unreadable, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # of a WebP, whose size Pillow looks at before we can
        raise Unreadable(f"has too many pixels: at most {MAX_MEGAPIXELS} megapixels are read") from error
    except Exception as error:  # Pillow's decoders let out nearly every kind there is
        reason = " ".join(str(error).split()) or type(error).__name__
        cut = isinstance(error.__cause__ or error, struct.error) or "truncated" in reason.lower() or _lacks_end(data)
        raise Unreadable("is truncated" if cut else f"is damaged ({reason})") from error


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self):
        """Pillow would parse the EXIF data here, of no use to us, and warn of every fault in it."""


def _opened(data: bytes) -> tuple[Image.Image, bytes]:
    """Reads the header -> (picture yet to be decoded, EXIF data)."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        data, exif = _png_essentials(data)
        return PngImageFile(io.BytesIO(data)), exif
    if data.startswith(b"\xff\xd8\xff"):
        kind = _Jpeg
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = WebPImageFile
    elif data.startswith(b"BM"):
        kind = BmpImageFile
    elif data[:4] in TIFF_STARTS:
        _check_tiff(data)
        return TiffImageFile(io.BytesIO(data)), b""  # Pillow turns it upright
    else:
        raise Unreadable("is not a picture (PNG, JPEG, BMP, WebP or TIFF)")
    image = kind(io.BytesIO(data))
    return image, image.info.get("exif", b"")


def _png_essentials(data: bytes) -> tuple[bytes, bytes]:
    """A PNG cut down to the chunks that hold its pixels, and its EXIF data.

    Text, profiles and animation go: Pillow would warn of faults in them, or refuse the picture for their sake.
    """
    kept, exif, at = [data[:8]], b"", 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at) if at + 8 <= len(data) else (0, b"")
        end = at + 12 + length
        if end > len(data):
            raise Unreadable("is truncated")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            # Pillow does not look at the checksums of pixels.
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise Unreadable(f"is damaged (wrong checksum of {kind.decode()})")
            kept.append(data[at:end])
        elif kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        if kind == b"IEND":
            return b"".join(kept), exif
        at = end


def _check_tiff(data: bytes) -> None:
    """Raises Unreadable where what the first directory lists ends beyond the file, of which Pillow would only warn."""
    order = TIFF_STARTS[data[:4]]
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, directory)
        for i in range(count):
            _, kind, number, place = struct.unpack_from(order + "HHII", data, directory + 2 + 12 * i)
            size = number * TIFF_SIZES[kind] if kind < len(TIFF_SIZES) else 0
            if size > 4 and place + size > len(data):
                raise Unreadable("is truncated")
    except struct.error:
        raise Unreadable("is truncated") from None


def _lacks_end(data: bytes) -> bool:
    """Whether a file that could not be decoded is shorter than its header says, or has no mark of its end."""
    if data.startswith(b"\xff\xd8"):
        return not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if data.startswith(b"RIFF"):
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little")


def _check_size(width: int, height: int) -> None:
    if width < 2 or height < 2:
        raise Unreadable(f"is {width}x{height}: at least 2x2 is needed")
    if width * height > MAX_MEGAPIXELS * 10**6:
        megapixels = math.ceil(width * height / 1e5) / 10  # upwards, so that it never reads '100: at most 100'
        raise Unreadable(f"has {megapixels:g} megapixels: at most {MAX_MEGAPIXELS} are read")


def _of_mode(mode: str, image: Image.Image) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _flattened(image: Image.Image) -> Image.Image:
    """Any mode -> L or RGB, transparency over white."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 257 is odd: no ties to round
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        raise Unreadable(f"has pixels of a kind that is not read (Pillow's mode {mode})")
    if mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return _of_mode("L" if mode in ("1", "L") else "RGB", image)
    if mode == "1":  # a transparent value is 0 or 255, in this mode and in L
        image = image.convert("L")
    image = image.convert("LA" if mode in ("1", "L", "LA") else "RGBA")
    *colours, alpha = image.split()
    page = Image.new("L" if len(colours) == 1 else "RGB", image.size, "white")
    page.paste(image.convert(page.mode), mask=alpha)
    return page


def _as_stored(image: Image.Image) -> Image.Image:
    if image.mode == "I":
        return Image.fromarray(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode in ("1", "L", "P", "RGB") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("LA", "PA", "RGBA"):
        return image.getchannel(0) if image.mode != "RGBA" else image.convert("RGB")
    raise Unreadable(f"has pixels of a kind that is not read (Pillow's mode {image.mode})")


def _orientation(exif: bytes) -> int:
    """1 to 8; 1 where the EXIF data do not say, or cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHI4s", exif, directory + 2 + 12 * i)
            if tag == 0x0112 and kind in (3, 4):  # a 16-bit number, as it should be, or a 32-bit one
                return struct.unpack(order + ("H2x" if kind == 3 else "I"), value)[0]
    except struct.error:
        pass
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _resized(image: Image.Image, height: int, width: int, resize: str) -> Image.Image:
    old_width, old_height = image.size
    if (old_width, old_height) == (width, height):
        return image
    if resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    if resize == "crop":
        # The centre is taken at whole pixels, so that nothing blurs where only cropping is needed.
        scale = min(old_width / width, old_height / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        left, top = (old_width - inner[0]) // 2, (old_height - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if resize == "pad":
        scale = min(width / old_width, height / old_height)
        inner = (max(1, round(old_width * scale)), max(1, round(old_height * scale)))
        page = Image.new(image.mode, (width, height))
        page.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return page
    raise ValueError(f"resize must be 'crop', 'stretch' or 'pad', not {resize!r}")
