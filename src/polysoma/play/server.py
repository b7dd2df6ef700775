"""The page of live bodies: pictures and wishes over a websocket; on loopback by default."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from polysoma import simulators
from polysoma.acting.planner import Planner, as_planner, embodiment_for
from polysoma.acting.senses import picture
from polysoma.data.video import encode_video
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.play.page_server import FRAME, PageServer
from polysoma.play.stage import FPS, Stage
from polysoma.policy.policy import Policy

CLIP = b"C"
"""First byte of binary messages, as :data:`~polysoma.play.page_server.FRAME`. Then: the length of the body's name, the
name, a JPEG or an MP4 file."""


class PlayServer(PageServer):
    """Shows one stage to everyone who opens the page.

    Args:
        planner: what drives the bodies, or a policy.
        bodies: their names.
        token, hosts, origins, beside: see :class:`~polysoma.play.page_server.PageServer`.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        bodies: list[str],
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        beside: Mapping[str, PageServer] | None = None,
    ) -> None:
        super().__init__((resources.files("polysoma.play") / "page.html").read_bytes(), token, hosts, origins, beside)
        self._planner, self._bodies = as_planner(planner), bodies

    def staged(self) -> Stage:
        """See :class:`~polysoma.play.page_server.PageServer`."""
        return Stage(self._planner, self._bodies, self._show, self.tell, self._send_clip)

    def _wish(self, message: str | bytes) -> dict[str, Any]:
        wish = super()._wish(message)
        if wish["do"] == "goal" and wish.get("pictures") is not None:
            body = self._body(str(wish.get("body")))
            if not isinstance(wish["pictures"], dict):
                raise PolysomaError("a goal is a map of cameras to pictures")
            wish["pictures"] = {name: _picture(body, name, data) for name, data in wish["pictures"].items()}
        return wish

    def _body(self, name: str) -> Embodiment:
        if name not in self._bodies:
            raise PolysomaError(f"there is no body {name!r}; there are {self._bodies}")
        return embodiment_for(self._planner, simulators.embodiments()[name])

    def _show(self, body: str, picture: np.ndarray) -> None:
        if self._watchers:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=82)
            self.post(_named(FRAME, body, file.getvalue()))

    def _send_clip(self, body: str, pictures: list[np.ndarray]) -> None:
        self.post(_named(CLIP, body, encode_video(pictures, FPS)))


def _named(kind: bytes, body: str, file: bytes) -> bytes:
    name = body.encode()
    return kind + bytes([len(name)]) + name + file


def _picture(body: Embodiment, camera: str, data: Any) -> np.ndarray:
    """A data URL as a picture of that camera's size. Raises PolysomaError when it is none."""
    where = f"goal for the camera {camera!r}"
    try:
        content = base64.b64decode(str(data).partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > 2**25:
                raise PolysomaError(f"a goal picture of {image.width} x {image.height} is too large")
            return picture(where, body.stream(camera), np.asarray(image.convert("RGB")))
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError) as error:
        raise PolysomaError(f"{where}: expected a PNG, JPEG or WebP picture ({error})") from error
