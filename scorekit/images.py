"""From bytes, PIL images, arrays and tensors to 8-bit RGB; the exact resize of the reference mode.

numpy and PIL only; tensors are recognised without importing torch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from scorekit import remote
from scorekit.image_formats import format_of, webp_size
from scorekit.types import Array, ImageLike, InputError, PathLike, UsageError
from scorekit.within import Refused

MAX_PIXELS = 89_478_485
"""An image with more pixels has the status ``oversized_image``: PIL's own warning limit."""

MAX_BYTES = 1 << 30
"""A longer file is not read: no image below `MAX_PIXELS` needs as much."""

# The plugins are called directly, not through Image.open, which warns about large images: a
# warning can't be silenced for one thread only, and MAX_PIXELS decides here anyway.
_READERS: Mapping[str, Callable[[Any, str], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)
"""Orientations that swap width and height."""

_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262


def silence_pil() -> None:
    """Ignore PIL's warnings about damaged metadata, for a whole program.

    For the command line: a library must not change the filters of the program that uses it,
    and nothing finer is safe with threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_bytes(path: PathLike) -> bytes:
    """Read an image file's bytes; the path may be a URL, see `scorekit.remote`.

    Raises
    ------
    InputError
        ``missing_image`` if there is no regular file that may be read, ``oversized_image`` if
        it is longer than `MAX_BYTES`.
    UsageError
        If a URL holds credentials, or its store can't be used at all.
    """
    try:
        path = remote.located(path)
    except remote.CredentialsInURL:
        raise
    except UsageError as error:
        raise InputError("missing_image", str(error)) from None
    if remote.is_url(path):
        return _read_url(path)
    try:
        # Asked before opening: to open a named pipe would wait for ever.
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise InputError("missing_image", f"{path} is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise InputError("missing_image", f"{path} is not a regular file")
        if found.st_size > MAX_BYTES:
            raise InputError("oversized_image", f"{path} has {found.st_size:,} bytes")
        with open(path, "rb") as file:
            # Not all that there is: a file of /proc, or one that is being written, has no end.
            data = file.read(found.st_size + 1)
        if len(data) > found.st_size:
            raise InputError("missing_image", f"{path} grew while it was read")
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("missing_image", f"no file {path}") from None
    except PermissionError:
        raise InputError("missing_image", f"no permission to read {path}") from None
    except OSError as error:
        raise InputError("missing_image", f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError("missing_image", f"{str(path)!r} is not a path: {error}") from None


def _read_url(url: str) -> bytes:
    try:
        return remote.read(url, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InputError("oversized_image", f"{url} has {error.strerror}") from None
        if isinstance(error, FileNotFoundError):
            raise InputError("missing_image", f"no file {url}") from None
        if isinstance(error, PermissionError):
            raise InputError("missing_image", f"no permission to read {url}") from None
        raise InputError("missing_image", f"can't read {url}: {error.strerror}") from None


def decode(data: bytes) -> Image.Image:
    """Decode a PNG, JPEG, WebP, GIF, BMP or TIFF file to 8-bit RGB.

    The first frame is taken, the EXIF orientation applied, transparency composited on white;
    see `to_rgb`.

    Raises
    ------
    InputError
        ``unreadable_image`` or ``oversized_image``; the size is checked before decoding.

    Examples
    --------
    >>> decode(b"")
    Traceback (most recent call last):
    scorekit.types.InputError: unreadable_image: zero bytes
    """
    return to_rgb(_opened(data, format_of(data)))


def size_of_file(data: bytes) -> tuple[int, int]:
    """Width and height that `decode` gives, from the header alone where it tells.

    Raises
    ------
    InputError
        As `decode`.
    """
    name = format_of(data)
    if name == "TIFF":  # PIL's releases differ in whether its size is that after turning
        return decode(data).size
    image = _opened(data, name)
    check_size(*image.size)
    width, height = image.size
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def _opened(data: bytes, name: str) -> Image.Image:
    """A file of a known format, its header read."""
    if name == "WebP":
        # PIL would allocate the whole canvas before it tells the size.
        check_size(*webp_size(data))
    try:
        image = _READERS[name](io.BytesIO(data), "")
    except Exception as error:
        raise _unreadable(error, f"a damaged {name} file") from error
    # PIL fills the rows that such a file leaves out byte by byte, in Python: seconds for 88 bytes.
    runs = name == "BMP" and any(t[0] == "bmp_rle" for t in getattr(image, "tile", ()))
    if runs and image.width * image.height > 255 * len(data):
        raise InputError("unreadable_image", f"cut short: {len(data)} bytes of runs")
    return image


def _unreadable(error: Exception, what: str) -> InputError:
    if isinstance(error, InputError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return InputError("oversized_image", str(error))
    if isinstance(error, MemoryError):
        return InputError("unreadable_image", f"{what}: out of memory while decoding")
    text = str(error) or type(error).__name__
    short = any(sign in text.lower() for sign in ("truncated", "not enough", "eof", "end of"))
    return InputError("unreadable_image", f"{'cut short' if short else what}: {text}")


def check_size(width: int, height: int, what: str = "") -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            "oversized_image",
            f"{what}{width} x {height} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to 8-bit RGB, as the reference mode defines it.

    - The EXIF orientation is applied; of an animation, the current frame is taken (the first,
      unless the caller moved on).
    - Transparency of any kind is composited on white.
    - CMYK goes through the embedded profile where that works, else through PIL's own formula.
      Profiles of RGB images are ignored, as the public preprocessing of all models does.
    - 16-bit greyscale is scaled by 1/257 and rounded. (PIL itself reads 16-bit colour PNGs as
      their high bytes.)
    - 32-bit integers are refused unless they come from a 16-bit file, and floats unless they
      lie in 0 to 1: their range can't be known.

    The image itself is returned where there is nothing to change.

    Raises
    ------
    InputError
        ``unreadable_image``, ``oversized_image``, or ``invalid_image`` for a wrong range.
    """
    check_size(*image.size)
    try:
        image.load()
        rgb = _rgb_of_mode(image)
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            rgb = rgb.transpose(turn)
    except Exception as error:
        raise _unreadable(error, "damaged") from error
    if rgb is not image:
        # Else the orientation would be applied a second time to the result.
        rgb.info = {}
    return rgb


def _rgb_of_mode(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        return Image.fromarray(_grey_of_integers(image)).convert("RGB")
    if mode == "F":
        return Image.fromarray(_levels(np.asarray(image))).convert("RGB")
    if mode in ("La", "PA"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    if mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    if mode == "RGB":
        return image
    if mode == "CMYK":
        return _through_profile(image, image.info.get("icc_profile")) or image.convert("RGB")
    if mode == "LAB":
        converted = _through_profile(image, None)
        if converted is None:
            raise InputError("unreadable_image", "LAB needs PIL with colour management")
        return converted
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """Convert CMYK (by its profile) or LAB to sRGB; None where that doesn't work."""
    if image.mode == "CMYK" and not profile:
        return None
    try:
        from PIL import ImageCms

        source: Any = (
            ImageCms.createProfile("LAB")
            if profile is None
            else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        )
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except Exception:  # a broken profile is no reason to lose the image
        return None


def _integer_range(image: Image.Image) -> tuple[int, bool] | None:
    """Largest value that the file allows, and whether that is black; None where unknown."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16 if image.format == "PNG" or image.mode != "I" else 0,))[0]
    inverted = tags.get(_PHOTOMETRIC) == 0
    return ((1 << bits) - 1, inverted) if bits in (12, 16) else None


def _grey_of_integers(image: Image.Image) -> Array:
    known = _integer_range(image)
    if known is None:
        raise InputError("invalid_image", "32-bit integer pixels: their range is not known")
    top, inverted = known
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > top:
        raise InputError("invalid_image", f"16-bit image with values outside 0 to {top}")
    grey = (values * 255 + top // 2) // top
    if inverted:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey.astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to lose the image
        return 1


def as_uint8(image: ImageLike) -> Array:
    """Turn any image into 8-bit RGB, shape (h, w, 3).

    Parameters
    ----------
    image : PIL image, numpy array, torch tensor, bytes or path
        An array or tensor is (h, w), (h, w, c) or (c, h, w) with c of 1, 3 or 4. Where both
        layouts are possible, as in (3, 5, 3), a tensor is read channels-first and an array
        channels-last. The dtype decides the range: uint8 0 to 255, uint16 0 to 65535,
        floats 0 to 1, bool False or True; nothing is rescaled by its values. A fourth channel
        is alpha and is composited on white.

    Raises
    ------
    InputError
        ``invalid_image`` for a wrong shape, dtype or range; else as `decode` and `to_rgb`.

    Examples
    --------
    >>> import numpy as np
    >>> as_uint8(np.full((2, 2), 0.5)).tolist()
    [[[128, 128, 128], [128, 128, 128]], [[128, 128, 128], [128, 128, 128]]]
    >>> as_uint8(np.full((2, 2), 2.0))
    Traceback (most recent call last):
    scorekit.types.InputError: invalid_image: float values must lie in 0 to 1, found 2 to 2
    """
    if isinstance(image, Refused):
        raise image.error()
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return np.asarray(decode(bytes(image)))
    if isinstance(image, str | os.PathLike):
        return np.asarray(decode(read_bytes(os.fspath(image))))
    tensor = is_tensor(image)
    array = _numpy_of(image) if tensor else image
    if not isinstance(array, np.ndarray):
        raise InputError("invalid_image", f"a {type(image).__name__} is not an image")
    array = _levels(_channels_last(array, prefer_first=tensor))
    if array.shape[2] == 4:
        return np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(array))))
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))
    return np.ascontiguousarray(array)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch."""
    return any(
        kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).mro()
    )


def _numpy_of(tensor: Any) -> Array:
    """Copy a tensor to a numpy array; bfloat16, which numpy lacks, becomes float32."""
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        array: Array = tensor.numpy()
    except Exception as error:
        raise InputError("invalid_image", f"a tensor that can't be read: {error}") from None
    return array


def _channels_last(array: Array, prefer_first: bool) -> Array:
    shape = tuple(array.shape)
    if array.ndim == 2 and array.size:
        return array[:, :, None]
    if array.ndim == 3 and array.size:
        first, last = shape[0] in (1, 3, 4), shape[2] in (1, 3, 4)
        if first and (prefer_first or not last):
            return array.transpose(1, 2, 0)
        if last:
            return array
    raise InputError(
        "invalid_image", f"shape {shape} is none of (h, w), (h, w, c), (c, h, w) with c 1, 3 or 4"
    )


def _levels(array: Array) -> Array:
    """Bring values to 0 to 255; the dtype says from which range."""
    kind = array.dtype
    if kind == np.uint8:
        return array
    if kind == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if kind.kind == "u" and kind.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind.kind == "f" and kind.itemsize <= 8:
        # Comparisons with NaN are false, so that NaN ends here too.
        if not (array.min() >= 0 and array.max() <= 1):
            found = "NaN" if np.isnan(array).any() else f"{array.min():.6g} to {array.max():.6g}"
            raise InputError("invalid_image", f"float values must lie in 0 to 1, found {found}")
        wide = array.astype(np.promote_types(kind, np.float32))
        levels: Array = np.rint(wide * 255).astype(np.uint8)
        return levels
    raise InputError(
        "invalid_image", f"dtype {kind} is none of uint8, uint16, bool, float16, float32, float64"
    )


def content_key(image: ImageLike) -> str:
    """Hash what an image's pixels depend on, for the cache: never its name.

    A file's bytes, as bytes or by a path; of a PIL image its mode, size and pixels with palette,
    transparency and orientation; of an array or tensor its kind, dtype, shape and values.

    Examples
    --------
    >>> import numpy as np
    >>> grey = np.zeros((4, 4), np.uint8)
    >>> content_key(grey) == content_key(grey.copy())
    True
    >>> content_key(grey) == content_key(grey.reshape(2, 8))
    False
    """
    if isinstance(image, Refused):
        raise image.error()
    if isinstance(image, str | os.PathLike):
        image = read_bytes(os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return _sha256("file", bytes(image))
    if isinstance(image, Image.Image):
        return _key_of_pil(image)
    tensor = is_tensor(image)
    array = _numpy_of(image) if tensor else image
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise InputError("invalid_image", f"a {type(image).__name__} is not an image")
    kind = f"tensor {image.dtype}" if tensor else f"array {array.dtype.str}"
    return _sha256(f"{kind} {tuple(array.shape)}", np.ascontiguousarray(array).data)


def _key_of_pil(image: Image.Image) -> str:
    check_size(*image.size)
    try:
        image.load()
        palette = bytes(image.getpalette("RGBA") or ()) if image.mode in ("P", "PA") else b""
        pixels = image.tobytes()
    except Exception as error:
        raise _unreadable(error, "damaged") from error
    extra = (
        _orientation(image),
        image.info.get("transparency"),
        image.info.get("icc_profile") if image.mode == "CMYK" else None,
        _integer_range(image) if image.mode.startswith("I") else None,
    )
    return _sha256(f"pil {image.mode} {image.size} {extra!r} {palette!r}", pixels)


def _sha256(head: str, body: Any) -> str:
    digest = hashlib.sha256(head.encode() + b"\0")
    digest.update(body)
    return digest.hexdigest()
