"""Decoding to 8-bit RGB, arrays and tensors, content keys, and the exact resize."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from scorekit.images import (
    MAX_PIXELS,
    as_uint8,
    content_key,
    decode,
    is_tensor,
    read_bytes,
    to_rgb,
)
from scorekit.resize import ImageSpec
from scorekit.types import STATUSES, InputError

REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "images"


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def status_of(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    return caught.value.status


def note_of(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    return caught.value.note


def png_chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, *chunks, depth=8, colour=2, rows=b""):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", head),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


# Formats and modes


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind):
    pixels = np.repeat(noise(5, 7, 1)[:, :, None], 3, 2)
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(Image.fromarray(pixels), kind, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_jpeg_is_decoded_as_pil_does():
    data = encoded(Image.fromarray(noise(20, 30)), "JPEG")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_several(kind):
    first, second = (Image.new("RGB", (4, 4), c) for c in ("#ff0000", "#0000ff"))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


def test_mpo_gives_its_first_picture():
    first, second = (Image.new("RGB", (8, 8), c) for c in ("#ffffff", "#000000"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    image = Image.fromarray(noise(2, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data)
    assert found.size == ((2, 3) if orientation > 4 else (3, 2))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_orientation_is_not_applied_twice():
    exif = Image.Exif()
    exif[0x0112] = 6
    once = decode(encoded(Image.fromarray(noise(2, 3)), "JPEG", exif=exif))
    assert np.array_equal(as_uint8(once), np.asarray(once))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_lose_the_image():
    data = encoded(
        Image.new("RGB", (2, 2), "#ff0000"), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"
    )
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(kind):
    image = Image.new("RGBA", (1, 1), (200, 100, 0, 51))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    # 0.2 * value + 0.8 * 255
    assert decode(encoded(image, kind, **options)).getpixel((0, 0)) == (244, 224, 204)


def test_transparent_black_is_white_not_black():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    assert decode(encoded(image)).getpixel((0, 0)) == (255, 255, 255)


def test_grey_with_alpha():
    assert decode(encoded(Image.new("LA", (1, 1), (0, 51)))).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_entry(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    found = decode(encoded(image, kind, transparency=0))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_palette_with_alpha_by_entry():
    image = Image.new("P", (1, 1))
    image.putpalette([0, 0, 0])
    found = decode(encoded(image, transparency=b"\x33"))
    assert found.getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize(
    ("mode", "colour", "transparent"), [("RGB", (9, 8, 7), (9, 8, 7)), ("L", 9, 9), ("1", 0, 0)]
)
def test_transparent_colour_without_alpha(mode, colour, transparent):
    data = encoded(Image.new(mode, (1, 1), colour), transparency=transparent)
    assert decode(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa"])
def test_rare_alpha_modes_in_memory(mode):
    image = Image.new("LA" if mode == "La" else "RGBA", (1, 1))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    image.putalpha(0) if mode == "PA" else None
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (32768, 128), (65535, 255)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_rounded(kind, value, expected):
    image = Image.fromarray(np.full((2, 2), value, np.uint16))
    assert decode(encoded(image, kind)).getpixel((0, 0)) == (expected,) * 3


def test_16_bit_big_endian_tiff():
    image = Image.frombytes("I;16B", (1, 1), struct.pack(">H", 32768))
    assert decode(encoded(image, "TIFF")).getpixel((0, 0)) == (128, 128, 128)


def test_16_bit_white_is_zero_tiff():
    data = encoded(Image.fromarray(np.full((1, 1), 65535, np.uint16)), "TIFF", tiffinfo={262: 0})
    assert TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2[262] == 0
    assert decode(data).getpixel((0, 0)) == (0, 0, 0)


def test_16_bit_grey_with_a_transparent_value():
    rows = b"\0" + struct.pack(">HH", 7, 32768)
    data = png(2, 1, png_chunk(b"tRNS", struct.pack(">H", 7)), depth=16, colour=0, rows=rows)
    assert [decode(data).getpixel((x, 0))[0] for x in (0, 1)] == [255, 128]


def test_32_bit_integers_are_refused_not_clipped():
    image = Image.fromarray(np.full((2, 2), 70000, np.int32))
    assert status_of(decode, encoded(image, "TIFF")) == "invalid_image"
    assert status_of(to_rgb, image) == "invalid_image"


def test_float_tiff_in_range():
    image = Image.fromarray(np.full((2, 2), 0.5, np.float32))
    assert decode(encoded(image, "TIFF")).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0, np.nan, np.inf])
def test_float_tiff_out_of_range(value):
    image = Image.fromarray(np.full((2, 2), value, np.float32))
    assert status_of(decode, encoded(image, "TIFF")) == "invalid_image"


def test_one_bit():
    assert decode(encoded(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    options = {"quality": 100} if kind == "JPEG" else {}
    found = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind, **options))
    assert np.abs(np.array(found.getpixel((4, 4)), int) - (255, 0, 0)).max() <= 3


def test_adobe_inverted_cmyk_jpeg_is_not_a_negative():
    data = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", quality=100)
    assert b"Adobe" in data
    assert min(decode(data).getpixel((4, 4))) >= 250


def test_cmyk_with_a_profile_that_does_not_work():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"not a profile"):
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        data = encoded(image, "TIFF", icc_profile=profile)
        assert decode(data).getpixel((0, 0)) == (255, 0, 0)


def test_lab():
    image = ImageCms.profileToProfile(
        Image.new("RGB", (2, 2), (200, 30, 40)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    for found in (to_rgb(image), decode(encoded(image, "TIFF"))):
        assert np.abs(np.array(found.getpixel((0, 0)), int) - (200, 30, 40)).max() <= 4


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "L", "RGBX"])
def test_other_modes_follow_pil(mode):
    image = Image.fromarray(noise(3, 3)).convert(mode)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_rgb_is_returned_as_it_is():
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image


# What can't be decoded


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html>", "not an image but an HTML page"),
        (b"hello", "not an image but a text"),
        (b"\0\n\xff", "not an image but other binary data"),
        (b"8BPS\0\1" + bytes(40), "a PSD file; only PNG, JPEG, WebP, GIF, BMP, TIFF are read"),
        (b"%!PS-Adobe-3.0", "a PostScript file; only PNG, JPEG, WebP, GIF, BMP, TIFF are read"),
    ],
)
def test_what_is_not_an_image(data, note):
    with pytest.raises(InputError) as caught:
        decode(data)
    assert (caught.value.status, caught.value.note) == ("unreadable_image", note)


def test_git_lfs_pointer_is_named():
    assert "Git LFS" in note_of(decode, b"version https://git-lfs.github.com/spec/v1\noid sha256:0")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]
)
def test_a_magic_number_and_rubbish(head):
    for rubbish in (b"", bytes(50), b"\xff" * 200, np.random.default_rng(0).bytes(100)):
        assert status_of(decode, head + rubbish) in ("unreadable_image", "oversized_image")


def outcome(data):
    """The pixels, or the status."""
    try:
        return np.asarray(decode(data))
    except InputError as error:
        return error.status


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_cut_at_any_byte_is_an_error_or_complete(kind):
    data = encoded(Image.fromarray(noise(9, 11)), kind)
    whole = np.asarray(decode(data))
    for end in range(len(data)):
        found = outcome(data[:end])
        assert found == "unreadable_image" if isinstance(found, str) else (found == whole).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_half_a_file_is_said_to_be_cut_short(kind):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    assert note_of(decode, data[: len(data) // 2]).startswith("cut short: ")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_bytes_never_escape_as_another_exception(kind):
    random = np.random.default_rng(0)
    data = encoded(Image.fromarray(noise(16, 16)), kind)
    for _ in range(150):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 4):
            damaged[at] = random.integers(256)
        found = outcome(bytes(damaged))
        assert not isinstance(found, str) or found in STATUSES


def test_oversized_by_its_header_without_a_warning():
    side = int(MAX_PIXELS**0.5) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert status_of(decode, png(side, side)) == "oversized_image"
        assert status_of(decode, png(60000, 60000)) == "oversized_image"


def test_the_largest_size_is_not_oversized():
    # The header passes; the pixels are missing.
    assert status_of(decode, png(MAX_PIXELS // 9000, 9000)) == "unreadable_image"


def test_oversized_webp_canvas():
    data = b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6
    assert status_of(decode, data) == "oversized_image"


def test_text_chunk_bomb_is_a_status():
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))
    data = png(1, 1, bomb, rows=b"\0\1\2\3")
    assert status_of(decode, data) == "unreadable_image"


def test_threads_see_no_warning_and_the_same_pixels():
    data, big = encoded(Image.fromarray(noise(32, 32))), png(20000, 5000)
    found = []

    def work():
        for _ in range(20):
            found.append(np.asarray(decode(data)).sum())
            assert status_of(decode, big) == "oversized_image"

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 80
    assert len(set(found)) == 1
    assert not seen


def test_oversized_pil_image_is_refused_like_its_file():
    image = Image.new("1", (MAX_PIXELS // 9000 + 1, 9000))
    assert status_of(to_rgb, image) == "oversized_image"
    assert status_of(content_key, image) == "oversized_image"


def test_pil_image_of_a_cut_file():
    data = encoded(Image.fromarray(noise(64, 64)))
    assert status_of(as_uint8, Image.open(io.BytesIO(data[:3000]))) == "unreadable_image"


# Files


def test_read_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_bytes(tmp_path / "a") == b"abc"


def test_missing_file(tmp_path):
    with pytest.raises(InputError) as caught:
        read_bytes(tmp_path / "a.png")
    assert caught.value.status == "missing_image"
    assert str(tmp_path / "a.png") in caught.value.note


def test_folder_is_not_a_file(tmp_path):
    assert note_of(read_bytes, tmp_path) == f"{tmp_path} is a folder"


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "file/below.png"])
def test_impossible_paths(tmp_path, name):
    (tmp_path / "file").touch()
    assert status_of(read_bytes, f"{tmp_path}/{name}") == "missing_image"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert note_of(read_bytes, tmp_path / "a.png").endswith("is not a regular file")


# Arrays


def test_uint8_array_is_itself():
    pixels = noise(4, 5)
    assert np.array_equal(as_uint8(pixels), pixels)


def test_channels_first_array():
    pixels = noise(4, 5)
    assert np.array_equal(as_uint8(pixels.transpose(2, 0, 1)), pixels)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 4, 5)])
def test_grey_array_is_repeated(shape):
    found = as_uint8(noise(4, 5, 1).reshape(shape))
    assert np.array_equal(found, np.repeat(noise(4, 5, 1)[:, :, None], 3, 2))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_levels_come_back(kind):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(as_uint8((levels / 255).astype(kind))[:, :, 0], levels)


def test_uint16_and_bool_arrays():
    assert as_uint8(np.array([[0, 128, 129, 65535]], np.uint16))[0, :, 0].tolist() == [0, 0, 1, 255]
    assert as_uint8(np.array([[False, True]]))[0, :, 0].tolist() == [0, 255]


def test_rgba_array_equals_the_pil_image():
    pixels = noise(6, 7, 4)
    assert np.array_equal(as_uint8(pixels), as_uint8(Image.fromarray(pixels)))


def test_array_with_both_layouts_is_channels_last():
    pixels = noise(3, 5)
    assert np.array_equal(as_uint8(pixels), pixels)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4), 1.5),
        np.full((4, 4), -0.01),
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf),
        np.array([[np.nan, 2.0]]),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), np.int8),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), object),
        np.zeros((4, 4), "U3"),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros(4, np.uint8),
        [[0, 1], [2, 3]],
        None,
        3,
    ],
)
def test_invalid_arrays(array):
    assert status_of(as_uint8, array) == "invalid_image"


def test_note_of_a_wrong_range_names_the_values():
    note = note_of(as_uint8, np.array([[0.0, 255.0]]))
    assert note == "float values must lie in 0 to 1, found 0 to 255"


def test_paths_and_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(noise(4, 5))))
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        assert np.array_equal(as_uint8(image), noise(4, 5))


# Tensors


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_tensor_channels_first(torch):
    pixels = noise(6, 5)
    assert np.array_equal(as_uint8(torch.from_numpy(pixels).permute(2, 0, 1)), pixels)
    assert np.array_equal(as_uint8(torch.from_numpy(pixels)), pixels)
    assert as_uint8(torch.from_numpy(noise(4, 5, 1))).shape == (4, 5, 3)


def test_tensor_with_both_layouts_is_channels_first(torch):
    pixels = noise(3, 5)
    assert np.array_equal(as_uint8(torch.from_numpy(pixels)), pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_float_tensor(torch, kind):
    levels = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    found = as_uint8((levels / 255).to(getattr(torch, kind)))
    assert np.array_equal(found[:, :, 0], levels.numpy())


def test_bfloat16_and_gradients(torch):
    image = torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert as_uint8(image).tolist() == np.full((2, 2, 3), 128).tolist()


def test_invalid_tensors(torch):
    for tensor in (
        torch.full((3, 2, 2), 2.0),
        torch.zeros(3, 2, 2, dtype=torch.int64),
        torch.zeros(1, 3, 2, 2),
        torch.zeros(3, 2, 2, device="meta"),
        torch.full((3, 2, 2), float("nan")),
    ):
        assert status_of(as_uint8, tensor) == "invalid_image"


def test_is_tensor(torch):
    assert is_tensor(torch.nn.Parameter(torch.zeros(1)))
    assert not is_tensor(np.zeros(1))


# Content keys


def test_keys_differ_where_the_reading_differs(torch):
    pixels = noise(3, 3)
    palette = Image.fromarray(pixels).convert("P")
    recoloured = palette.copy()
    recoloured.putpalette([0, 0, 0] * 256)
    transparent = palette.copy()
    transparent.info["transparency"] = 0
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    keys = [
        content_key(image)
        for image in (
            pixels,
            pixels.transpose(2, 0, 1),
            pixels[:, :, 0],
            pixels.astype(np.uint16),
            torch.from_numpy(pixels),
            pixels.tobytes(),
            Image.fromarray(pixels),
            turned,
            Image.fromarray(pixels[:, :, 0]),
            palette,
            recoloured,
            transparent,
        )
    ]
    assert len(set(keys)) == len(keys)


def test_equal_content_has_one_key(torch, tmp_path):
    pixels = noise(4, 6)
    flipped = np.ascontiguousarray(pixels[::-1])[::-1]
    assert content_key(pixels) == content_key(flipped)
    assert content_key(torch.from_numpy(pixels)) == content_key(torch.from_numpy(pixels.copy()))
    assert content_key(torch.ones(2, 2, dtype=torch.bfloat16)) != content_key(torch.ones(2, 2))
    data = encoded(Image.fromarray(pixels))
    (tmp_path / "a.png").write_bytes(data)
    assert content_key(data) == content_key(tmp_path / "a.png")
    opened = Image.open(io.BytesIO(data))
    assert content_key(opened) == content_key(Image.fromarray(pixels))


def test_keys_of_inputs_without_content():
    assert status_of(content_key, None) == "invalid_image"
    assert status_of(content_key, np.array([object()])) == "invalid_image"


# Resize and crop

SIZES = [(w, h) for w in (1, 31, 64, 97, 224, 225, 301) for h in (2, 64, 101, 223, 224, 450)]


@pytest.fixture(scope="module")
def transforms():
    return pytest.importorskip("torchvision.transforms")


@pytest.mark.parametrize(("resize_to", "crop"), [(224, 224), (256, 224), (63, 63), (65, 64)])
def test_equals_torchvision(transforms, resize_to, crop):
    mode = transforms.InterpolationMode.BICUBIC
    reference = transforms.Compose(
        [transforms.Resize(resize_to, mode), transforms.CenterCrop(crop)]
    )
    spec = ImageSpec(size=(crop, crop), resize_to=resize_to)
    for width, height in SIZES:
        image = Image.fromarray(noise(height, width))
        assert np.array_equal(spec.apply(image), np.asarray(reference(image))), (width, height)


def test_every_parity_of_margins_equals_torchvision(transforms):
    for crop in (7, 8):
        reference = transforms.CenterCrop(crop)
        spec = ImageSpec(size=(crop, crop), mode="none")
        for side in range(1, 20):
            image = Image.fromarray(noise(side, 27 - side))
            assert np.array_equal(spec.apply(image), np.asarray(reference(image)))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "lanczos"])
def test_interpolations_equal_torchvision(transforms, interpolation):
    mode = transforms.InterpolationMode(interpolation)
    image = Image.fromarray(noise(101, 64))
    spec = ImageSpec(size=(48, 48), interpolation=interpolation)
    reference = transforms.Compose([transforms.Resize(48, mode), transforms.CenterCrop(48)])
    assert np.array_equal(spec.apply(image), np.asarray(reference(image)))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(64, 64), (65, 48), (48, 65)])
@pytest.mark.parametrize("fill", [0, 127])
def test_equals_open_clip(mode, size, fill):
    transform = pytest.importorskip("open_clip.transform")
    argument = size[0] if size[0] == size[1] else size
    reference = transform.image_transform(
        argument, is_train=False, resize_mode=mode, fill_color=fill, mean=(0,) * 3, std=(1,) * 3
    )
    spec = ImageSpec(size=size, mode=mode, fill=fill)
    for width, height in [(31, 64), (64, 64), (97, 50), (50, 98), (301, 201), (13, 130)]:
        image = Image.fromarray(noise(height, width))
        expected = (reference(image).permute(1, 2, 0).numpy() * 255).round()
        assert np.array_equal(spec.apply(image), expected), (width, height)


def test_floor_equals_transformers():
    pytest.importorskip("transformers")
    from transformers.image_transforms import center_crop

    for crop in (7, 8):
        spec = ImageSpec(size=(crop, crop), mode="none", crop_rounding="floor")
        for side in range(1, 20):
            pixels = noise(side, 27 - side)
            expected = center_crop(pixels, (crop, crop), input_data_format="channels_last")
            assert np.array_equal(spec.apply(pixels), expected)


def test_rounding_matters_for_an_odd_margin():
    pixels = noise(11, 8)
    cut = {
        how: ImageSpec(size=(8, 8), mode="none", crop_rounding=how).apply(pixels)
        for how in ("round", "floor")
    }
    assert np.array_equal(cut["round"], pixels[2:10])
    assert np.array_equal(cut["floor"], pixels[1:9])


def test_fill_of_a_padding():
    spec = ImageSpec(size=(1, 3), mode="none", fill=(1, 2, 3))
    assert spec.apply(np.full((1, 1, 3), 9, np.uint8)).tolist() == [
        [[1, 2, 3], [9, 9, 9], [1, 2, 3]]
    ]


def test_narrow_image_does_not_exhaust_memory():
    spec = ImageSpec(size=(224, 224))
    assert status_of(spec.apply, Image.new("RGB", (1, 100_000))) == "oversized_image"


def test_without_crop_the_size_must_be_right():
    spec = ImageSpec(size=(8, 8), mode="none", crop=False)
    assert spec.apply(noise(8, 8)).shape == (8, 8, 3)
    assert status_of(spec.apply, noise(8, 9)) == "invalid_image"


def test_describe_tells_every_field_apart():
    base = {"size": (224, 224)}
    specs = [
        ImageSpec(**{**base, **change})
        for change in (
            {},
            {"size": (224, 336)},
            {"resize_to": 256},
            {"mode": "squash"},
            {"mode": "none"},
            {"interpolation": "bilinear"},
            {"mean": (0.48145466, 0.4578275, 0.40821073)},
            {"std": (0.5, 0.5, 0.5)},
            {"rescale": 1 / 127.5},
            {"crop": False},
            {"crop_rounding": "floor"},
            {"fill": 127},
        )
    ]
    assert len({spec.describe() for spec in specs}) == len(specs)


def test_describe_of_equal_preprocessing_is_equal():
    assert ImageSpec((8, 8)).describe() == ImageSpec((8, 8), resize_to=8).describe()


@pytest.mark.parametrize(
    "change",
    [{"mode": "crop"}, {"interpolation": "area"}, {"crop_rounding": "up"}, {"size": (0, 1)}],
)
def test_wrong_specification(change):
    with pytest.raises(ValueError, match=r"."):
        ImageSpec(**{"size": (8, 8), **change})


# Real images


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared images are not here")
def test_real_images_equal_the_reference(transforms):
    paths = [p for p in sorted(REAL.rglob("*")) if p.suffix in (".png", ".jpg", ".webp")]
    mode = transforms.InterpolationMode.BICUBIC
    reference = transforms.Compose([transforms.Resize(224, mode), transforms.CenterCrop(224)])
    for path in paths:
        expected = reference(Image.open(path).convert("RGB"))
        found = ImageSpec((224, 224)).apply(decode(read_bytes(path)))
        assert np.array_equal(found, np.asarray(expected)), path.name
    assert len(paths) >= 16
