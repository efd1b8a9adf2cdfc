"""Depth, normals, line art and masks of a clip, and its plain render: a `captures.Capture` that renders them.

Cycles renders the geometry in every Blender, one sample at the middle of each of several points a pixel: it gives
true values, needs no GPU and no window (the GPU engines end Blender without EGL), and takes 0.05 to 0.2 s for 256 x
256 points. Nothing is shaded. The plain render is the artist's own, by the engine they choose.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import bpy
import numpy as np

from ..captures import picture_blobs
from ..protocol import ClipRequest, Control
from ..stills import png_pieces, png_size
from ..translations import tr
from . import cache, pictures, setups
from .cache import DepthPacker, Record, Store
from .exr import Exr
from .people import parts_of_all
from .stage import RenderError, Stage

GEOMETRY_CONTROLS = ("depth", "normal_bae", "lineart")
BAND = 8  # rows of a clip's picture that are made at a time
PACKED_ROWS = 64  # and that are packed at a time


@dataclass(frozen=True)
class Wanted:
    """What to render. controls: by name, without pictures. people: the armatures whose masks together become the
    clip's; None: no mask. source_strength: of the plain render as source; None: no plain render. engine: of the plain
    render: "SCENE", "CYCLES", "WORKBENCH", or "AUTO", the scene's own in a window and Cycles without one."""

    controls: tuple[Control, ...] = ()
    people: tuple[str, ...] | None = None
    source_strength: float | None = None
    engine: str = "AUTO"

    @property
    def geometry(self) -> bool:
        return bool(self.controls) or self.people is not None


def points_a_side(width: int, height: int) -> int:
    """How many points a pixel is rendered at, along each side: fewer for large pictures."""
    size = max(width, height)
    return 4 if size <= 128 else 3 if size <= 256 else 2


@dataclass
class RenderCapture:
    """A `captures.Capture`. scene, camera: names; camera None: the scene's own, which its markers switch. times:
    frames of its timeline, between two as well.

    store: where frames are kept and looked for; None: nowhere. rendered: how many renders it took, those found in the
    cache apart. pngs: what was made, by the name of the control, "mask" and "source", in order.
    """

    scene: str
    camera: str | None
    width: int
    height: int
    times: tuple[float, ...]
    wanted: Wanted
    store: Store | None = None
    phase: str = "rendering"
    done: int = 0
    rendered: int = 0
    pngs: dict[str, list[bytes]] = field(default_factory=dict)
    _records: list[Record] = field(default_factory=list)
    _limits: list[tuple[float, float, bool] | None] = field(default_factory=list)
    _stages: dict[str, Stage] = field(default_factory=dict)
    _folder: Path | None = None
    _rendering: bool = False
    _key: str | None = None
    _reduction: Iterator[Record | None] | None = None
    _drawing: Iterator[bytes | None] | None = None
    _packing: Iterator[tuple[str, str, bytes]] | None = None
    _blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """A step for each frame's geometry, for each plain render and for each frame's pictures; one to pack them."""
        return len(self.times) * (2 * self.wanted.geometry + (self.wanted.source_strength is not None)) + 1

    def advance(self, deadline: float) -> bool:
        """Renders, or looks whether a render is there, and makes pictures of what was rendered, until `deadline`.

        Without a window a render is waited for, in one it goes on in Blender's render job. Raises CaptureError.
        """
        while self.done < self.total:
            if not self._go_on() or time.perf_counter() >= deadline:
                break
        return self.done == self.total

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with controls, mask and source named in it, and their blobs. Raises ProtocolError."""
        named = {name: tuple(blobs) for name, blobs in self._blobs.items()}
        controls = tuple(
            dataclasses.replace(control, pictures=named[control.name]) for control in self.wanted.controls
        )
        changed: dict = {"controls": (*request.controls, *controls)}
        if "mask" in named:
            changed["mask"] = named["mask"]
        if "source" in named:
            changed |= {"source": named["source"], "source_strength": self.wanted.source_strength}
        blobs = {sha256: blob for blobs in self._blobs.values() for sha256, blob in blobs.items()}
        return dataclasses.replace(request, **changed), blobs

    def cancel(self) -> None:
        """Takes away the copies of the scene and the files. A render on its way ends by itself."""
        self._reduction = None  # closes its file
        for stage in self._stages.values():
            stage.remove()
        self._stages.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def depths(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Inverse depth and coverage of every frame, where depth is wanted, as `pictures.inverse_depth` gives them."""
        return [record.depths for record in self._records]

    # --- step by step -----------------------------------------------------------------------------

    def _go_on(self) -> bool:
        """Does a little; False: nothing can be done until a render has ended."""
        frames, step = len(self.times), self.done
        if self.wanted.geometry:
            if step < frames:
                return self._geometry(self.times[step])
            step -= frames
        if self.wanted.source_strength is not None:
            if step < frames:
                return self._plain(self.times[step])
            step -= frames
        if self.wanted.geometry and step < frames:
            self.phase = "drawing"
            self._draw(step)
            return True
        self.phase = "packing"
        self._packing = self._packing or self._pack()
        for name, sha256, blob in self._packing:
            self._blobs.setdefault(name, {})[sha256] = blob
            return True
        self.done += 1
        return True

    def _geometry(self, moment: float) -> bool:
        if self._reduction is not None:
            record = next(self._reduction)
            if record is not None:
                self._keep(record)
            return True
        if not self._rendering:
            if bpy.app.is_job_running("RENDER"):
                return False
            scene, depsgraph = self._stage("geometry").at(moment)
            scene.camera.data.dof.use_dof = False  # one sample through an open lens is noise
            own = cache.own_materials(depsgraph)
            self._key = self._fingerprint(scene, depsgraph, own)
            known = self.store.get(self._key) if self._key and self.store else None
            if known is not None:
                self._keep(known)
                return True
            scene.view_layers[0].material_override = None if own else self._stages["geometry"].material()
        path = self._render("geometry", "frame.exr")
        if path is None:
            return False
        stage = self._stages["geometry"]
        self._reduction = self._reduce(Exr(path), stage.to_camera, stage.orthographic)
        return True

    def _plain(self, moment: float) -> bool:
        if not self._rendering:
            if bpy.app.is_job_running("RENDER"):
                return False
            self._stage("plain").at(moment)
        path = self._render("plain", "frame.png")
        if path is None:
            return False
        png = path.read_bytes()
        if png_size(png) != (self.width, self.height):
            raise RenderError(
                tr(
                    "The plain render is {size} in size, not {asked}; look whether the compositor scales it.",
                    size=png_size(png),
                    asked=(self.width, self.height),
                )
            )
        self.pngs.setdefault("source", []).append(png)
        self.done += 1
        return True

    def _render(self, stage: str, file: str) -> Path | None:
        """The file, once it is rendered; None until then. Raises RenderError where the render was cancelled."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="musev-render-", dir=bpy.app.tempdir))
        path = self._folder / file
        if not self._rendering:
            self.rendered += 1
            self._rendering = True
            if not self._stages[stage].render(path):
                return None
        elif bpy.app.is_job_running("RENDER"):
            return None
        self._rendering = False
        if self._stages[stage].disturbed:
            path.unlink(missing_ok=True)
            return None
        if not path.exists():
            raise RenderError(
                tr(
                    "The render of frame {frame:g} of scene '{scene}' was cancelled, or its file could not "
                    "be written to {folder}; generate again.",
                    frame=self.times[self.done % len(self.times)],
                    scene=self.scene,
                    folder=self._folder,
                )
            )
        return path

    def _stage(self, kind: str) -> Stage:
        if kind not in self._stages:
            if kind == "geometry":
                setup = partial(setups.geometry, points=points_a_side(self.width, self.height))
            else:
                setup = partial(setups.plain, engine=self.wanted.engine)
            self._stages[kind] = Stage(self.scene, self.camera, self.width, self.height, setup)
        return self._stages[kind]

    # --- pictures ---------------------------------------------------------------------------------

    def _reduce(self, exr: Exr, to_camera: np.ndarray, orthographic: bool) -> Iterator[Record | None]:
        """Makes a frame's record, some rows at a time; yields None until it is whole."""
        block = points_a_side(self.width, self.height)
        line_width = max(2, round(block * max(1.0, min(self.width, self.height) / 256)))
        names = parts_of_all(self.wanted.people or ())
        wanted = [number for name, number in exr.objects.items() if name in names]
        depths, shown = DepthPacker(), ([], [], [])
        for first in range(0, self.height, BAND):
            last = min(first + BAND, self.height)
            above = min(first * block, line_width + 1)  # rows whose lines reach into these
            below = min((self.height - last) * block, line_width + 1)
            rows = (first * block - above, last * block + below)
            wide = pictures.Surface.of(
                exr.rows("Depth", "*", *rows)[..., 0], exr.rows("Normal", "XYZ", *rows),
                np.ascontiguousarray(exr.rows("CryptoObject00", "R", *rows)[..., 0]).view(np.uint32), to_camera,
            )  # fmt: skip
            inner = slice(above, above + (last - first) * block)
            depths.add(*pictures.inverse_depth(wide.depth[inner], block))
            line = pictures.block_mean(pictures.lines(wide, orthographic, line_width)[inner], block)
            parts = (
                pictures.normal_picture(wide.normals[inner], block),
                np.rint(line * 255).astype(np.uint8), pictures.mask(wide.ids[inner], wanted, block),
            )  # fmt: skip
            for rows_so_far, part in zip(shown, parts, strict=True):
                rows_so_far.append(part)
            yield None
        pngs = []
        for picture in shown if self.wanted.people is not None else shown[:2]:
            packing = _png(np.concatenate(picture))
            while (png := next(packing)) is None:
                yield None
            pngs.append(png)
        yield Record(self.height, self.width, depths.finish(), *pngs, *[b""] * (3 - len(pngs)))

    def _keep(self, record: Record) -> None:
        if self._reduction is not None:
            self._reduction = None
            if self._key and self.store:
                try:
                    self.store.put(self._key, record)
                except OSError as error:
                    raise RenderError(
                        tr(
                            "A rendered frame can't be kept in {folder}: {error}",
                            folder=self.store.folder,
                            error=error,
                        )
                    ) from error
        if self._wants("depth"):
            # The pictures are in `pngs`, and of the depths there may be thousands.
            self._records.append(dataclasses.replace(record, normal=b"", line=b"", mask=b""))
            self._limits.append(pictures.depth_limits(*record.depths))
        for name, png in (("normal_bae", record.normal), ("lineart", record.line), ("mask", record.mask)):
            if png and (name == "mask" or self._wants(name)):
                self.pngs.setdefault(name, []).append(png)
        self.done += 1

    def _draw(self, index: int) -> None:
        """Some of the depth picture of a frame, now that all frames' depths are known."""
        if self._wants("depth"):
            self._drawing = self._drawing or self._depth_png(self._records[index])
            if (png := next(self._drawing)) is None:
                return
            self._drawing = None
            self.pngs.setdefault("depth", []).append(png)
        self.done += 1

    def _depth_png(self, record: Record) -> Iterator[bytes | None]:
        picture = pictures.depth_picture(*record.depths, *pictures.range_limits(self._limits))
        yield None
        yield from _png(picture)

    def _wants(self, control: str) -> bool:
        return any(wanted.name == control for wanted in self.wanted.controls)

    def _pack(self) -> Iterator[tuple[str, str, bytes]]:
        for name, files in self.pngs.items():
            for sha256, blob in picture_blobs(self.width, self.height, files):
                yield name, sha256, blob

    def _fingerprint(self, scene, depsgraph, own: bool) -> str | None:
        if self.store is None:
            return None
        people, stage = self.wanted.people, self._stages["geometry"]
        about = (
            stage.picture.tobytes(), stage.to_camera.tobytes(), stage.clip_distances, self.width, self.height,
            None if people is None else sorted(parts_of_all(people)),
        )  # fmt: skip
        return cache.fingerprint(scene, depsgraph, about, own)


def _png(picture: np.ndarray) -> Iterator[bytes | None]:
    """Packs a picture some rows at a time; yields None until the file is whole."""
    pieces = []
    for piece in png_pieces(picture, PACKED_ROWS):
        pieces.append(piece)
        yield None
    yield b"".join(pieces)
