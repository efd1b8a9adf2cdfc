"""What a take keeps of the scene it was made from, beside its inputs: enough to see later that the scene has changed.

In `take.json` among the inputs, under `KEY`:

    system   where keys were summed up; sums of another system are not compared
    rig      the rigs' keys at each generated frame, as `motion.Motion` tells them; camera: the camera's
    cameras  the camera's picture matrix (`rig.camera`), 16 numbers by rows: one, or one for each generated frame
    still    the still's file and pixels, as `picture` tells them
    start    the frame of the timeline at which the first frame was generated
    own      settings that were not the panel's, of a shot list; text_strip: the strip whose words were the prompt
"""

from __future__ import annotations

import hashlib
import platform
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from .. import stills
from ..protocol import ClipRequest
from ..rig.people import Person
from ..rig.pose import PoseCapture
from ..rig.still_pose import StillOfAnother
from ..shots.shot import Shot
from . import motion

KEY = "scene"


def system() -> str:
    """What the sums of keys depend on besides the keys: the arithmetic of this Blender on this machine."""
    version = ".".join(map(str, bpy.app.version[:2]))
    return f"Blender {version} {platform.system()} {platform.machine()}"


FROM = (  # settings that say what a clip is made from
    "mode", "prompt", "negative_prompt", "model", "extras", "armature", "people", "camera", "still_source",
    "still_image", "still_strip", "source", "render",
)  # fmt: skip


def told(shot: Shot | None) -> dict:
    """What a clip of a shot list keeps besides, since the panel says nothing of it."""
    if shot is None:
        return {}
    own = [name for name in FROM if shot.settings.says(name)]
    return {"own": own} | ({"text_strip": shot.text_strip} if shot.text_strip else {})


# --- rigs and cameras -----------------------------------------------------------------------------


def rig_blocks(people: Iterable[Person]) -> tuple[motion.Block, ...]:
    """What moves these people's points."""
    things, read = [], {}
    for person in people:
        armature = bpy.data.objects.get((person.armature, person.library or None))
        things.append(armature)
        read[armature] = {*person.bones, *read.get(armature, ())}
        if person.instance is not None:
            names = (person.instance.parent, person.instance.source)
            things += [bpy.data.objects.get(name) for name in names]
        things += [bpy.data.objects.get((face.mesh, face.library or None)) for face in person.faces]
    meshed = {person.armature for person in people if person.faces}  # whichever bones move the mesh
    return motion.sources(things, {rig: read[rig] for rig in read if rig and rig.name not in meshed})


def camera_blocks(scene: bpy.types.Scene, camera: str | None) -> tuple[motion.Block, ...]:
    """What moves a camera; None: all those that the scene's markers switch between."""
    if camera is not None:
        return motion.sources([bpy.data.objects.get(camera)])
    marked = [marker.camera for marker in sorted(scene.timeline_markers, key=lambda marker: marker.frame)]
    return motion.sources([*(marked if any(marked) else [scene.camera])])


def add_switches(summed: motion.Motion, scene: bpy.types.Scene, camera: str | None) -> None:
    """Adds which marker chose the scene's own camera at each time; by its frame, 0 before the first one."""
    frames = sorted(m.frame for m in scene.timeline_markers if m.camera is not None) if camera is None else []
    at = [max((frame for frame in frames if frame <= time), default=0) for time in summed.times]
    summed.add("markers", at)


@dataclass
class OriginsCapture:
    """A `captures.Capture` that only looks on: it notes in `about` how the keys and the camera were that `poses`, read
    just before, were read from."""

    about: dict
    poses: PoseCapture | StillOfAnother
    rigs: motion.Motion | None = None
    camera: motion.Motion | None = None

    phase = "reading keys"
    done = 0
    total = 1

    @property
    def own(self) -> PoseCapture:
        return self.poses.poses if isinstance(self.poses, StillOfAnother) else self.poses

    def advance(self, deadline: float) -> bool:
        own = self.own
        if self.rigs is None:
            times = own.times[:-1] if own.with_still else own.times
            self.rigs = motion.Motion(rig_blocks(own.people), times)
            scene = bpy.data.scenes.get(own.scene)
            self.camera = motion.Motion(camera_blocks(scene, own.camera) if scene else (), times)
            if scene is not None:
                add_switches(self.camera, scene, own.camera)
            return False
        return self.rigs.advance(deadline) and self.camera.advance(deadline)

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        cameras = np.array(self.own.pictures[: len(self.rigs.times)]).reshape(-1, 16)
        if (cameras == cameras[:1]).all():
            cameras = cameras[:1]
        self.about[KEY] = self.about.get(KEY, {}) | {
            "system": system(),
            "rig": self.rigs.told(),
            "camera": self.camera.told(),
            "cameras": [[float(f"{number:.9g}") for number in row] for row in cameras],
        }
        return request, {}

    def cancel(self) -> None:
        """Nothing was changed."""


# --- stills ---------------------------------------------------------------------------------------

MAX_SUMMED = 512 * 512  # pixels of a picture that is summed up in between; more would be felt
END = 1 << 20  # bytes at both ends of a file that say what it is, together with its size
_files: dict[Path, tuple[tuple, str]] = {}  # what a file looked like, and what `_told` said of it


def picture(image: bpy.types.Image) -> dict:
    """What a picture is: {"file": a sum of the file that it shows, None where it shows none, "pixels": a sum of these
    where they are few, "painted": whether it is otherwise than its file}."""
    return {"file": _shown_file(image), "pixels": _summed(image), "painted": image.is_dirty}


def note(origin: dict, image: bpy.types.Image) -> None:
    """Notes in what a take keeps of its scene what its still is."""
    origin["still"] = picture(image)


def shows(image: bpy.types.Image, was: dict) -> bool | None:
    """Whether an image shows what `picture` said; None where that can't be told without reading many pixels."""
    file = _shown_file(image)
    if file is not None and file == was.get("file"):
        return True
    if was.get("pixels") and (pixels := _summed(image)) is not None:
        return was["pixels"] == pixels
    if file is not None and was.get("file"):
        return False
    return False if image.is_dirty and not was.get("painted") else None


def appearance(image: bpy.types.Image) -> tuple:
    """What an image looks like from outside; cheap, and changed wherever a file or the choice of it is."""
    packed = image.packed_file
    known = image.has_data or image.source != "FILE"  # else asking for its size would load it
    return (
        image.name_full, image.source, image.filepath, image.is_dirty, *(image.size if known else ()),
        packed.size if packed is not None else stamp(_path(image)),
        image.generated_type, *image.generated_color,
    )  # fmt: skip


def _summed(image: bpy.types.Image) -> str | None:
    """None for a picture without pixels, and for one with too many."""
    if image.type in ("RENDER_RESULT", "COMPOSITING"):
        return None
    columns, rows = stills.size(image)
    if not 0 < columns * rows <= MAX_SUMMED:
        return None
    if tuple(image.size) != (columns, rows):  # the file has a whole head and a damaged rest
        return None
    pixels = np.empty(columns * rows * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    return f"{columns} x {rows} {zlib.crc32(pixels):08x}"


def _shown_file(image: bpy.types.Image) -> str | None:
    if image.is_dirty:
        return None
    if (packed := image.packed_file) is not None:
        return _told(packed.size, packed.data[:END], packed.data[-END:])
    if image.source != "FILE" or (written := stamp(path := _path(image))) is None:
        return None
    known = _files.get(path)
    if known is None or known[0] != written:
        try:
            with open(path, "rb") as file:
                first = file.read(END)
                file.seek(max(0, written[1] - END))
                _files[path] = known = (written, _told(written[1], first, file.read(END)))
        except OSError:
            return None
    return known[1]


def _told(size: int, first: bytes, last: bytes) -> str:
    return hashlib.sha256(b"%d %b %b" % (size, first, last)).hexdigest()


def _path(image: bpy.types.Image) -> Path:
    return Path(bpy.path.abspath(image.filepath, library=image.library))


def stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return (state.st_mtime_ns, state.st_size)
