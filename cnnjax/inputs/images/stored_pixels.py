"""Pictures of one shape and type, as tfds stores them, decoded one by one or many at once."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnjax.errors import Unreadable, first_line

# Pillow's mode, the same as PNG has it, its bits and its colour type, for pixels that are stored as PNG.
MODES = {
    ("uint8", 1): ("L", "L", 8, 0),
    ("uint8", 2): ("LA", "LA", 8, 4),
    ("uint8", 3): ("RGB", "RGB", 8, 2),
    ("uint8", 4): ("RGBA", "RGBA", 8, 6),
    ("uint16", 1): ("I;16", "I;16B", 16, 0),
    ("float32", 1): ("RGBA", "RGBA", 8, 6),  # tfds puts the 4 bytes of a float into 4 channels
}


def stored_pixels(file: bytes, shape: tuple[int, int, int], dtype: str) -> bytes:
    """The pixels [H, W, C] of a picture that is stored in this shape and type, or Unreadable."""
    height, width, channels = shape
    mode = MODES[dtype, channels][0]
    try:
        with Image.open(io.BytesIO(file)) as image:
            if image.size != (width, height):
                raise Unreadable(f"is {image.width}x{image.height} pixels, not {width}x{height}")
            if image.mode != mode and dtype != "uint8":
                raise Unreadable(f"has pixels of Pillow's mode {image.mode}, not {mode}")
            return (image if image.mode == mode else image.convert(mode)).tobytes()
    except UnidentifiedImageError as error:
        raise Unreadable("is not a picture") from error
    except (OSError, ValueError, SyntaxError, struct.error) as error:  # what Pillow raises for a damaged file
        raise Unreadable(f"is damaged ({first_line(error)})") from error


def plain_pixels(files: list[bytes], shape: tuple[int, int, int], dtype: str) -> bytes | None:
    """The pixels [n, H, W, C] of PNGs, or None unless all are whole and of this shape and type, without extras.

    For small pictures, it is what Pillow does around its decoder that takes the time. So the lines of all of them are
    put into one tall picture, which is decoded at once. An empty line ends each, for PNG stores differences to the
    line above.
    """
    height, width, channels = shape
    mode, raw_mode, *_ = MODES[dtype, channels]
    header, line = _png_header(shape, dtype), 1 + width * channels * np.dtype(dtype).itemsize
    try:
        pictures = [zlib.decompress(_png_data(file)) if file.startswith(header) else b"" for file in files]
        if any(len(picture) != height * line for picture in pictures):
            return None
        tall = zlib.compress(bytes(line).join([*pictures, b""]), 0)
        image = Image.frombytes(mode, (width, len(files) * (height + 1)), tall, "zip", raw_mode)
    except (zlib.error, OSError, ValueError):  # a damaged one, which reading them singly will find
        return None
    return np.frombuffer(image.tobytes(), np.uint8).reshape(-1, height + 1, line - 1)[:, :height].tobytes()


@functools.cache
def _png_header(shape: tuple[int, int, int], dtype: str) -> bytes:
    """How a PNG of this shape and type begins, where it is not interlaced."""
    height, width, channels = shape
    *_, bits, colour = MODES[dtype, channels]
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _png_data(file: bytes) -> bytes:
    """The compressed pixels of a PNG, or nothing where it has critical chunks (upper-case) besides."""
    parts, at = [], 33
    while at + 8 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        if kind == b"IDAT":
            parts.append(file[at + 8 : at + 8 + length])
        elif kind == b"IEND":
            return b"".join(parts)
        elif kind[:1].isupper():
            break
        at += 12 + length
    return b""
