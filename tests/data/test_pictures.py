"""Every rule by which a file becomes pixels, and every file that is refused."""

import io
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cnnjax.errors import Unreadable
from cnnjax.inputs.images import decoding
from cnnjax.inputs.images.decoding import probe, read_image

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def encoded(image, kind="PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    file.seek(0)
    return file


def read(file, channels=3, size=0, resize="crop"):
    return read_image(file, channels=channels, size=size, resize=resize)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, raw: bytes, extra: bytes = b"") -> io.BytesIO:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def fault(file) -> str:
    with pytest.raises(Unreadable) as raised:
        probe(file)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What pixels become


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_colour_is_read_as_it_is(kind):
    file = encoded(COLOUR, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(read(file), COLOUR)
    file.seek(0)
    assert probe(file) == (20, 30, 3)


def test_jpeg_is_read_as_pillow_reads_it():
    file = encoded(COLOUR, "JPEG")
    np.testing.assert_array_equal(read(file), np.asarray(Image.open(file)))


def test_a_path_is_read_too(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(COLOUR).getvalue())
    np.testing.assert_array_equal(read(path), read(str(path)))
    assert probe(path) == (20, 30, 3)


def test_result_is_ones_own_memory():
    image = read(encoded(COLOUR))
    image[:] = 0
    assert image.dtype == np.uint8 and image.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit_becomes_black_and_white(kind):
    bits = GREY > 127
    file = encoded(Image.fromarray(bits), kind)
    assert probe(file) == (20, 30, 1)
    file.seek(0)
    np.testing.assert_array_equal(read(file, 1)[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_of_grey_are_spread_over_the_whole_range(bits):
    top = 2**bits - 1
    values = np.arange(8) % (top + 1)
    packed = np.packbits(((values[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()).tobytes()
    file = png(8, 2, bits, 0, (b"\0" + packed) * 2)
    np.testing.assert_array_equal(read(file, 1)[0, :, 0], values * 255 // top)


def test_sixteen_bit_grey_is_rounded_to_eight():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]] * 2, np.uint16)
    file = encoded(values)
    assert probe(file) == (2, 8, 1)
    file.seek(0)
    np.testing.assert_array_equal(read(file, 1)[..., 0], np.round(values / 257))


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_each_of_pillows_wide_modes_is_rounded_alike(mode):
    values = np.arange(0, 65536, 37)[None].astype({"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode])
    image = Image.frombytes(mode, values.shape[::-1], values.tobytes())
    flat = decoding._flattened(image)
    assert flat.mode == "L"
    np.testing.assert_array_equal(np.asarray(flat), np.round(values.astype(np.float64) / 257))


def test_floating_point_is_refused():
    with pytest.raises(Unreadable, match=r"not read \(Pillow's mode F\)"):
        decoding._flattened(Image.new("F", (4, 4)))


def test_sixteen_bit_colour_keeps_its_high_byte():
    values = RNG.integers(0, 65536, (3, 4, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    np.testing.assert_array_equal(read(png(4, 3, 16, 2, raw)), values >> 8)
    # A transparent value of 16 bits does not fit Pillow's 8: it must not be an error.
    read(png(4, 3, 16, 2, raw, extra=chunk(b"tRNS", b"\x12\x34" * 3)))


def test_sixteen_bit_grey_with_alpha_counts_as_colour():
    values = np.array([[[0, 65535], [65535, 65535]]] * 2, ">u2")
    file = png(2, 2, 16, 4, b"".join(b"\0" + row.tobytes() for row in values))
    assert probe(file) == (2, 2, 3)
    file.seek(0)
    np.testing.assert_array_equal(read(file, 1)[0, :, 0], [0, 255])


def test_palette_becomes_colour():
    image = Image.fromarray(COLOUR).quantize(16)
    file = encoded(image)
    assert probe(file) == (20, 30, 3)
    file.seek(0)
    np.testing.assert_array_equal(read(file), np.asarray(image.convert("RGB")))


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_colour_is_laid_over_white(kind):
    alpha = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    alpha[:5], alpha[5:10] = 0, 255
    file = encoded(np.dstack([COLOUR, alpha]), kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = read(file)
    np.testing.assert_allclose(image, over_white(COLOUR, alpha), atol=1)
    assert (image[:5] == 255).all()
    np.testing.assert_array_equal(image[5:10], COLOUR[5:10])


def test_transparent_grey_is_laid_over_white_and_stays_grey():
    alpha = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    file = encoded(Image.fromarray(np.dstack([GREY, alpha]), "LA"))
    assert probe(file) == (20, 30, 1)
    file.seek(0)
    np.testing.assert_allclose(read(file, 1), over_white(GREY[..., None], alpha), atol=1)


def test_transparent_colours_of_a_palette_are_laid_over_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    for transparency in (0, b"\x00\xff"):
        pixels = read(encoded(image, transparency=transparency))
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [40, 50, 60]


@pytest.mark.parametrize("mode, ink, clear", [("L", 7, 9), ("RGB", (1, 2, 3), (4, 5, 6)), ("1", 0, 1), ("1", 1, 0)])
def test_a_transparent_value_is_white(mode, ink, clear):
    image = Image.new(mode, (4, 4), ink)
    image.putpixel((0, 0), clear)
    pixels = read(encoded(image, transparency=clear))
    expected = {"1": [255 * ink if mode == "1" else 0] * 3, "L": [7] * 3, "RGB": [1, 2, 3]}[mode]
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[1, 1].tolist() == expected


def test_cmyk_becomes_colour():
    image = Image.fromarray(COLOUR).resize((32, 32)).convert("CMYK")
    file = encoded(image, "JPEG", quality=95)
    assert probe(file) == (32, 32, 3)
    file.seek(0)
    np.testing.assert_array_equal(read(file), np.asarray(Image.open(file).convert("RGB")))


def test_grey_asked_for_as_colour_is_repeated():
    np.testing.assert_array_equal(read(encoded(GREY), 3), np.dstack([GREY] * 3))


def test_colour_asked_for_as_grey_is_luma():
    expected = COLOUR @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(encoded(COLOUR), 1)[..., 0], expected, atol=0.51)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(file.getvalue())).n_frames == 2
    assert (read(file) == [255, 0, 0]).all()


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(COLOUR, "PNG").getvalue())
    np.testing.assert_array_equal(read(path), COLOUR)


# Orientation

UPRIGHT = {  # what has been stored -> what a person should see, by the EXIF standard
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(orientation, kind):
    exif = Image.Exif()
    exif[0x010F] = "a maker"  # not the only entry
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    file, plain = encoded(COLOUR, kind, exif=exif, **options), read(encoded(COLOUR, kind, **options))
    expected = UPRIGHT[orientation](plain)
    np.testing.assert_array_equal(read(file), expected)
    file.seek(0)
    assert probe(file) == (*expected.shape[:2], 3)


@pytest.mark.parametrize("order", "<>")
def test_orientation_in_both_byte_orders_and_widths(order):
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    for entry in (struct.pack(order + "HHIHxx", 0x0112, 3, 1, 6), struct.pack(order + "HHII", 0x0112, 4, 1, 6)):
        exif = head + struct.pack(order + "H", 1) + entry
        assert decoding._orientation(exif) == decoding._orientation(b"Exif\0\0" + exif) == 6


@pytest.mark.parametrize("exif", [b"", b"junk", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_broken_exif_changes_nothing(exif):
    # Warnings are errors here: none may come of it.
    np.testing.assert_array_equal(read(encoded(COLOUR, exif=exif)), COLOUR)
    jpeg = encoded(COLOUR, "JPEG", exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read(jpeg), read(encoded(COLOUR, "JPEG")))


def test_an_orientation_out_of_range_changes_nothing():
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(read(encoded(COLOUR, exif=exif)), COLOUR)


# Size


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(40, 17), (17, 40), (24, 24), (5, 9), (2, 300)])
def test_every_shape_comes_to_the_size_asked_for(shape, channels, resize):
    image = read(encoded(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)), channels, 24, resize)
    assert image.shape == (24, 24, channels) and image.dtype == np.uint8


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_the_right_size_is_not_touched(resize):
    np.testing.assert_array_equal(read(encoded(COLOUR[:, :20]), 3, 20, resize), COLOUR[:, :20])


@pytest.mark.parametrize("width", [29, 30])
def test_crop_of_the_right_short_side_only_cuts(width):
    left = (width - 20) // 2
    np.testing.assert_array_equal(read(encoded(COLOUR[:, :width]), 3, 20, "crop"), COLOUR[:, left : left + 20])
    turned = COLOUR[:, :width].transpose(1, 0, 2)
    np.testing.assert_array_equal(read(encoded(turned), 3, 20, "crop"), turned[left : left + 20])


def test_crop_scales_the_short_side():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200  # the centre square
    cropped = read(encoded(image), 3, 10, "crop")
    assert (cropped[:, 1:-1] == 200).all()
    # As after scaling the whole picture, the outermost pixels have seen a little of what lies beyond.
    assert (cropped[:, [0, -1]] == 175).all()


def test_stretch_keeps_all_of_the_picture():
    image = np.zeros((20, 60), np.uint8)
    image[:, 30:] = 255
    stretched = read(encoded(image), 1, 20, "stretch")[..., 0]
    assert (stretched[:, :9] == 0).all() and (stretched[:, 11:] == 255).all()


def test_pad_centres_on_black():
    image = read(encoded(np.full((20, 40, 3), 200, np.uint8)), 3, 20, "pad")
    assert (image[:5] == 0).all() and (image[5:15] == 200).all() and (image[15:] == 0).all()
    image = read(encoded(np.full((40, 20), 200, np.uint8)), 1, 20, "pad")
    assert (image[:, :5] == 0).all() and (image[:, 5:15] == 200).all() and (image[:, 15:] == 0).all()


def test_shrinking_averages():
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(read(encoded(checkerboard), 1, 8)[1:-1, 1:-1], 127.5, atol=1.5)


# What is refused


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"lossless": True}])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_cut_off_anywhere(kind, options):
    data = encoded(COLOUR, kind, **options).getvalue()
    for length in range(1, len(data) - (2 if kind == "BMP" else 0), 7):  # a BMP ends in 2 bytes of padding
        expected = "is not a picture (PNG, JPEG, BMP, WebP or TIFF)" if length < 12 else "is truncated"
        assert fault(io.BytesIO(data[:length])) in (expected, "is truncated")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damage_anywhere_is_no_other_exception(kind):
    data = bytearray(encoded(COLOUR, kind).getvalue())
    refused = 0
    for position in range(0, len(data), 3):
        data[position] ^= 0x55
        try:
            probe(io.BytesIO(bytes(data)))
        except Unreadable as error:
            assert "\n" not in str(error)
            refused += 1
        data[position] ^= 0x55
    assert refused == len(range(0, len(data), 3)) if kind == "PNG" else refused > 0  # PNG has checksums


def test_damaged_png_names_the_chunk():
    data = bytearray(encoded(COLOUR).getvalue())
    data[100] ^= 1
    assert fault(io.BytesIO(bytes(data))) == "is damaged (wrong checksum of IDAT)"


def test_damage_in_metadata_does_not_matter():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2_000_000, zip=True)  # Pillow refuses to unpack so much
    file = encoded(COLOUR, pnginfo=info)
    with pytest.raises(ValueError):
        Image.open(file).load()
    file.seek(0)
    np.testing.assert_array_equal(read(file), COLOUR)
    broken_animation = chunk(b"acTL", b"\0" * 8)  # Pillow warns of it
    read(png(2, 2, 8, 0, b"\0\1\2" * 2, extra=broken_animation))


def test_empty():
    assert fault(io.BytesIO()) == "is empty (0 bytes)"


@pytest.mark.parametrize("data", [b"hello", b"GIF89a", b"\0" * 100, b"RIFF....WAVE", b"\x89PNG"])
def test_not_a_picture(data):
    assert fault(io.BytesIO(data)) == "is not a picture (PNG, JPEG, BMP, WebP or TIFF)"


def test_missing_and_folder(tmp_path):
    assert fault(tmp_path / "none.png") == "cannot be read: No such file or directory"
    assert fault(tmp_path) == "cannot be read: Is a directory"


@pytest.mark.parametrize("width, height", [(1, 1), (1, 5), (5, 1)])
def test_too_small(width, height):
    assert fault(encoded(Image.new("L", (width, height)))) == f"is {width}x{height}: at least 2x2 is needed"


def test_smallest():
    assert probe(encoded(Image.new("L", (2, 2)))) == (2, 2, 1)


@pytest.mark.parametrize(
    "width, height, megapixels", [(20000, 6000, "120"), (10001, 10000, "100.1"), (60000, 60000, "3600")]
)
def test_too_many_pixels_is_known_from_the_header(width, height, megapixels):
    # The pixels are missing: had they been looked at, the message would be another.
    assert fault(png(width, height, 1, 0, b"")) == f"has {megapixels} megapixels: at most 100 are read"


def test_too_many_pixels_in_other_kinds():
    jpeg = bytearray(encoded(COLOUR, "JPEG").getvalue())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    assert fault(io.BytesIO(bytes(jpeg))) == "has 400 megapixels: at most 100 are read"
    bmp = bytearray(encoded(COLOUR, "BMP").getvalue())
    bmp[18:26] = struct.pack("<ii", 20000, 20000)
    assert fault(io.BytesIO(bytes(bmp))) == "has 400 megapixels: at most 100 are read"
    webp = bytearray(encoded(COLOUR, "WEBP").getvalue())
    webp[26:30] = struct.pack("<HH", 16000, 16000)
    assert "at most 100" in fault(io.BytesIO(bytes(webp)))


def test_many_pixels_do_not_warn():
    # Between Pillow's own limit for a warning, 89 megapixels, and ours.
    assert probe(encoded(Image.new("1", (10000, 9500)))) == (9500, 10000, 1)


def test_threads_agree():
    files = [encoded(RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8), "JPEG").getvalue() for _ in range(32)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: read(io.BytesIO(data), 3, 32), files))
    np.testing.assert_array_equal(together, [read(io.BytesIO(data), 3, 32) for data in files])


def test_unknown_resize():
    with pytest.raises(ValueError, match="crop"):
        read(encoded(COLOUR), 3, 8, "squeeze")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_tiff(compression):
    deep = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    np.testing.assert_array_equal(decoding.read_stored(encoded(deep, "TIFF", compression=compression)), deep)
    wanted = np.round(deep / 257)[..., None]
    np.testing.assert_array_equal(read(encoded(deep, "TIFF", compression=compression), 1), wanted)
    turned = encoded(COLOUR, "TIFF", compression=compression, tiffinfo={274: 6})
    np.testing.assert_array_equal(read(turned), np.rot90(COLOUR, -1))
    assert "Pillow's mode F" in fault(encoded(GREY.astype(np.float32), "TIFF", compression=compression))
    whole = encoded(COLOUR, "TIFF", compression=compression).getvalue()
    for length in range(4, len(whole), 7):
        assert fault(io.BytesIO(whole[:length])) == "is truncated"


def test_a_large_picture_is_copied_once():
    pixels = np.zeros((2000, 800, 3), np.uint8)
    file = encoded(pixels)
    tracemalloc.start()
    read_image(file, channels=3, size=0, resize="crop")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * pixels.nbytes  # what Python holds: the picture, and a strip
