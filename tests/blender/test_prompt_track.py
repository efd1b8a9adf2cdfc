"""Text strips as prompts: which channels, which frames, how they reach the request and the panel."""

from __future__ import annotations

from fractions import Fraction

import bpy
import pytest
from bl_ext.user_default.musev import prompt_panel, prompt_track, strips, timing
from bl_ext.user_default.musev.protocol import PromptSpan
from test_extension import draw
from test_generate import finish, generate, refusal, shot  # noqa: F401 (a fixture)


@pytest.fixture
def scene(empty_scene):
    """A scene whose channels 4 and 5 hold prompts; the settings are for frames 10 to 29."""
    editor = empty_scene.sequence_editor_create()
    editor.channels[4].name, editor.channels[5].name = "Prompts", "prompts two"
    return empty_scene


def text(scene, words, start, end, channel=4):
    return strips.place_text(scene, words, words, channel, start, end)


def spans(scene, when=None):
    settings = scene.musev.prompt_track
    return prompt_track.read(scene, settings, when or timing.plan(10, 20, Fraction(24))).spans


def test_text_strips_on_prompt_channels_are_spans_of_generated_frames(scene):
    text(scene, "a hill", 4, 15)
    text(scene, "the sea", 15, 20)
    text(scene, "a town", 18, 90, channel=5)
    text(scene, "a title", 10, 30, channel=2)
    text(scene, "past", 0, 10, channel=5)
    assert spans(scene) == (
        PromptSpan(0, 4, "a hill"),
        PromptSpan(5, 9, "the sea"),
        PromptSpan(8, 19, "a town"),
    )


def test_at_another_rate_frames_are_those_whose_time_lies_under_the_strip(scene):
    text(scene, "a hill", 10, 13)
    text(scene, "the sea", 13, 30)
    when = timing.plan(10, 20, Fraction(24), Fraction(8), "blended")  # at 10, 13, 16 … 28 and 31
    assert when.times[-1] == 31.0
    assert spans(scene, when) == (PromptSpan(0, 0, "a hill"), PromptSpan(1, 7, "the sea"))


def test_a_strip_between_two_generated_frames_is_told(scene):
    text(scene, "a flash", 11, 13)
    text(scene, "elsewhere", 40, 41)
    when = timing.plan(10, 20, Fraction(24), Fraction(8))
    track = prompt_track.read(scene, scene.musev.prompt_track, when)
    assert track.spans == () and track.unseen == ("a flash",)
    assert track.sentence == "no frame is generated under a flash"


def test_muted_and_empty_strips_say_nothing_and_a_muted_channel_does(scene):
    text(scene, "a hill", 10, 12).mute = True
    text(scene, "  ", 12, 14)
    text(scene, "the sea", 14, 16)
    scene.sequence_editor.channels[4].mute = True
    assert spans(scene) == (PromptSpan(4, 5, "the sea"),)
    scene.musev.prompt_track.use = False
    assert spans(scene) == ()


def test_other_channels_may_be_chosen(scene):
    text(scene, "a hill", 10, 12, channel=2)
    scene.sequence_editor.channels[2].name = "Story"
    scene.musev.prompt_track.channel = "story"
    assert spans(scene) == (PromptSpan(0, 1, "a hill"),)
    scene.musev.prompt_track.channel = " "
    assert spans(scene) == ()


def test_a_scene_without_strips_has_no_prompts(empty_scene):
    assert spans(empty_scene) == ()


def test_too_many_prompts_are_refused(engine, scene):
    for k in range(65):
        text(scene, f"prompt {k}", 10 + k, 11 + k)
    scene.musev.mode, scene.frame_start, scene.frame_end = "text", 10, 90
    engine()
    assert "at most 64" in refusal(bpy.ops.musev.generate)


def test_the_track_reaches_the_request_and_the_take(engine, shot):  # noqa: F811
    scene = bpy.context.scene
    scene.sequence_editor_create().channels[4].name = "Prompts"
    text(scene, "a hill", 1, 9)
    text(scene, "the sea", 9, 90)
    shot.mode, shot.prompt = "text", "rain"
    job = finish(generate(engine()))
    wanted = (PromptSpan(0, 3, "a hill"), PromptSpan(4, 11, "the sea"))
    assert job.request.prompts == wanted and job.request.prompt == "rain"


def test_the_panel_says_what_there_is(scene):
    scene.musev.mode, scene.frame_start, scene.frame_end = "text", 10, 29
    assert "0 prompts over the clip" in " ".join(draw(prompt_panel.MUSEV_PT_prompt_track))
    for k, words in enumerate(("a hill", "the sea", "a town")):
        text(scene, words, 10 + 5 * k, 15 + 5 * k)
    said = draw(prompt_panel.MUSEV_PT_prompt_track)
    assert "3 prompts" in said and "15 to 19: the sea" in said
    scene.musev.range = "PREVIEW"
    assert "preview range is off" in " ".join(draw(prompt_panel.MUSEV_PT_prompt_track))


def test_adding_a_prompt_makes_a_muted_channel_and_goes_on_there(empty_scene):
    empty_scene.musev.prompt = "rain"
    empty_scene.frame_set(7)
    bpy.ops.musev.prompt_add()
    bpy.ops.musev.prompt_add(text="snow", frame=31, length=10)
    bpy.ops.musev.prompt_add(text="fog", frame=35, length=10)
    channels = empty_scene.sequence_editor.channels
    first, second, third = strips.top_strips(empty_scene)
    assert (first.text, strips.span(first)) == ("rain", (7, 31))
    assert (second.text, strips.span(second)) == ("snow", (31, 41)) and second.channel == first.channel
    assert third.channel != first.channel and channels[third.channel].name == "Prompts 2"
    assert channels[first.channel].name == "Prompts"
    assert channels[first.channel].mute and channels[third.channel].mute
    when = timing.plan(1, 60, Fraction(24))
    assert spans(empty_scene, when) == (
        PromptSpan(6, 29, "rain"), PromptSpan(30, 39, "snow"), PromptSpan(34, 43, "fog"),
    )  # fmt: skip


def test_a_channel_that_holds_other_strips_becomes_no_prompt_channel(empty_scene):
    strips.place_colour(empty_scene, "Title", 1, 100, 120)
    bpy.ops.musev.prompt_add(frame=1)
    (prompt,) = [strip for strip in strips.top_strips(empty_scene) if strip.type == "TEXT"]
    assert prompt.channel == 2 and not empty_scene.sequence_editor.channels[1].mute
