"""Fast pictures of MuJoCo models with software rendering.

Software OpenGL spends its time on shadow maps, mesh faces and multisampling, hardly on pixels. A :class:`Camera`
therefore draws a private copy of the model with shadows, reflections and multisampling off and with coarser meshes.
The physics keep the full model.

OpenGL is loaded when the first camera is made, never by importing this module, so everything but pictures works on
machines without it.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import os
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    import mujoco

_LIBRARIES = {"osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"), "egl": ("libEGL.so.1", "libEGL.so")}

# Simulations change these model fields between episodes; everything else that is drawn lives in MjData.
_LIVE_FIELDS = ("geom_size", "geom_rgba", "geom_matid", "site_size", "site_rgba", "mat_rgba", "light_diffuse")

_MIN_FACES = 400
_CELLS_PER_MESH = 22


def choose_backend() -> str:
    """The OpenGL backend: the environment variable ``MUJOCO_GL``, else Apple's own on macOS and elsewhere the first of
    osmesa and egl that loads.

    Sets ``MUJOCO_GL`` where it was unset. OSMesa comes first because it was the faster one on processors without a GPU.

    Raises:
        PolysomaError: no OpenGL library can be loaded.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        return chosen
    if platform.system() == "Darwin":
        os.environ["MUJOCO_GL"] = "cgl"
        return "cgl"
    for backend, names in _LIBRARIES.items():
        if any(_loads(name) for name in names):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise PolysomaError(
        "pictures need OpenGL, and neither OSMesa nor EGL could be loaded: install one of the apt packages "
        "libosmesa6 or libegl1 (sudo apt-get install libosmesa6)"
    )


class Camera:
    """Draws square or rectangular pictures of a MuJoCo model from anywhere.

    Make one for each model and keep it: making it takes a third of a second and some MiB that are not given back.

    Args:
        model: the model; it is copied, not changed.
        height: of the picture, in pixels.
        width: of the picture, in pixels; the height where it is None.
        cell: size in metres of the cells in which mesh vertices are merged; 0 draws the meshes as they are.
        shadows: side of the shadow map in texels, of which MuJoCo's own renderer takes 4096; 0 draws no shadows.

    Raises:
        PolysomaError: no OpenGL.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        height: int = 240,
        width: int | None = None,
        cell: float = 0.012,
        shadows: int = 0,
    ) -> None:
        backend = choose_backend()
        import mujoco

        self.height, self.width = height, height if width is None else width
        self._source = model
        self._model = copy.copy(model)
        self._model.vis.global_.offheight = self.height
        self._model.vis.global_.offwidth = self.width
        self._model.vis.quality.offsamples, self._model.vis.quality.shadowsize = 0, shadows
        if cell > 0:
            coarsen_meshes(self._model, cell)
        self._scene = mujoco.MjvScene(self._model, maxgeom=max(1000, 4 * (model.ngeom + model.nsite)))
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows > 0
        for slow in (mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self._scene.flags[slow] = 0
        self._option = mujoco.MjvOption()
        self._perturbation = mujoco.MjvPerturb()
        self._rectangle = mujoco.MjrRect(0, 0, self.width, self.height)
        self._gl = _make_context(backend, self.width, self.height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def frame(self, data: mujoco.MjData, view: str | mujoco.MjvCamera) -> np.ndarray:
        """The picture of the present state (positions as ``mj_forward`` left them): uint8 ``(height, width, 3)``.

        Args:
            data: of the model.
            view: the name of a camera of the model, or a camera of one's own.

        Raises:
            PolysomaError: no camera of this name.
        """
        import mujoco

        for field in _LIVE_FIELDS:
            getattr(self._model, field)[:] = getattr(self._source, field)
        camera = _fixed_camera(self._model, view) if isinstance(view, str) else view
        mujoco.mjv_updateScene(
            self._model, data, self._option, self._perturbation, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        # Each camera has its own context, and another camera may have drawn or gone since.
        self._gl.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, self._rectangle, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def body_at(self, data: mujoco.MjData, view: str | mujoco.MjvCamera, across: float, down: float) -> int | None:
        """The number of the movable body that is seen at a place of the picture (0 to 1 each); None if none is."""
        import mujoco

        self.frame(data, view)
        point, geom, flex, skin = np.zeros((3, 1)), *(np.zeros((1, 1), np.int32) for _ in range(3))
        body = mujoco.mjv_select(
            self._model, data, self._option, self.width / self.height, across, 1 - down, self._scene, point, geom,
            flex, skin,
        )  # fmt: skip
        return body if body > 0 and self._model.body_weldid[body] > 0 else None

    def in_the_world(self, right: float, up: float) -> np.ndarray:
        """A direction in the picture that was drawn last, as one in the world: float64 ``(3,)``."""
        eye = self._scene.camera[0]
        forward, upward = np.array(eye.forward), np.array(eye.up)
        return right * np.cross(forward, upward) + up * upward

    def close(self) -> None:
        """Give the OpenGL memory back. The camera cannot be used afterwards; to close it again does nothing."""
        gl, self._gl = self._gl, None
        if gl is not None:
            gl.make_current()
            self._context.free()
            gl.free()

    def __del__(self) -> None:
        # What a context of MuJoCo's frees by itself, it frees in whichever camera drew last: that one loses textures.
        with contextlib.suppress(Exception):
            self.close()


def coarsen_meshes(model: mujoco.MjModel, cell: float = 0.012) -> None:
    """Merge the vertices of each large mesh that share a cell, and drop the faces that collapse.

    Changes the faces of ``model`` in place: use a copy that is only drawn, and do it before a renderer is made.

    Args:
        model: the copy to change.
        cell: edge of a cell in metres; large meshes get larger cells.
    """
    for mesh in range(model.nmesh):
        face_start, face_count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        if face_count < _MIN_FACES:
            continue
        vertex_start = int(model.mesh_vertadr[mesh])
        vertices = model.mesh_vert[vertex_start : vertex_start + int(model.mesh_vertnum[mesh])]
        edge = max(cell, float(np.ptp(vertices, axis=0).max()) / _CELLS_PER_MESH)
        cells = np.floor((vertices - vertices.min(0)) / edge).astype(np.int64)
        _, first, inverse = np.unique(cells @ (1, 1 << 20, 1 << 40), return_index=True, return_inverse=True)
        faces = slice(face_start, face_start + face_count)
        merged = first[inverse.ravel()][model.mesh_face[faces]]
        whole = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 0] != merged[:, 2])
        unique = np.zeros(face_count, bool)
        unique[np.unique(np.sort(merged, axis=1), axis=0, return_index=True)[1]] = True
        kept = whole & unique
        remaining = slice(face_start, face_start + int(kept.sum()))
        normals, coordinates = model.mesh_facenormal[faces][kept], model.mesh_facetexcoord[faces][kept]
        model.mesh_face[remaining] = merged[kept]
        model.mesh_facenormal[remaining] = normals
        model.mesh_facetexcoord[remaining] = coordinates
        model.mesh_facenum[mesh] = int(kept.sum())


def _fixed_camera(model: mujoco.MjModel, camera: str) -> mujoco.MjvCamera:
    import mujoco

    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
    if number < 0:
        raise PolysomaError(f"no camera {camera!r}; the model has {[model.camera(i).name for i in range(model.ncam)]}")
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED
    view.fixedcamid = number
    return view


def _make_context(backend: str, width: int, height: int) -> Any:
    # mujoco.GLContext is fixed by MUJOCO_GL when mujoco is imported, which may have been before a backend was chosen.
    try:
        if backend == "osmesa":
            from mujoco.osmesa import GLContext
        elif backend == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.gl_context import GLContext
        return GLContext(width, height)
    except Exception as error:
        raise PolysomaError(
            f"OpenGL could not be started with MUJOCO_GL={backend!r} ({type(error).__name__}: {error}): unset "
            "MUJOCO_GL, or install one of the apt packages libosmesa6 or libegl1"
        ) from error


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
