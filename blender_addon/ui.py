"""What is drawn in the sequencer's sidebar. It decides nothing: it reads settings and states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import blf
import bpy

from . import gather, outlook, presets, props, remedies, session, strips
from .clips import pins
from .engine_link import EngineState
from .making import live_picture
from .making.jobs import Job, JobState
from .protocol import ClipRequest
from .translations import finished, tr

STATE_ICON = {
    JobState.DONE: "CHECKMARK",
    JobState.FAILED: "ERROR",
    JobState.CANCELLED: "CANCEL",
    JobState.HELD: "PAUSE",
}


MOST_JOBS = 20  # of the clips in the making that are drawn; the others are counted
# Of them, and then the others.
FIRST = (JobState.RUNNING, JobState.CAPTURING, JobState.READY, JobState.FAILED)

CHARACTER = 6  # pixels: a little more than an average letter's width
ICON = 26  # pixels: an icon before a label, and what a box takes


def draw_text(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """A text over as many lines as it needs; labels do not wrap by themselves. What came in English is translated where
    that is known. width: of `line_width`."""
    column = layout.column(align=True)
    room = max(width, 16) * CHARACTER - (ICON if icon != "NONE" else 0)
    for index, line in enumerate(wrapped(finished(text), room)):
        column.label(text=line, icon=icon if index == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def wrapped(text: str, room: float) -> Iterator[str]:
    """A text as lines of at most `room` pixels at a scale of 1, in the interface's font; a longer word is broken."""
    blf.size(0, bpy.context.preferences.ui_styles[0].widget.points)

    def fits(line: str) -> bool:
        return len(line) <= 1 or blf.dimensions(0, line)[0] <= room

    line = ""
    for word in text.split():
        if line and not fits(f"{line} {word}"):
            yield line
            line = ""
        line = f"{line} {word}" if line else word
        while not fits(line):
            end = next(end for end in range(len(line) - 1, 0, -1) if fits(line[:end]))
            yield line[:end]
            line = line[end:]
    if line:
        yield line


def line_width(context: bpy.types.Context) -> int:
    """About how many characters fit on a line of this region."""
    scale = context.preferences.system.ui_scale or 1.0  # 0 where there is no window
    return int(((context.region.width if context.region else 300) / scale - 62) / CHARACTER)


def remaining(seconds: float) -> str:
    """'1:05 left' from seconds."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return tr("{time} left", time=f"{minutes}:{seconds:02d}")


def job_title(job: Job) -> str:
    """Which clip it is, and how it ended: 'Dancer, take 2: cancelled'."""
    number = (job.reproduces or job.take).name.removeprefix("take_")
    title = tr("{clip}, take {number}", clip=job.clip, number=int(number)) if number.isdecimal() else job.clip
    if job.reproduces is not None:
        title = tr("{clip} again", clip=title)
    return f"{title}: {tr(job.state.value)}" if job.ended else title


def most_telling(jobs: list[Job]) -> list[Job]:
    """Those that are drawn, in their order: what is at work and what went wrong, then what waits, then what is done."""

    def rank(job: Job) -> int:
        return FIRST.index(job.state) if job.state in FIRST else len(FIRST) + job.ended

    chosen = {job.id for job in sorted(jobs, key=rank)[:MOST_JOBS]}
    return [job for job in jobs if job.id in chosen]


PHASES = {  # of the engine's work, as an artist would say them
    "queue": "queued", "load": "loading the model", "prepare": "preparing", "first frame": "making the first frame",
    "denoise": "making the frames", "decode": "finishing the frames", "draw": "drawing poses",
}  # fmt: skip


def phase(job: Job) -> str:
    """What is being done with a clip; a phase of a newer engine as that calls it."""
    return tr(PHASES[job.phase]) if job.phase in PHASES else tr(job.phase)


def job_line(job: Job) -> str:
    """Where a clip stands: phase, step and time left while it runs, else its state."""
    if job.state is JobState.CAPTURING:
        return f"{phase(job)} {job.step}/{job.num_steps}"
    if job.state is not JobState.RUNNING:
        before = session.current.jobs_before(job)
        return tr(job.state.value) + (tr(", {count} before it", count=before) if before else "")
    parts = [phase(job) + (f" {job.step}/{job.num_steps}" if job.num_steps else "")]
    if job.eta_s is not None:
        parts.append(remaining(job.eta_s))
    return ", ".join(parts)


class Sidebar:
    """Where every panel of ours stands."""

    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "MuseV"


class MUSEV_PT_engine(Sidebar, bpy.types.Panel):
    bl_label = "Engine"
    bl_idname = "MUSEV_PT_engine"

    def draw(self, context: bpy.types.Context) -> None:
        layout, engine = self.layout, session.current.engine
        row = layout.row()
        row.label(
            text=tr(engine.state.value).capitalize(),
            icon="LINKED" if engine.state is EngineState.ON else "UNLINKED",
        )
        if engine.state is EngineState.OFF:
            row.operator("musev.engine_start", text="Start", icon="PLAY")
        else:
            row.operator("musev.engine_stop", text="Stop", icon="SNAP_FACE")
        if engine.problem:
            box = layout.box()
            box.alert = True
            draw_text(box, engine.problem, line_width(context), "ERROR")
        menus = engine.client.menus if engine.state is EngineState.ON else None
        for line in menus.left_out if menus else ():
            draw_text(layout, tr("Left out: {line}", line=line), line_width(context), "UNLINKED")


class MUSEV_PT_clip(Sidebar, bpy.types.Panel):
    bl_label = "Clip"
    bl_idname = "MUSEV_PT_clip"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        presets.MUSEV_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        scene = strips.shown_scene(context)
        if scene is None:
            layout.label(text="The sequencer shows no scene", icon="INFO")
            remedies.draw(layout, remedies.for_settings(context))
            return
        settings = scene.musev
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(settings, "mode")
        layout.prop(settings, "prompt")
        layout.prop(settings, "negative_prompt")
        if settings.mode != "text":
            self.draw_still(layout, scene, settings)
        if settings.mode == "pose":
            column = layout.column()
            if settings.people:
                column.label(
                    text=tr(
                        "{count} of the characters below", count=sum(item.use for item in settings.people)
                    )
                )
            else:
                column.prop(settings, "armature")
            column.prop(settings, "camera")
        layout.prop(settings, "range")
        layout.prop(settings, "new_strip")
        layout.prop(settings, "show_making")
        self.draw_timing(layout, context, scene)
        column = layout.column(align=True)
        column.prop(settings, "width")
        column.prop(settings, "height")
        column = layout.column(align=True)
        column.prop(settings, "steps")
        column.prop(settings, "guidance_scale")
        if unfit := remedies.for_steps(settings):
            draw_text(layout, unfit[0], line_width(context), "INFO")
            remedies.draw(layout, [unfit[1]])
        column = layout.column(align=True)
        column.prop(settings, "seed")
        column.prop(settings, "variations")
        layout.prop(settings, "model")
        layout.prop(settings, "context_schedule")
        column = layout.column(align=True)
        column.prop(settings, "context_frames")
        column.prop(settings, "context_overlap")
        if len(props.menus().predictors) > 1 or settings.predictor != ClipRequest.predictor:
            layout.prop(settings, "predictor")  # only where there is something to choose
        row = layout.row(align=True)
        row.operator("musev.generate", icon="RENDER_ANIMATION")
        row.operator_menu_enum("musev.generate", "place", text="", icon="DOWNARROW_HLT")
        self.draw_outlook(layout, context, scene)

    def draw_outlook(self, layout, context, scene) -> None:
        """What Generate will do; whether it fits, with what would make it; or why it can't."""
        width, problem = line_width(context), ""
        try:
            told = outlook.outlook(scene)
        except gather.REFUSALS as error:
            problem = str(error)
        else:
            draw_text(layout, told.sentence, width, "INFO")
            if told.tight:
                box = layout.box()
                box.alert = True
                draw_text(box, told.tight, width, "ERROR")
                for remedy in told.remedies:
                    if changes := outlook.changes(remedy):
                        label = f"{remedy.label}: {outlook.duration(remedy.seconds)}"
                        box.operator("musev.apply_remedy", text=label).changes = changes
        if why := problem or outlook.why_not(context):
            draw_text(layout, why, width, "CANCEL")
            remedies.draw(layout, remedies.for_settings(context))

    def draw_still(self, layout, scene, settings) -> None:
        column = layout.column()
        column.row().prop(settings, "still_source", expand=True)
        if settings.still_source == "IMAGE":
            column.template_ID(settings, "still_image", open="image.open")
        elif scene.sequence_editor is not None:
            strips.draw_strip_search(column, settings, "still_strip", scene)
        else:
            column.label(text="The sequencer has no strips", icon="INFO")
        if settings.mode == "pose":
            column.prop(settings, "use_still_frame")
            if settings.use_still_frame:
                column.prop(settings, "still_frame")
                column.prop(settings, "still_rig")

    def draw_timing(self, layout, context, scene) -> None:
        settings = scene.musev
        column = layout.column()
        column.prop(settings, "generate_at")
        if settings.generate_at == "RATE":
            column.prop(settings, "generation_fps")
        if settings.generate_at != "EVERY":
            column.prop(settings, "between")
        with contextlib.suppress(*gather.REFUSALS):  # which are told under Generate
            plan = gather.clip_plan(scene, settings)
            said = tr(
                "{count} generated → {shown} timeline frames", count=plan.num_frames, shown=plan.output_frames
            )
            draw_text(column, said, line_width(context), "TIME")
            held = pins.on_channel(scene, settings.pins_channel, *gather.clip_range(scene, settings))
            if held:
                draw_text(column, pins.sentence(list(held)), line_width(context), "PINNED")


class MUSEV_PT_jobs(Sidebar, bpy.types.Panel):
    bl_label = "Clips in the Making"
    bl_idname = "MUSEV_PT_jobs"

    def draw(self, context: bpy.types.Context) -> None:
        layout, jobs = self.layout, session.current.jobs
        live_picture.keep_only(jobs)
        if not jobs:
            layout.label(text="None yet")
        for job in most_telling(jobs):
            box = layout.box()
            row = box.row()
            row.label(text=job_title(job), icon=STATE_ICON.get(job.state, "SORTTIME"))
            if job.resumable:
                row.operator("musev.resume", text="", icon="FILE_REFRESH").job = job.id
            if job.retriable:
                row.operator("musev.retry", text="", icon="FILE_REFRESH").job = job.id
            if session.current.jobs_before(job):
                for place, icon in (("front", "TRIA_UP_BAR"), ("back", "TRIA_DOWN_BAR")):
                    move = row.operator("musev.move", text="", icon=icon)
                    move.job, move.place = job.id, place
            if not job.ended:
                row.operator("musev.cancel", text="", icon="X").job = job.id
                box.progress(factor=job.step / job.num_steps if job.num_steps else 0.0, text=job_line(job))
            if picture := live_picture.icon(job):
                box.template_icon(icon_value=picture, scale=6.0)
            if job.problem:
                problem = box.column()
                problem.alert = job.state is JobState.FAILED
                draw_text(problem, job.problem, line_width(context))
                remedies.draw(box, remedies.for_job(job))
            elif job.state is JobState.READY:
                draw_text(box, session.current.why_not_placed(job), line_width(context))
        if (more := len(jobs) - MOST_JOBS) > 0:
            waiting = sum(not job.ended for job in jobs)
            said = tr(
                "{count} more; {waiting} of all {all} have not ended",
                count=more,
                waiting=waiting,
                all=len(jobs),
            )
            draw_text(layout, said, line_width(context), "INFO")
        if any(job.ended for job in jobs):
            layout.operator("musev.clear")
        if any(job.state is JobState.FAILED for job in jobs):
            layout.operator("musev.collect_diagnostics", icon="FILE_TEXT")


register, unregister = bpy.utils.register_classes_factory((MUSEV_PT_engine, MUSEV_PT_clip, MUSEV_PT_jobs))
