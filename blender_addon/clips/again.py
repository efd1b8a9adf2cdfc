"""A take made again from its recorded request and its kept inputs: a draft as final, or the same to be compared."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import bpy
from bpy.props import EnumProperty, IntProperty

from .. import gather, outlook, session, strips, ui
from ..making.jobs import Job
from ..props import MAX_VARIATIONS
from ..protocol import ClipRequest, ProtocolError
from ..translations import tr
from ..verbs import no_engine
from . import draft, finals, kept, reproduce, splice, stack, takes
from .clip_folder import Take
from .stack_verbs import TakeOperator

FROM = (
    ("KEPT", "Kept Inputs", "The very inputs that the take was made from, kept in its clip's folder"),
    (
        "SCENE",
        "Scene",
        "The scene as it is now, with the present settings; recall the take's settings before",
    ),
)


def told(take: Take) -> dict:
    """What a take tells of its inputs. Raises TakeError for one that can't be made again."""
    inputs = take.record.get("inputs")
    if not take.request or not isinstance(inputs, dict):
        raise takes.TakeError(f"{take.name}: {take.problem or 'its take.json tells no request'}.")
    splice.Splice.of_record(take.record)
    return inputs


def final_job(scene: bpy.types.Scene, strip, take: Take) -> Job:
    """The clip that a take is a draft of: full size and steps, the same seed and inputs. Makes its take's folder last.
    Raises TakeError and ProtocolError."""
    inputs, part = told(take), splice.Splice.of_record(take.record)
    whole, stays = inputs.get(draft.KEY), {}
    if part is not None and part.of and whole is None:  # made small by the settings alone
        whole = finals.inputs_of(finals.stays_of(take, part)).get(draft.KEY)
    if not isinstance(whole, dict):
        raise takes.TakeError(
            tr("{take} is no draft; choose one that was made with Draft on.", take=take.name)
        )
    request = draft.final(reproduce.request_of(take.record), whole)
    about = {key: value for key, value in inputs.items() if key != draft.KEY} | {"final_of": take.name}
    if part is not None:
        final = finals.final_of(take, part)
        request, stays = finals.led_by(request, part, final)
        of = Path(os.path.relpath(final.folder, take.folder.parent)).as_posix()
        about[splice.KEY] = dataclasses.replace(part, of=of).told
    return from_kept(scene, strip, take, request, about, stays)


def variations(scene: bpy.types.Scene, strip, take: Take, count: int) -> list[Job]:
    """`count` clips like a take: the same inputs, and the seeds after the highest that a take of its clip has. Makes
    their takes' folders. Raises TakeError and ProtocolError, and then no folder is left."""
    inputs, request = told(take), reproduce.request_of(take.record)
    if splice.KEY in inputs and request.shared_seed is None:  # frames made anew look like those that stay
        request = dataclasses.replace(request, shared_seed=request.seed)
    first = max(
        (other.seed for other in stack.read(strip).takes if other.seed is not None), default=request.seed
    )
    jobs: list[Job] = []
    try:
        for number in range(1, count + 1):
            varied = dataclasses.replace(request, seed=first + number)
            jobs.append(from_kept(scene, strip, take, varied, inputs))
    except (ProtocolError, takes.TakeError):
        for job in jobs:
            takes.discard(job.take)
        raise
    return jobs


def from_kept(
    scene: bpy.types.Scene, strip, take: Take, request: ClipRequest, inputs: dict,
    others: Mapping[str, bytes] = MappingProxyType({}),
) -> Job:  # fmt: skip
    """Another take of a clip, from the inputs that were kept for one; inputs: what that tells of them. others: inputs
    that were none of its. Makes its folder last. Raises TakeError."""
    clip, own = take.folder.parent, ("still", "poses", kept.KEY)
    sizes = kept.check(clip, set(request.blobs) - others.keys(), take.record)
    return Job(
        id=str(uuid.uuid4()), clip=strip.musev.clip, scene=scene.name, start=strips.content(strip)[0],
        take=takes.next_take(clip), request=request, blobs=dict(others),
        about={key: value for key, value in inputs.items() if key not in own} | {kept.KEY: sizes},
    )  # fmt: skip


def reproduction(context: bpy.types.Context, scene: bpy.types.Scene, strip, take: Take, inputs: str) -> Job:
    """The take made again, to be compared and thrown away. inputs: of `FROM`. Raises REFUSALS."""
    told(take)
    request = reproduce.request_of(take.record)
    take.frames()  # there must be something to compare with
    if inputs == "SCENE" and splice.Splice.of_record(take.record) is not None:
        raise takes.TakeError(
            tr(
                "{take} is joined from new frames and others that stay, so the scene alone doesn't make it; reproduce "
                "it from its kept inputs.",
                take=take.name,
            )
        )
    if inputs == "SCENE":
        job = gather.clip_job(context)
        takes.discard(job.take)
        if job.request.frames_out != request.frames_out:
            raise takes.TakeError(
                tr(
                    "The scene's range gives {given} frames and {take} has {count}; set the range that it had.",
                    given=job.request.frames_out,
                    take=take.name,
                    count=request.frames_out,
                )
            )
    else:
        sizes = kept.check(take.folder.parent, request.blobs, take.record)
        job = Job(str(uuid.uuid4()), strip.musev.clip, scene.name, 0, take.folder, request, {})
        job.about[kept.KEY] = sizes
    job.reproduces = take.folder
    job.take = takes.new_take(Path(bpy.app.tempdir) / "musev", f"{take.name} again")
    return job


class NeedsEngine:
    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return super().why_not(context) or no_engine()


class MUSEV_OT_promote_draft(NeedsEngine, TakeOperator, bpy.types.Operator):
    bl_idname = "musev.promote_draft"
    bl_label = "Make Final"
    bl_description = (
        "Make this draft's clip in full size and with all steps, from the same noise and the same inputs. It becomes "
        "another take"
    )

    def do(self, scene, strip):
        job = final_job(scene, strip, self.chosen(strip))
        session.current.submit(job)
        size = f"{job.request.width} x {job.request.height}"
        self.report(
            {"INFO"},
            tr(
                "{clip}: {size}, {steps} steps, as {take}",
                clip=job.clip,
                size=size,
                steps=job.request.num_inference_steps,
                take=job.take.name,
            ),
        )


class MUSEV_OT_vary(NeedsEngine, TakeOperator, bpy.types.Operator):
    bl_idname = "musev.vary"
    bl_label = "Vary Take"
    bl_description = "Make more takes like this one: from the same inputs, with other seeds"

    count: IntProperty(
        name="Variations", description="How many takes are made", default=4, min=1, max=MAX_VARIATIONS
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def do(self, scene, strip):
        take = self.chosen(strip)
        jobs = variations(scene, strip, take, self.count)
        session.current.submit_all(jobs)
        first, last = jobs[0].request.seed, jobs[-1].request.seed
        self.report(
            {"INFO"},
            tr("Takes like {take}, with seeds {first} to {last}", take=take.name, first=first, last=last),
        )


class MUSEV_OT_reproduce(NeedsEngine, TakeOperator, bpy.types.Operator):
    bl_idname = "musev.reproduce"
    bl_label = "Reproduce Take"
    bl_description = (
        "Make this take once more and compare: says that every picture is the same to the last bit, or which input "
        "differs. The timeline stays as it is"
    )

    inputs: EnumProperty(name="From", description="What it is made from", items=FROM, options={"SKIP_SAVE"})

    def do(self, scene, strip):
        take = self.chosen(strip)
        session.current.submit(reproduction(bpy.context, scene, strip, take, self.inputs))
        self.report(
            {"INFO"}, tr("{take} is made again; the list of clips will say how it compares", take=take.name)
        )


class MUSEV_PT_draft(ui.Sidebar, bpy.types.Panel):
    bl_label = "Draft"
    bl_idname = "MUSEV_PT_draft"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(strips.shown_scene(context).musev.draft, "use", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, strips.shown_scene(context).musev
        layout.active = settings.draft.use
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(settings.draft, "share")
        layout.prop(settings.draft, "steps")
        width, height = draft.size(settings, settings.draft)
        steps = min(settings.draft.steps, settings.steps)
        layout.label(text=tr("{width} x {height}, {steps} steps", width=width, height=height, steps=steps))


class MUSEV_PT_take_again(ui.Sidebar, bpy.types.Panel):
    bl_label = "Make Again"
    bl_idname = "MUSEV_PT_take_again"
    bl_parent_id = "MUSEV_PT_takes"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return stack.active(strips.shown_scene(context)) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, strip = self.layout, stack.active(strips.shown_scene(context))
        width = ui.line_width(context)
        try:
            take = stack.read(strip).take(stack.shown(strip).name)
        except takes.TakeError as problem:
            ui.draw_text(layout, str(problem), width, "ERROR")
            return
        if not take.finished:
            ui.draw_text(layout, tr("Not finished"), width)
            return
        inputs = take.record.get("inputs")
        if isinstance(inputs, dict) and isinstance(inputs.get(draft.KEY), dict):
            whole = inputs[draft.KEY]
            size = f"{whole.get('width')} x {whole.get('height')}, {whole.get('steps')} steps"
            ui.draw_text(layout, tr("A draft of {size}", size=size), width)
            layout.operator("musev.promote_draft", icon="IMAGE_DATA")
            with contextlib.suppress(ProtocolError):  # which pressing it tells
                time = outlook.time_of(draft.final(reproduce.request_of(take.record), whole))
                ui.draw_text(layout, time, width)
        layout.operator("musev.reproduce", icon="FILE_REFRESH").inputs = "KEPT"
        count, size = kept.size(take.record)
        if count:
            said = tr("Its inputs are kept: {count} files, {size:.1f} MB", count=count, size=size / 1e6)
            ui.draw_text(layout, said, width)


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_promote_draft, MUSEV_OT_vary, MUSEV_OT_reproduce, MUSEV_PT_draft, MUSEV_PT_take_again)
)
