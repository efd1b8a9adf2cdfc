"""The panel "From the Renderer": what its settings ask for, its verbs, and a clip with transparency on the timeline."""

from __future__ import annotations

import struct
import zlib

import bpy
import numpy as np
import pytest
from analytic import FRONT, View, read_png, sphere
from bl_ext.user_default.musev import strips
from bl_ext.user_default.musev.captures import CaptureError
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import Pictures
from bl_ext.user_default.musev.render import panel
from bl_ext.user_default.musev.render import settings as render_settings
from conftest import MODULE, pump
from rigs import RIGIFY_METARIG, camera, figure


@pytest.fixture
def ball(empty_scene, tmp_path):
    """A sphere that an armature carries, two frames, an output folder; gives the scene's settings."""
    thing = sphere(segments=16).add()
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    empty_scene.collection.objects.link(rig)
    thing.parent = rig
    View((0, -6, 0), FRONT).add()
    empty_scene.frame_start, empty_scene.frame_end = 4, 5
    empty_scene.sequence_editor_create()
    settings = empty_scene.musev
    settings.width = settings.height = 64
    settings.render.use_cache = False
    bpy.context.preferences.addons[MODULE].preferences.output_folder = str(tmp_path / "takes")
    return settings


def asked(settings, times=(1, 2)):
    return render_settings.captures(bpy.context.scene, settings, times, 64, 64)


def test_nothing_is_rendered_unless_it_is_asked_for(ball):
    assert asked(ball) == []
    ball.render.use_source = True
    ball.mode = "text"  # which has no use for a source
    assert asked(ball) == []


def test_the_settings_become_controls(ball):
    ball.mode, ball.armature, ball.camera = "pose", bpy.data.objects["Rig"], bpy.data.objects["View"]
    ball.render.normal.use = ball.render.line.use = ball.render.use_mask = ball.render.use_source = True
    ball.render.normal.scale, ball.render.normal.start, ball.render.normal.end = 0.5, 0.25, 0.75
    ball.render.source_strength = 0.25
    (made,) = asked(ball, (1.0, 2.5))
    assert [(c.name, c.scale, c.start, c.end, c.detect) for c in made.wanted.controls] == [
        ("normal_bae", 0.5, 0.25, 0.75, False), ("lineart", 1.0, 0.0, 1.0, False),
    ]  # fmt: skip
    assert made.wanted.people == ("Rig",) and made.wanted.source_strength == 0.25
    assert (made.scene, made.camera, made.times, made.store) == ("Scene", "View", (1.0, 2.5), None)
    ball.render.use_cache = True
    assert asked(ball)[0].store.folder.is_dir()


def test_what_can_not_be_is_refused_at_once(ball):
    ball.render.depth.use = True
    ball.render.depth.start = ball.render.depth.end = 0.5
    with pytest.raises(CaptureError, match=r"depth would act from 0\.5 to 0\.5"):
        asked(ball)
    ball.render.depth.end = 1.0
    ball.render.use_mask = True
    with pytest.raises(CaptureError, match="No character is chosen"):
        asked(ball)
    ball.render.use_mask = False
    bpy.data.objects.remove(bpy.data.objects["View"])
    with pytest.raises(CaptureError, match="camera"):
        asked(ball)


def test_the_scene_of_the_rig_is_rendered_not_the_sequencers(ball):
    ball.armature = bpy.data.objects["Rig"]
    edit = bpy.data.scenes.new("Edit")
    edit.musev.armature, edit.musev.render.depth.use = bpy.data.objects["Rig"], True
    (made,) = render_settings.captures(edit, edit.musev, (1,), 64, 64)
    assert made.scene == "Scene"


def test_pictures_are_rendered_without_an_engine_and_placed(ball, tmp_path):
    ball.armature = bpy.data.objects["Rig"]
    ball.render.depth.use = ball.render.line.use = ball.render.use_mask = True
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.musev.render_controls(directory=str(tmp_path / "out")) == {"FINISHED"}
    for kind in ("depth", "lineart", "mask"):
        files = sorted((tmp_path / "out" / kind).iterdir())
        assert [file.name for file in files] == ["0001.png", "0002.png"]
        assert all(read_png(file.read_bytes()).any() for file in files)
    placed = list(strips.top_strips(bpy.context.scene))
    assert sorted(strip.name for strip in placed) == ["depth", "lineart", "mask"]
    assert {strips.span(strip) for strip in placed} == {(4, 6)}
    bpy.ops.ed.undo()
    assert not list(strips.top_strips(bpy.context.scene))  # one step


def test_they_go_to_a_take_of_their_own_where_no_folder_is_told(ball, tmp_path):
    ball.render.depth.use = True
    bpy.ops.musev.render_controls(place=False)
    assert len(list((tmp_path / "takes" / "pictures" / "take_001" / "depth").iterdir())) == 2
    assert not list(strips.top_strips(bpy.context.scene))


def test_the_verb_says_why_it_does_nothing(ball):
    with pytest.raises(RuntimeError, match="No kind of picture is chosen"):
        bpy.ops.musev.render_controls()
    ball.render.depth.use = True
    bpy.context.scene.camera = None
    with pytest.raises(RuntimeError, match="camera"):
        bpy.ops.musev.render_controls()
    with pytest.raises(RuntimeError, match="poll"):
        bpy.ops.musev.render_controls_cancel()


def test_beside_the_artists_work_it_goes_on_by_a_timer_and_can_be_cancelled(ball, tmp_path, monkeypatch):
    """As in a window, but that each render is waited for."""
    monkeypatch.setattr(panel, "is_background", lambda: False)
    ball.render.depth.use = True
    bpy.ops.musev.render_controls(directory=str(tmp_path / "out"))
    assert panel.current is not None and bpy.app.timers.is_registered(panel._tick)
    with pytest.raises(RuntimeError, match="already"):
        bpy.ops.musev.render_controls()
    for _ in range(1000):
        if panel._tick() is None:
            break
    assert panel.current is None and panel.problem == ""
    assert len(list((tmp_path / "out" / "depth").iterdir())) == 2
    bpy.ops.musev.render_controls(directory=str(tmp_path / "other"))
    panel._tick()
    bpy.ops.musev.render_controls_cancel()
    assert panel.current is None and not (tmp_path / "other").exists()
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]
    assert panel._tick() is None


def test_kept_pictures_can_be_thrown_away(ball):
    ball.render.depth.use = ball.render.use_cache = True
    folder = render_settings.cache_folder()
    bpy.ops.musev.render_controls(place=False)
    assert len(list(folder.glob("*.frame"))) == 1  # both frames look the same
    bpy.ops.musev.render_cache_clear()
    assert not list(folder.iterdir())


def test_the_panel_shows_what_is_turned_on(ball):
    from test_extension import draw

    assert panel.MUSEV_PT_render.bl_parent_id == "MUSEV_PT_clip"
    ball.mode = "text"
    drawn = draw(panel.MUSEV_PT_render)
    assert "musev.render_controls" in drawn and not {"scale", "use_source"} & set(drawn)
    ball.mode = "pose"
    ball.render.depth.use = ball.render.use_source = True
    drawn = draw(panel.MUSEV_PT_render)
    assert {"scale", "start", "end", "use_mask", "source_strength", "engine", "use_cache"} <= set(drawn)


def test_a_clip_is_sent_with_the_pictures(engine, empty_scene):
    figure(RIGIFY_METARIG, "Dancer")
    camera()
    thing = sphere(segments=16, centre=(0, 0, 1)).add()
    thing.parent = bpy.data.objects["Dancer"]
    empty_scene.frame_start, empty_scene.frame_end = 5, 6
    empty_scene.frame_set(9)
    settings = empty_scene.musev
    settings.armature, settings.mode = bpy.data.objects["Dancer"], "pose"
    settings.width = settings.height = 64
    settings.render.depth.use = settings.render.use_mask = True
    settings.render.use_cache = False
    current = engine()
    bpy.ops.musev.generate()
    job = current.jobs[-1]
    pump(lambda: bool(job.request.mask) or job.ended)
    assert job.request.poses and [control.name for control in job.request.controls] == ["depth"]
    for named in (job.request.mask, job.request.controls[0].pictures):
        files = [file for sha256 in named for file in Pictures.from_bytes(job.blobs[sha256]).files]
        assert len(files) == 2 and all(read_png(file).any() for file in files)
    pump(lambda: job.ended)
    assert job.state is JobState.DONE, job.problem
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"] and empty_scene.frame_current == 9


def rgba_png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w, 4), straight alpha, as the engine sends frames of a clip with a mask."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = (
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), chunk(b"sRGB", b"\0"),
        chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""),
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_transparent_take_lies_over_other_strips_as_its_alpha_says(empty_scene, tmp_path):
    size, render = 64, empty_scene.render
    render.resolution_x = render.resolution_y = size
    under, over = np.zeros((size, size, 4), np.uint8), np.zeros((size, size, 4), np.uint8)
    under[:], over[..., :3] = (40, 180, 90, 255), (220, 60, 200)
    over[..., 3] = np.linspace(0, 255, size).round()
    for name, pixels in (("under", under), ("over", over)):
        (tmp_path / f"{name}.png").write_bytes(rgba_png(pixels))
        strips.place_images(empty_scene, name, [tmp_path / f"{name}.png"], 1)
    if hasattr(render.image_settings, "media_type"):
        render.image_settings.media_type = "IMAGE"
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.filepath = str(tmp_path / "out.png")
    empty_scene.frame_set(1)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(tmp_path / "out.png"))
    seen = np.array(image.pixels[:]).reshape(size, size, 4)[size // 2, :, :3] * 255
    alpha = over[0, :, 3:] / 255
    assert np.abs(seen - (over[0, :, :3] * alpha + under[0, :, :3] * (1 - alpha))).max() <= 1
