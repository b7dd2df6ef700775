"""Pictures in data sets: PNG, which loses nothing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_FASTEST = 1
"""Of the compression levels; higher ones take thrice as long for rendered pictures of the same size."""


def encode_png(picture: np.ndarray) -> bytes:
    """A uint8 picture ``(height, width, 3)`` as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=_FASTEST)
    return file.getvalue()


def decode_png(file: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of :func:`encode_png`. Raises ValueError when it is damaged or of another shape."""
    try:
        with Image.open(io.BytesIO(file), formats=("PNG",)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, TypeError) as error:
        raise ValueError(f"damaged picture: {error}") from error
    if pixels.shape != shape:
        raise ValueError(f"expected a picture of shape {shape}, got {pixels.shape}")
    return pixels
