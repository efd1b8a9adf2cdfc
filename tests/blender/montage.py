"""Timelines of small strips of every kind, for the tests and for `tests/strip_accuracy.py`: 24 fps, frames 1 to 8."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import bpy
import numpy as np

WIDTH, HEIGHT, LENGTH = 48, 32, 8
KINDS: dict[str, Callable[[Montage], Sequence]] = {}


def kind(make: Callable[[Montage], Sequence]) -> Callable[[Montage], Sequence]:
    """A kind of strip: fills a timeline and gives the strips to select."""
    KINDS[make.__name__] = make
    return make


def strips_of(holder):
    """The strips of a scene's editor or of a meta strip."""
    return holder.strips if hasattr(holder, "strips") else holder.sequences


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """(h, w, 3 or 4) uint8, the first row on top, as a PNG file that Blender writes."""
    height, width, channels = pixels.shape
    image = bpy.data.images.new("Written", width, height, alpha=channels == 4)
    whole = np.ones((height, width, 4), np.float32)
    whole[..., :channels] = pixels[::-1] / 255
    image.pixels.foreach_set(whole.ravel())
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path


def read_image(path: Path) -> np.ndarray:
    """(h, w, 3) uint8, the first row on top, of a file that Blender reads."""
    image = bpy.data.images.load(str(path), check_existing=False)
    width, height = image.size
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return np.rint(pixels.reshape(height, width, -1)[::-1, :, :3] * 255).astype(np.uint8)


def picture(number: int, alpha: bool = False) -> np.ndarray:
    """(HEIGHT, WIDTH, 3 or 4) uint8: noise over a ramp, another for each number."""
    noise = np.random.default_rng(number).integers(0, 90, (HEIGHT, WIDTH, 4))
    ramp = np.linspace(0, 160, WIDTH)[None, :, None] * np.array([1, 0.5, 0, 1])
    pixels = (noise + np.roll(ramp, number * 5, axis=1)).astype(np.uint8)
    pixels[..., 3] = np.linspace(0, 255, HEIGHT).astype(np.uint8)[:, None]
    return pixels if alpha else pixels[..., :3]


def plain_frames(scene: bpy.types.Scene, frames: Sequence[int], folder: Path) -> list[np.ndarray]:
    """What Blender's own render of the scene's sequencer shows at these frames: (h, w, 3) uint8 each."""
    file = scene.render.image_settings
    if hasattr(file, "media_type"):
        file.media_type = "IMAGE"
    file.file_format, file.color_mode, file.color_depth = "PNG", "RGB", "8"
    shown = []
    for frame in frames:
        scene.frame_set(frame)
        scene.render.filepath = str(folder / f"plain{frame}.png")
        with bpy.context.temp_override(scene=scene):
            bpy.ops.render.render(write_still=True)
        shown.append(read_image(folder / f"plain{frame}.png"))
    return shown


class Montage:
    """A scene's empty timeline and a folder for its media."""

    def __init__(self, scene: bpy.types.Scene, folder: Path):
        self.scene, self.folder = scene, folder
        render = scene.render
        render.resolution_x, render.resolution_y, render.resolution_percentage = WIDTH, HEIGHT, 100
        render.fps, scene.frame_start, scene.frame_end = 24, 1, LENGTH
        self.editor = scene.sequence_editor_create()

    def files(self, name: str = "picture", count: int = LENGTH, alpha: bool = False) -> list[Path]:
        first = sum(map(ord, name))
        return [
            write_image(self.folder / f"{name}{k:02}.png", picture(first + k, alpha)) for k in range(count)
        ]

    def image(
        self, channel: int = 1, start: int = 1, name: str = "picture", count: int = LENGTH, alpha=False
    ):
        files = self.files(name, count, alpha)
        strip = strips_of(self.editor).new_image(
            name=name, filepath=str(files[0]), channel=channel, frame_start=start
        )
        for file in files[1:]:
            strip.elements.append(file.name)
        strip.strobe = 1  # as Blender 4.2 sets it itself whenever it shows a strip
        return strip

    def effect(self, kind: str, channel: int, *inputs, start=1, length=LENGTH, name="", holder=None):
        new = bpy.app.version >= (5, 0)
        given = {"length": length} if new else {"frame_end": start + length}
        first = "input" if hasattr(self.editor, "strips") else "seq"
        given |= {f"{first}{k}": strip for k, strip in enumerate(inputs, 1)}
        return strips_of(holder or self.editor).new_effect(
            name=name or kind.lower(), type=kind, channel=channel, frame_start=start, **given
        )

    def colour(self, channel: int, rgb, start=1, length=LENGTH, name="", holder=None):
        strip = self.effect("COLOR", channel, start=start, length=length, name=name, holder=holder)
        strip.color = rgb
        return strip

    def movie_file(self) -> Path:
        """Sixteen frames of H.264, made by Blender from pictures."""
        path = self.folder / "movie.mp4"
        if path.exists():
            return path
        other = bpy.data.scenes.new("Movie maker")
        maker = Montage(other, self.folder)
        maker.image(name="film", count=16)
        other.frame_end = 16
        other.view_settings.view_transform = "Standard"
        file = other.render.image_settings
        if hasattr(file, "media_type"):
            file.media_type = "VIDEO"
        file.file_format = "FFMPEG"
        other.render.ffmpeg.format, other.render.ffmpeg.codec = "MPEG4", "H264"
        other.render.use_file_extension, other.render.filepath = False, str(path)
        bpy.ops.render.render(animation=True, scene=other.name)
        bpy.data.scenes.remove(other)
        return path

    def movie(self, channel: int = 1, start: int = 1, name: str = "movie"):
        return strips_of(self.editor).new_movie(
            name=name, filepath=str(self.movie_file()), channel=channel, frame_start=start
        )


def trim(strip, left: int, right: int) -> None:
    """Cuts frames off both ends of a strip."""
    if hasattr(strip, "left_handle"):
        start, end = strip.left_handle, strip.right_handle
        strip.left_handle, strip.right_handle = start + left, end - right
    else:
        start, end = strip.frame_final_start, strip.frame_final_end
        strip.frame_final_start, strip.frame_final_end = start + left, end - right


@contextlib.contextmanager
def in_sequencer(scene: bpy.types.Scene):
    """Operators of the sequencer work in here."""
    area = bpy.context.window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(area=area, region=region):
        yield


@kind
def images(m: Montage):
    return [m.image()]


@kind
def trimmed_images(m: Montage):
    strip = m.image(count=14, start=-2)
    trim(strip, 3, 3)
    return [strip]


@kind
def transformed_image(m: Montage):
    strip = m.image()
    strip.transform.scale_x, strip.transform.rotation, strip.transform.offset_y = 0.7, 0.4, 3
    strip.crop.min_x, strip.use_flip_x = 4, True
    return [strip]


@kind
def image_with_alpha(m: Montage):
    return [m.image(alpha=True, name="alpha")]


@kind
def held_image(m: Montage):
    strip = m.image(count=2)
    trim(strip, 0, -6)
    return [strip]


@kind
def reversed_and_strobed(m: Montage):
    strip = m.image()
    strip.use_reverse_frames, strip.strobe = True, 3
    return [strip]


@kind
def movie(m: Montage):
    return [m.movie()]


@kind
def trimmed_movie(m: Montage):
    strip = m.movie(start=-4)
    trim(strip, 5, 3)
    return [strip]


@kind
def speed_effect(m: Montage):
    strip = m.movie()
    trim(strip, 0, 8)
    speed = m.effect("SPEED", 2, strip)
    speed.speed_control, speed.speed_factor = "MULTIPLY", 2.0
    return [speed]


@kind
def retimed_movie(m: Montage):
    strip = m.movie()
    strip.select, m.editor.active_strip = True, strip
    with in_sequencer(m.scene):  # keys.add() crashes Blender before 5.2 where there are none yet
        bpy.ops.sequencer.retiming_key_add(timeline_frame=5)
    strip.retiming_keys[len(strip.retiming_keys) - 1].timeline_frame = 9  # the rest runs three times as fast
    return [strip]


@kind
def meta(m: Montage):
    strip = strips_of(m.editor).new_meta(name="meta", channel=2, frame_start=1)
    m.colour(1, (0.8, 0.2, 0.1), holder=strip, name="inside a")
    m.colour(2, (0.1, 0.3, 0.9), start=4, length=3, holder=strip, name="inside b").blend_alpha = 0.5
    trim(strip, 0, 1 - LENGTH)  # a new one is a frame long
    return [strip]


@kind
def cross(m: Montage):
    a, b = m.image(name="a"), m.image(channel=2, name="b")
    return [m.effect("CROSS", 3, a, b)]


@kind
def blur_of_a_wipe(m: Montage):
    a, b = m.image(name="a"), m.movie(channel=2)
    trim(b, 0, 8)
    wipe = m.effect("WIPE", 3, a, b)
    blur = m.effect("GAUSSIAN_BLUR", 4, wipe)
    blur.size_x = blur.size_y = 3
    return [blur]


@kind
def multicam(m: Montage):
    m.image(name="a")
    m.image(channel=2, name="b")
    strip = m.effect("MULTICAM", 3)
    strip.multicam_source = 1
    return [strip]


@kind
def adjustment_layer(m: Montage):
    m.image()
    strip = m.effect("ADJUSTMENT", 3)
    strip.modifiers.new(name="Bright", type="BRIGHT_CONTRAST").bright = 20
    strip.color_saturation = 0.3
    return [strip]


@kind
def masked_by_a_strip(m: Montage):
    mask = m.image(name="mask")
    strip = m.image(channel=2)
    modifier = strip.modifiers.new(name="Mask", type="MASK")
    modifier.input_mask_type, modifier.input_mask_strip = "STRIP", mask
    return [strip, mask]


@kind
def text(m: Montage):
    strip = m.effect("TEXT", 2)
    strip.text, strip.font_size = "MuseV", 18
    return [strip]


@kind
def blended_and_animated(m: Montage):
    under, strip = m.image(name="under"), m.image(channel=2)
    strip.blend_type = "ADD"
    for frame, alpha in ((1, 0.0), (8, 1.0)):
        strip.blend_alpha = alpha
        strip.keyframe_insert("blend_alpha", frame=frame)
    return [under, strip]


@kind
def animated_mute(m: Montage):
    strip = m.image()
    for frame, mute in ((1, False), (3, True), (6, False)):
        strip.mute = mute
        strip.keyframe_insert("mute", frame=frame)
    m.colour(2, (1, 1, 1), start=100)  # where all strips are muted, Blender renders the 3-D scene
    return [strip]


@kind
def scene_sequencer(m: Montage):
    other = bpy.data.scenes.new("Other")
    Montage(other, m.folder).image(name="elsewhere")
    other.view_settings.view_transform = "Standard"
    strip = strips_of(m.editor).new_scene(name="scene", scene=other, channel=1, frame_start=1)
    strip.scene_input = "SEQUENCER"
    return [strip]


@kind
def scene_camera(m: Montage):
    other = bpy.data.scenes.new("Other")
    other.frame_end = LENGTH
    other.render.engine = "CYCLES"
    other.cycles.samples, other.cycles.use_denoising = 1, False
    other.world = bpy.data.worlds.new("World")
    other.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    other.collection.objects.link(other.camera)
    cube = bpy.data.meshes.new("Plane")
    cube.from_pydata([(-1, -1, -4), (1, -1, -5), (1, 1, -6)], [], [(0, 1, 2)])
    thing = bpy.data.objects.new("Plane", cube)
    other.collection.objects.link(thing)
    for frame, x in ((1, -1.0), (8, 1.0)):
        thing.location.x = x
        thing.keyframe_insert("location", frame=frame)
    strip = strips_of(m.editor).new_scene(name="scene", scene=other, channel=1, frame_start=1)
    strip.scene_input = "CAMERA"
    return [strip]
