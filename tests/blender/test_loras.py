"""LoRAs with weights for each clip: listed, sent, told in the take, recalled; what the engine lacks is said before."""

from __future__ import annotations

import json

import bpy
import pytest
from bl_ext.user_default.musev import gather, outlook, remedies, ui
from bl_ext.user_default.musev.clips import recall, reproduce, stack, takes
from bl_ext.user_default.musev.protocol import LoraChoice
from bl_ext.user_default.musev.shots import shot
from bl_ext.user_default.musev.weights import lora_panel, loras
from conftest import pump
from test_extension import Layout
from test_extension import draw as drawn
from test_generate import refusal


@pytest.fixture
def extras(empty_scene):
    settings = empty_scene.musev
    settings.mode, settings.prompt, settings.width, settings.height = "text", "a wave", 64, 64
    empty_scene.frame_end = 4
    return settings.extras


def names(extras) -> list[str]:
    return [item.name for item in extras.loras]


def panel() -> str:
    layout = Layout([])
    draw(lora_panel.MUSEV_PT_loras, layout)
    return " ".join(layout.drawn)


def draw(cls, layout) -> None:
    stand_in = type("StandIn", (), {"layout": layout})()
    cls.draw(stand_in, bpy.context)


def clip(current):
    """A clip made now: its take's record."""
    bpy.ops.musev.generate()
    job = current.jobs[-1]
    pump(lambda: job.ended)
    assert job.strip, job.problem
    return job, takes.read_sidecar(job.take)


def test_the_list_is_filled_ordered_and_emptied_by_verbs(told, extras):
    told()
    ops = bpy.ops.musev
    ops.lora_add(lora="ink")
    ops.lora_add(lora="chalk", weight=0.5)
    assert names(extras) == ["ink", "chalk"] and extras.lora_index == 1
    ops.lora_add(lora="ink", weight=-0.25)  # once each
    assert names(extras) == ["ink", "chalk"] and extras.loras[0].weight == -0.25 and extras.lora_index == 0
    ops.lora_move(direction="UP")  # no further
    ops.lora_move(direction="DOWN")
    assert names(extras) == ["chalk", "ink"] and extras.lora_index == 1
    ops.lora_move(lora="ink", direction="UP")
    assert names(extras) == ["ink", "chalk"]
    assert "has: ink, chalk" in refusal(lambda: ops.lora_add(lora="words"))
    assert "No LoRA is named" in refusal(lambda: ops.lora_add())
    assert "no LoRA 'other'" in refusal(lambda: ops.lora_remove(lora="other"))
    ops.lora_remove(lora="ink")
    ops.lora_remove()
    assert names(extras) == [] and "is empty; add one first" in refusal(lambda: ops.lora_remove())


def test_without_an_engine_any_name_can_be_listed(extras):
    from bl_ext.user_default.musev import session

    session.current.shelf.models = {}
    bpy.ops.musev.lora_add(lora="from_another_computer")
    assert loras.missing(extras) == ""


def test_a_clip_is_made_with_them_and_its_take_tells_so(told, extras):
    current = told()
    bpy.ops.musev.lora_add(lora="ink", weight=0.7)
    bpy.ops.musev.lora_add(lora="chalk", weight=-0.3)
    extras.loras[1].use = False
    job, record = clip(current)
    assert job.request.loras == (LoraChoice("ink", 0.7),)  # as it reads, not as its 32 bits are
    assert record["request"]["loras"] == [{"name": "ink", "weight": 0.7}]
    assert reproduce.request_of(json.loads(json.dumps(record))) == job.request


def test_settings_are_recalled_with_them(told, extras):
    current = told()
    for name, weight in (("chalk", 1.5), ("ink", 0.25)):
        bpy.ops.musev.lora_add(lora=name, weight=weight)
    extras.vae = "soft"
    current.shelf.models["soft"] = current.shelf.models["base"].__class__(
        "soft", "vae", "Soft", "MIT", "", installed=True
    )
    job, _ = clip(current)
    extras.loras.clear()
    extras.vae = ""
    bpy.ops.musev.lora_add(lora="ink", weight=2.0)
    scene = bpy.context.scene
    strip = stack.active(scene) or next(iter(stack.ours(scene)))
    take = stack.read(strip).take(job.take.name)

    assert recall.recall(scene.musev, take) == []
    assert [(item.name, round(item.weight, 6), item.use) for item in extras.loras] == [
        ("chalk", 1.5, True), ("ink", 0.25, True),
    ]  # fmt: skip
    assert extras.vae == "soft"


@pytest.fixture
def quick(told, extras):
    """LoRAs that were made for few steps, with and without guidance, in an engine's shelf."""
    models = told().shelf.models
    for id, steps, guidance in (("lcm", 4, 1.0), ("hyper-cfg", 8, 5.0)):
        models[id] = models["ink"].__class__(
            id, "lora", "Quick", "MIT", "", installed=True, num_inference_steps=steps, guidance_scale=guidance
        )
    return bpy.context.scene.musev


def test_a_few_step_lora_brings_its_steps_unless_others_were_set(quick):
    ops = bpy.ops.musev
    assert quick.steps == 10 and not quick.is_property_set("steps")
    ops.lora_add(lora="ink")
    assert quick.steps == 10
    ops.lora_add(lora="lcm")
    assert quick.steps == 4 and remedies.for_steps(quick) is None
    ops.lora_remove(lora="ink")
    assert quick.steps == 4
    ops.lora_remove(lora="lcm")
    assert quick.steps == 10 and not quick.is_property_set("steps")

    quick.steps = 20  # the artist's
    ops.lora_add(lora="lcm")
    assert quick.steps == 20
    why, button = remedies.for_steps(quick)
    assert why == "'lcm' was made for steps 4 and guidance 1; the clip has 20 and 1."
    assert button.text == "Use 4 Steps"
    assert why in " ".join(drawn(ui.MUSEV_PT_clip))
    assert getattr(ops, button.operator.removeprefix("musev."))() == {"FINISHED"}
    assert quick.steps == 4 and remedies.for_steps(quick) is None
    for steps, fits in ((3, False), (8, True), (9, False)):
        quick.steps = steps
        assert (remedies.for_steps(quick) is None) == fits, steps
    quick.extras.loras[0].use = False
    assert remedies.for_steps(quick) is None
    ops.lora_remove(lora="lcm")
    assert quick.steps == 9  # were not the LoRA's
    assert "is empty" in refusal(lambda: ops.lora_steps())
    ops.lora_add(lora="ink")
    assert "No LoRA in the list" in refusal(lambda: ops.lora_steps())


def test_a_few_step_lora_brings_its_guidance(quick):
    when = gather.clip_plan(bpy.context.scene, quick)

    def asked() -> tuple[int, float]:
        request = gather.request(quick, when, "text", None)
        return request.num_inference_steps, request.guidance_scale

    assert asked() == (10, 1.0)
    bpy.ops.musev.lora_add(lora="hyper-cfg")
    assert asked() == (8, 5.0)
    bpy.ops.musev.lora_add(lora="lcm")  # the last one counts; but others are set now
    assert asked() == (8, 5.0) and "guidance 1; the clip has 8 and 5." in remedies.for_steps(quick)[0]
    bpy.ops.musev.lora_steps()
    assert asked() == (4, 1.0) and remedies.for_steps(quick) is None
    for id in ("lcm", "hyper-cfg"):
        bpy.ops.musev.lora_remove(lora=id)
    quick.property_unset("steps")
    quick.guidance_scale = 3.5  # the artist's
    bpy.ops.musev.lora_add(lora="lcm")
    assert asked() == (4, 3.5) and remedies.for_steps(quick) is not None


def test_what_the_engine_lacks_greys_generate_out_with_the_reason(told, extras):
    told()
    assert outlook.why_not(bpy.context) == ""
    item = extras.loras.add()
    item.name = "gone"
    assert "The engine has no 'gone'" in outlook.why_not(bpy.context)
    with pytest.raises(gather.SettingsError, match="gone"):
        gather.clip_job(bpy.context)
    item.use = False
    assert outlook.why_not(bpy.context) == ""
    item.use, item.name = True, "words"
    assert "isn't installed; download it" in outlook.why_not(bpy.context)
    item.name = "base"
    assert "another kind of model" in outlook.why_not(bpy.context)


def test_a_missing_one_has_its_remedy_as_a_button(told, extras):
    told()
    extras.loras.add().name = "gone"
    buttons = {button.operator: button for button in remedies.for_settings(bpy.context)}
    assert buttons["musev.lora_remove"].properties == {"lora": "gone"} and "musev.model_add" in buttons
    bpy.ops.musev.lora_remove(**buttons["musev.lora_remove"].properties)
    assert names(extras) == [] and remedies.for_settings(bpy.context) == []


def test_a_take_made_with_others_is_told_from_these(told, extras):
    current = told()
    bpy.ops.musev.lora_add(lora="ink", weight=0.7)
    _, record = clip(current)
    request = json.loads(json.dumps(record))["request"]
    assert loras.told(request) == loras.now(extras)
    item = extras.loras.add()
    item.name, item.weight = "chalk", 0.0  # nothing of it
    assert loras.told(request) == loras.now(extras)
    item.weight = 0.1
    assert (
        loras.told(request) != loras.now(extras) and loras.sentence(loras.now(extras)) == "ink 0.7, chalk 0.1"
    )
    extras.loras.clear()
    assert loras.told(request) != loras.now(extras) and loras.sentence(loras.now(extras)) == "nothing"
    assert loras.told({}) == loras.now(extras)  # a take from before there were any


def test_research_only_loras_are_told_before_the_clip_is_made(told, extras):
    told()
    assert "research-only" not in outlook.outlook(bpy.context.scene).sentence
    bpy.ops.musev.lora_add(lora="chalk")  # CC-BY-NC
    assert "research-only weights" in outlook.outlook(bpy.context.scene).sentence


def test_the_panel_lists_what_is_there_and_the_words_to_say(told, extras):
    told()
    layout = Layout([])
    draw(lora_panel.MUSEV_MT_loras, layout)
    assert "musev.lora_add" in layout.drawn and "musev.model_add" in layout.drawn
    bpy.ops.musev.lora_add(lora="ink")
    assert "Say in the prompt: in ink, lines" in panel()
    assert {"musev.lora_remove", "musev.lora_move", "template_list"} <= set(panel().split())
    row = Layout([])
    lora_panel.MUSEV_UL_loras.draw_item(None, bpy.context, row, None, extras.loras[0], 0, None, "")
    assert {"ink", "weight", "use"} <= set(row.drawn)
    properties = type("Properties", (), {"lora": "ink"})
    hint = lora_panel.MUSEV_OT_lora_add.description(bpy.context, properties)
    assert "Words in a prompt that bring it out: in ink, lines" in hint and "Licence: CC-BY" in hint


def test_a_list_survives_saving_and_undo(told, extras, tmp_path):
    told()
    bpy.ops.musev.lora_add(lora="ink", weight=0.5)
    path = str(tmp_path / "a.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    (item,) = bpy.context.scene.musev.extras.loras
    assert (item.name, item.weight) == ("ink", 0.5)


def test_every_property_is_described(extras):
    for group in (loras.MusevLora, loras.MusevExtraSettings):
        for prop in group.bl_rna.properties:
            assert prop.description or prop.identifier == "rna_type", prop.identifier


def test_a_take_is_recalled_into_settings_that_are_not_the_panels(told, extras):
    current = told()
    bpy.ops.musev.lora_add(lora="chalk", weight=1.5)
    job, _ = clip(current)
    extras.loras.clear()
    bpy.ops.musev.lora_add(lora="ink")
    scene = bpy.context.scene
    take = stack.read(next(iter(stack.ours(scene)))).take(job.take.name)
    aside = shot.AsIf(scene.musev)
    assert recall.recall(aside, take) == []
    assert loras.asked(aside.extras)["loras"] == (LoraChoice("chalk", 1.5),)
    assert names(extras) == ["ink"]  # the panel's stay
