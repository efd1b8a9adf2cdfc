"""Strips as a clip's frames: what Blender itself renders of them, and nothing of the artist's changed."""

from __future__ import annotations

import math
import warnings
import wave

import bpy
import montage
import numpy as np
import pytest
from bl_ext.user_default.musev import captures, stills, strips
from bl_ext.user_default.musev.footage import scene_copy, sources
from bl_ext.user_default.musev.protocol import ClipRequest, Control, Pictures, blob_sha256
from montage import HEIGHT, KINDS, LENGTH, WIDTH, Montage

FRAMES = range(1, LENGTH + 1)


@pytest.fixture
def timeline(empty_scene, tmp_path) -> Montage:
    return Montage(empty_scene, tmp_path)


def select(timeline, *wanted) -> None:
    names = {strip.name for strip in wanted}
    for strip in strips.top_strips(timeline.scene):
        strip.select = strip.name in names


def capture(timeline, times=FRAMES, choice="SELECTED", name="", size=(WIDTH, HEIGHT), **given):
    chosen = sources.chosen(timeline.scene, choice, name)
    sources.check(timeline.scene, chosen, sources.nearest_frames(times))
    return sources.StripCapture(chosen, *size, tuple(map(float, times)), **given)


def read(reading) -> sources.StripCapture:
    while not reading.advance(0.0):
        pass
    reading.cancel()
    return reading


def pictures(timeline, reading) -> list[np.ndarray]:
    """What was captured at each time: (h, w, 3) uint8."""
    file, shown = timeline.folder / "captured.png", []
    for frame in sources.nearest_frames(reading.times):
        file.write_bytes(reading.pngs[frame])
        shown.append(montage.read_image(file))
    return shown


def captured(timeline, times=FRAMES, *given, **named) -> list[np.ndarray]:
    return pictures(timeline, read(capture(timeline, times, *given, **named)))


def shows(timeline) -> list[bool]:
    """Of each frame whether it shows anything; 5.x dithers black by a level."""
    return [bool(picture.max() > 1) for picture in captured(timeline)]


def simple(struct) -> dict:
    """A Blender struct's plain properties."""
    told = {}
    for spec in struct.bl_rna.properties:
        if spec.type in ("POINTER", "COLLECTION") or spec.is_readonly:
            continue
        with warnings.catch_warnings():  # 5.x warns of the old names that it still has
            warnings.simplefilter("ignore", DeprecationWarning)
            value = getattr(struct, spec.identifier)
        told[spec.identifier] = tuple(value) if getattr(spec, "is_array", False) else value
    return told


def strips_dump(level) -> list:
    return [
        (simple(strip), strips.span(strip), strips_dump(strips.inside(strip)) if strip.type == "META" else [])
        for strip in level
    ]


def fcurves(action) -> list:
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    bags = (bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags)
    return [curve for bag in bags for curve in bag.fcurves]


def dump() -> dict:
    """All that an artist could miss or find too much."""
    keys = {
        action.name: [(c.data_path, [tuple(k.co) for k in c.keyframe_points]) for c in fcurves(action)]
        for action in bpy.data.actions
    }
    told: dict = {"keys": keys}
    for kind in ("scenes", "actions", "images", "movieclips", "sounds", "objects", "worlds", "materials"):
        told[kind] = sorted((block.name, block.users) for block in getattr(bpy.data, kind))
    for scene in bpy.data.scenes:
        editor = scene.sequence_editor
        told[scene.name] = (
            simple(scene), simple(scene.render), simple(scene.render.image_settings), simple(scene.view_settings),
            strips_dump(strips.top_strips(scene)),
            editor and [simple(channel) for channel in editor.channels],
            editor and editor.active_strip and editor.active_strip.name,
        )  # fmt: skip
    preferences = bpy.context.preferences
    told["preferences"] = simple(preferences.view), simple(preferences.edit), preferences.is_dirty
    return told


# --- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_strip_is_read_as_blender_renders_it(timeline, name):
    select(timeline, *KINDS[name](timeline))
    frames = (2,) if name == "scene_camera" else FRAMES  # by Cycles: slow
    shown = montage.plain_frames(timeline.scene, frames, timeline.folder)
    assert len({picture.tobytes() for picture in shown}) > (name not in ("text", "scene_camera"))
    before = dump()
    assert all((a == b).all() for a, b in zip(captured(timeline, frames), shown, strict=True))
    assert dump() == before


@pytest.mark.parametrize("view", ["Standard", "AgX", "Filmic", "Raw"])
def test_every_view_is_as_the_viewer_shows_it(timeline, view):
    select(timeline, timeline.image())
    settings = timeline.scene.view_settings
    settings.view_transform, settings.exposure, settings.gamma = view, 0.4, 1.2
    if view == "Filmic":
        settings.look = next(
            look for look in ("Filmic - High Contrast", "High Contrast") if look in looks(settings)
        )
    shown = montage.plain_frames(timeline.scene, (1, 5), timeline.folder)
    assert all((a == b).all() for a, b in zip(captured(timeline, (1, 5)), shown, strict=True))


def looks(settings) -> set[str]:
    """The looks of a view; Blender tells them in what it says to a wrong one."""
    with pytest.raises(TypeError) as caught:
        settings.look = "?"
    return set(str(caught.value).split("'"))


def test_png_files_arrive_without_a_level_lost(timeline):
    select(timeline, timeline.image())
    files = [montage.read_image(file) for file in timeline.files()]
    assert all((a == b).all() for a, b in zip(captured(timeline), files, strict=True))


def test_only_the_selected_strips_are_shown_or_all_of_them(timeline):
    under, over = timeline.image(name="under"), timeline.colour(2, (1, 0, 0), start=3, length=2)
    under.blend_alpha = 0.7
    under.keyframe_insert("blend_alpha", frame=1)
    over.blend_alpha = 0.5
    over.keyframe_insert("blend_alpha", frame=1)
    everything = montage.plain_frames(timeline.scene, FRAMES, timeline.folder)
    over.mute = True
    alone = montage.plain_frames(timeline.scene, FRAMES, timeline.folder)
    over.mute = False
    select(timeline, under)
    before = dump()
    assert all((a == b).all() for a, b in zip(captured(timeline), alone, strict=True))
    assert all((a == b).all() for a, b in zip(captured(timeline, choice="ALL"), everything, strict=True))
    assert all(
        (a == b).all() for a, b in zip(captured(timeline, choice="STRIP", name="under"), alone, strict=True)
    )
    assert dump() == before  # the F-curve of the strip that the copy did without, too


def test_the_inside_of_an_open_meta_is_what_is_shown(timeline):
    (meta,) = KINDS["meta"](timeline)
    timeline.image(channel=3, name="on top")
    timeline.editor.display_stack(meta)
    for strip in strips.inside(meta):
        strip.select = strip.name == "inside b"
    shown = montage.plain_frames(timeline.scene, FRAMES, timeline.folder)
    assert all((a == b).all() for a, b in zip(captured(timeline, choice="ALL"), shown, strict=True))
    assert shows(timeline) == [False] * 3 + [True] * 3 + [False] * 2
    assert [meta.name for meta in timeline.editor.meta_stack] == ["meta"]


def test_an_adjustment_layer_alters_what_is_chosen_or_all_that_lies_under_it(timeline):
    under, between = timeline.image(name="under"), timeline.colour(2, (0, 1, 0), length=4)
    layer = timeline.effect("ADJUSTMENT", 3)
    layer.color_saturation = 0.0
    assert strips.with_inputs(strips.top_strips(timeline.scene), [layer.name]) == {
        "under", between.name, layer.name,
    }  # fmt: skip
    assert strips.with_inputs(strips.top_strips(timeline.scene), [layer.name, "under"]) == {
        "under",
        layer.name,
    }
    select(timeline, under, layer)
    assert all((picture == picture[..., :1]).all() for picture in captured(timeline))


def test_proxies_are_for_looking_and_stay_as_they_are(timeline):
    strip = timeline.movie()
    select(timeline, strip)
    shown = montage.plain_frames(timeline.scene, (2, 7), timeline.folder)
    strip.use_proxy = True
    strip.proxy.build_25, strip.proxy.build_100 = True, False
    strip.proxy.use_proxy_custom_directory = True
    strip.proxy.directory = str(timeline.folder / "proxies")
    with montage.in_sequencer(timeline.scene):
        bpy.ops.sequencer.rebuild_proxy()
    made = {file: file.read_bytes() for file in (timeline.folder / "proxies").rglob("*") if file.is_file()}
    before = dump()
    assert made and all((a == b).all() for a, b in zip(captured(timeline, (2, 7)), shown, strict=True))
    after = {file: file.read_bytes() for file in (timeline.folder / "proxies").rglob("*") if file.is_file()}
    assert after == made and dump() == before


def test_clips_of_another_size_are_cut_as_stills_are(timeline):
    select(timeline, timeline.image())
    (small,) = captured(timeline, (3,), size=(64, 96))
    shown = montage.read_image(timeline.files()[2])
    assert small.shape == (96, 64, 3)
    assert np.abs(small - stills.cover(shown.astype(np.float32), 64, 96)).max() <= 0.5


def test_a_render_at_half_size_still_gives_whole_frames(timeline):
    select(timeline, timeline.image())
    timeline.scene.render.resolution_percentage = 50
    assert (captured(timeline, (3,))[0] == montage.read_image(timeline.files()[2])).all()


def test_times_between_frames_show_the_nearest_one_rendered_once(timeline):
    select(timeline, timeline.image())
    reading = read(capture(timeline, (1.0, 1.25, 1.5, 2.4, 2.6, 7.49)))
    assert sources.nearest_frames(reading.times) == (1, 1, 2, 2, 3, 7)
    assert reading.rendered == 4 and reading.done == reading.total == 7
    files = [montage.read_image(file) for file in timeline.files()]
    assert all(
        (a == files[k]).all() for a, k in zip(pictures(timeline, reading), (0, 0, 1, 1, 2, 6), strict=True)
    )


def test_animation_counts_at_the_very_first_frame_that_is_read(timeline):
    select(timeline, *KINDS["blended_and_animated"](timeline))
    shown = montage.plain_frames(timeline.scene, FRAMES, timeline.folder)
    for frame in (1, 4, 8):
        assert (captured(timeline, (frame,))[0] == shown[frame - 1]).all()


def test_frames_before_the_first_are_read_too(timeline):
    select(timeline, timeline.image(start=-5))
    before = dump()
    files = [montage.read_image(file) for file in timeline.files()]
    assert all((a == b).all() for a, b in zip(captured(timeline, range(-4, 0)), files[1:5], strict=True))
    assert dump() == before


# --- what shows nothing, and what can't be read ---------------------------------------------------


def test_gaps_and_mutes_are_black_and_counted(timeline):
    a, b = timeline.image(count=2, name="a"), timeline.image(start=5, count=3, name="b", channel=2)
    select(timeline, a, b)

    def empty(choice="SELECTED") -> int:
        return sources.empty_frames(timeline.scene, sources.chosen(timeline.scene, choice), tuple(FRAMES))

    assert empty() == 3
    assert shows(timeline) == [True] * 2 + [False] * 2 + [True] * 3 + [False]
    timeline.editor.channels[2].mute = True
    assert empty() == empty("ALL") == 6
    assert shows(timeline) == [True] * 2 + [False] * 6
    timeline.editor.channels[2].mute, b.mute = False, True
    assert empty() == 6
    assert shows(timeline) == [True] * 2 + [False] * 6
    a.mute = True
    with pytest.raises(sources.SourceError, match="Nothing is shown at any of the frames 1 to 8"):
        capture(timeline)


def test_a_meta_shows_something_where_its_strips_do(timeline):
    (meta,) = KINDS["meta"](timeline)
    select(timeline, meta)
    strips.inside(meta)["inside a"].mute = True
    assert (
        sources.empty_frames(timeline.scene, sources.chosen(timeline.scene, "SELECTED"), tuple(FRAMES)) == 5
    )
    assert shows(timeline) == [False] * 3 + [True] * 3 + [False] * 2


@pytest.fixture
def sound(timeline):
    with wave.open(str(timeline.folder / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    try:
        return montage.strips_of(timeline.editor).new_sound(
            name="sound", filepath=str(timeline.folder / "sound.wav"), channel=7, frame_start=1
        )
    except RuntimeError as error:
        assert "without Audaspace" in str(error)
        pytest.skip("this bpy knows no sound")


def test_sound_is_left_alone_and_is_no_source(timeline, sound):
    select(timeline, sound)
    with pytest.raises(sources.SourceError, match="'sound' is a sound strip and shows nothing; choose"):
        capture(timeline)
    with pytest.raises(sources.SourceError, match="Nothing is shown"):
        capture(timeline, choice="ALL")
    select(timeline, sound, timeline.image())
    before = dump()
    files = [montage.read_image(file) for file in timeline.files()]
    assert all((a == b).all() for a, b in zip(captured(timeline), files, strict=True))
    assert dump() == before


def test_nothing_to_choose_is_told(timeline):
    def refused(words, *given):
        with pytest.raises(sources.SourceError, match=words):
            capture(timeline, FRAMES, *given)

    refused("scene 'Scene' has 0 strips; add the one", "ALL")
    timeline.image().select = False
    refused("0 strips of scene 'Scene' are selected; select those")
    refused("Scene 'Scene' shows no strip 'Nobody' in its timeline", "STRIP", "Nobody")
    refused("No strip of scene 'Scene' is chosen", "STRIP")


def test_missing_media_are_named_before_anything_is_rendered(timeline):
    image, movie = timeline.image(), timeline.movie(channel=2)
    select(timeline, image, movie)
    for name in ("picture03.png", "picture05.png", "movie.mp4"):
        (timeline.folder / name).unlink()
    with pytest.raises(sources.SourceError) as caught:
        capture(timeline)
    assert "'picture' lacks 2 of 8 files" in str(caught.value) and "picture03.png, picture05.png" in str(
        caught.value
    )
    assert "'movie' has no file" in str(caught.value) and len(bpy.data.scenes) == 1
    movie.mute = True
    with pytest.raises(sources.SourceError, match="'picture' lacks 2 of 8"):
        capture(timeline)
    montage.trim(image, 6, 0)
    assert len(captured(timeline, (7, 8))) == 2


def test_a_scene_that_shows_itself_is_refused(timeline):
    (strip,) = KINDS["scene_sequencer"](timeline)
    select(timeline, strip)
    other = strip.scene
    back = montage.strips_of(other.sequence_editor).new_scene(
        name="back", scene=timeline.scene, channel=4, frame_start=1
    )
    back.scene_input = "SEQUENCER"
    with pytest.raises(sources.SourceError, match="Scene strip 'back' shows the scene that it lies in"):
        capture(timeline)
    back.scene = bpy.data.scenes.new("Third")
    assert len(captured(timeline, (1,))) == 1


# --- what stays as it was -------------------------------------------------------------------------


def test_a_cancelled_capture_leaves_nothing(timeline):
    select(timeline, timeline.image())
    timeline.scene.frame_set(4)
    before = dump()
    reading = capture(timeline)
    while reading.done < 3:
        reading.advance(0.0)
    folder = reading._folder
    assert len(bpy.data.scenes) == 2 and folder.is_dir()
    reading.cancel()
    reading.cancel()
    assert dump() == before and not folder.exists()
    assert not reading.advance(math.inf) and reading.done == 3


def test_an_error_on_the_way_leaves_nothing(timeline):
    select(timeline, timeline.image())
    before = dump()
    reading = capture(timeline)
    reading.advance(0.0)
    timeline.scene.name = "Renamed"
    bpy.data.scenes.remove(reading._copy.found)
    with pytest.raises(captures.CaptureError, match="Scene 'Scene' is no longer in this file"):
        reading.advance(math.inf)
    reading.cancel()
    timeline.scene.name = "Scene"
    assert dump() == before


def test_strips_deleted_meanwhile_are_named(timeline):
    strip = timeline.image()
    select(timeline, strip)
    timeline.colour(2, (1, 0, 0)).select = False
    reading = capture(timeline)
    strips.top_strips(timeline.scene).remove(strip)
    before = dump()
    with pytest.raises(sources.SourceError, match="Strip 'picture' is no longer in scene 'Scene'"):
        reading.advance(math.inf)
    reading.cancel()
    assert dump() == before


def test_the_undo_stack_is_the_artists_own_and_undoing_meanwhile_does_no_harm(timeline):
    select(timeline, timeline.image())
    bpy.ops.ed.undo_push(message="before")
    timeline.scene.frame_end = 77
    bpy.ops.ed.undo_push(message="after")
    reading = capture(timeline)
    while reading.done < 3:
        reading.advance(0.0)
    bpy.ops.ed.undo()
    assert bpy.context.scene.frame_end != 77
    bpy.ops.ed.redo()
    assert bpy.context.scene.frame_end == 77
    bpy.ops.ed.undo_push(message="with the copy in it")
    files = [montage.read_image(file) for file in timeline.files()]
    read(reading)
    assert all((a == b).all() for a, b in zip(pictures(timeline, reading), files, strict=True))
    bpy.context.scene.frame_end = 78
    bpy.ops.ed.undo_push(message="later")
    bpy.ops.ed.undo()
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]


def test_a_render_that_an_undo_came_into_is_not_trusted(timeline, tmp_path):
    timeline.image()
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ed.undo_push(message="after")
    copy = scene_copy.SceneCopy("Scene", lambda scene, _: None)
    copy.get()
    assert copy.render(tmp_path / "frame.png") and not copy.disturbed
    bpy.ops.ed.undo()
    assert copy.disturbed and copy.found is None
    assert copy.render(tmp_path / "frame.png") and not copy.disturbed
    copy.remove()


def test_a_file_saved_meanwhile_holds_nothing_of_it(timeline, tmp_path):
    select(timeline, timeline.image())
    reading = capture(timeline)
    while reading.done < 2:
        reading.advance(0.0)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"), copy=True)
    with bpy.data.libraries.load(str(tmp_path / "saved.blend")) as (held, _):
        assert held.scenes == ["Scene"] and held.actions == []
    assert len({stills.png_size(png) for png in read(reading).pngs.values()}) == 1
    assert len(reading.pngs) == LENGTH


def test_opening_another_file_meanwhile_leaves_it_alone(timeline):
    select(timeline, timeline.image())
    reading = capture(timeline)
    reading.advance(0.0)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    before = dump()
    reading.cancel()
    assert dump() == before and not scene_copy._live


# --- what becomes of it ---------------------------------------------------------------------------


def test_the_request_names_source_and_control(timeline):
    select(timeline, timeline.image())
    reading = read(
        capture(timeline, source_strength=0.3, control=Control("depth", (), detect=True, scale=0.5))
    )
    request = ClipRequest(mode="video", source=("0" * 64,), num_frames=LENGTH, width=WIDTH + 16, height=64)
    request, blobs = reading.finish(request)
    assert request.source_strength == 0.3 and set(request.blobs) == set(blobs)
    assert request.controls == (Control("depth", request.source, detect=True, scale=0.5),)
    files = [file for name in request.source for file in Pictures.from_bytes(blobs[name]).files]
    assert files == [reading.pngs[frame] for frame in FRAMES]
    assert all(blob_sha256(blob) == name for name, blob in blobs.items())


def test_control_pictures_are_no_source(timeline):
    select(timeline, timeline.image())
    reading = read(capture(timeline, (1, 2), control=Control("normal_bae", ())))
    request, blobs = reading.finish(ClipRequest(mode="text", num_frames=2))
    assert request.source == () and request.controls[0].pictures == tuple(blobs)


def test_a_still_is_what_any_strip_shows(timeline):
    movie, _ = timeline.movie(start=3), timeline.colour(2, (1, 1, 1))
    movie_at = {}
    for frame, nearest in ((6, 6), (1, 3), (99, 18)):
        reading = read(sources.still_capture(timeline.scene, movie.name, frame, WIDTH, HEIGHT))
        assert reading.total == 2 and sources.nearest_frames(reading.times) == (nearest,)
        request, blobs = reading.finish(ClipRequest(mode="still", still="0" * 64))
        movie_at[frame] = blobs[request.still]
    strips.top_strips(timeline.scene)["color"].mute = True
    (shown,) = montage.plain_frames(timeline.scene, (6,), timeline.folder)
    (timeline.folder / "still.png").write_bytes(movie_at[6])
    assert (montage.read_image(timeline.folder / "still.png") == shown).all()
    assert len(set(movie_at.values())) == 3
