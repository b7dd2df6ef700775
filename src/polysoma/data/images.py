"""Pictures as files: PNG, which loses nothing, in data sets; JPEG in caches, for people, and in other people's data."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

_FASTEST = 1
"""Of the compression levels; higher ones take thrice as long for rendered pictures of the same size."""

_ORIENTATION, _SIDEWAYS = 0x0112, 5
"""The tag of EXIF, and the value from which on rows and columns are exchanged."""

_QUALITY = 92
"""Of JPEG: differences of a level or two, which training does not notice."""


def encode_png(picture: np.ndarray) -> bytes:
    """A uint8 picture ``(height, width, 3)`` as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=_FASTEST)
    return file.getvalue()


def encode_jpeg(picture: np.ndarray) -> bytes:
    """A uint8 picture ``(height, width, 3)`` as a small file, colours as sharp as brightness."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def decode_image(file: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels of a PNG or JPEG file, uint8 of this shape ``(height, width, 3)``, turned as its EXIF says.

    Raises:
        ValueError: it is damaged, of another format or of another shape.
    """
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as picture:
            # The header tells the size: a damaged one must not make room for billions of pixels.
            if shape not in ((picture.height, picture.width, 3), (picture.width, picture.height, 3)):
                raise ValueError(f"expected a picture of shape {shape}, got {(picture.height, picture.width, 3)}")
            if picture.mode.startswith(("I", "F")):
                raise ValueError("expected a picture of 8 bits a colour, got one of more")
            turned: Image.Image = picture
            if picture.getexif().get(_ORIENTATION, 1) != 1:
                turned = ImageOps.exif_transpose(picture)
            if (turned.height, turned.width, 3) != shape:
                raise ValueError(f"expected a picture of shape {shape}, got {(turned.height, turned.width, 3)}")
            return np.asarray(turned.convert("RGB"))
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged picture: {error}") from error


def image_shape(file: bytes) -> tuple[int, int, int]:
    """``(height, width, 3)`` of a PNG or JPEG file, turned by its EXIF. Raises ValueError when it is damaged."""
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as picture:
            sideways = picture.getexif().get(_ORIENTATION, 1) >= _SIDEWAYS
            return (picture.width, picture.height, 3) if sideways else (picture.height, picture.width, 3)
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged picture: {error}") from error


def resized(pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures uint8 ``(T, H, W, 3)`` in the size of ``shape`` ``(height, width, 3)``, averaged where they shrink."""
    if pictures.shape[1:] == shape:
        return pictures
    result = np.empty((len(pictures), *shape), np.uint8)
    for row, picture in enumerate(pictures):
        smaller = Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        result[row] = np.asarray(smaller)
    return result
