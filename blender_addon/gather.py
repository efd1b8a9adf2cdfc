"""From the settings to a job: what the artist asks for, read and checked as far as can be at once.

Each kind of input has one function that gives the `captures.Capture`s which read it from the scene later; `clip_job`
puts them together with everything that needs no waiting.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import bpy

from . import prompt_track, session, stills, strips, timing
from .captures import Capture, CaptureError
from .clips import draft, looks, pins, stack, takes
from .clips.redo import Part
from .engine_process import EngineStartError
from .footage import sources
from .making.jobs import Job
from .props import MusevPreferences, MusevSettings, native_fps, preferences
from .protocol import MAX_FRAMES, ClipRequest, ProtocolError, blob_sha256, exact_rate
from .render import settings as renders
from .rig import camera as rig_camera
from .rig import pose
from .rig.cast import Cast, cast
from .rig.people import Person
from .rig.still_pose import StillOfAnother
from .shots.shot import Shot
from .staleness import origins, strip_sums
from .staleness.rendered import RenderedCapture
from .translations import finished, tr
from .weights import loras

TO_COME = "0" * 64  # stands for what is still to be read, so that the rest of a request is checked at once


class SettingsError(ValueError):
    """Something is not set, or not as it must be: the value and the remedy."""


REFUSALS = (
    SettingsError, CaptureError, strips.StripError, stills.StillError, takes.TakeError, ProtocolError,
    EngineStartError,
)  # fmt: skip


def clip_range(scene: bpy.types.Scene, settings: MusevSettings) -> tuple[int, int]:
    """(first frame, first frame after) of the clip. Raises SettingsError and StripError."""
    match settings.range:
        case "STRIPS":
            return strips.selected_span(scene)
        case "PREVIEW" if not scene.use_preview_range:
            raise SettingsError(
                tr("The preview range is off; set one in the timeline with P, or use another range.")
            )
        case "PREVIEW":
            start, end = scene.frame_preview_start, scene.frame_preview_end
        case _:
            start, end = scene.frame_start, scene.frame_end
    if end < start:
        raise SettingsError(
            tr("The range {start} to {end} has 0 frames; it needs at least 1.", start=start, end=end)
        )
    return start, end + 1


def generation_rate(settings: MusevSettings) -> Fraction | None:
    """Generated frames a second; None: as many as the timeline has. Raises SettingsError."""
    match settings.generate_at:
        case "MODEL":
            if (native := native_fps(settings.model)) is None:
                raise SettingsError(
                    tr(
                        "The own rate of the model '{model}' is known once its engine runs; press Start, or "
                        "choose another rate.",
                        model=settings.model,
                    )
                )
            return exact_rate(native)
        case "RATE":
            return exact_rate(settings.generation_fps)
    return None


def clip_plan(
    scene: bpy.types.Scene, settings: MusevSettings, span: tuple[int, int] | None = None
) -> timing.Plan:
    """When the clip's frames are generated. span: other frames than the settings' range. Raises SettingsError and
    StripError."""
    start, end = span or clip_range(scene, settings)
    rate = generation_rate(settings)
    fps = timing.scene_rate(scene.render.fps, scene.render.fps_base)
    return timing.plan(start, end - start, fps, rate, settings.between)


def image_capture(settings: MusevSettings, result: str, origin: dict) -> stills.ImageCapture | None:
    """What reads the reference still, where it is an image data-block, and notes in `origin` what it was. result: of
    the request. Raises StillError."""
    if settings.still_source != "IMAGE" or settings.still_image is None:
        return None
    stills.check(settings.still_image)
    return stills.ImageCapture(
        settings.still_image.name_full, settings.width, settings.height,
        fitted=result != "clip",  # it is then shown under pictures of that size
        note=functools.partial(origins.note, origin),
    )  # fmt: skip


def still_capture(
    scene: bpy.types.Scene, settings: MusevSettings, at: int | None = None
) -> sources.StillCapture | None:
    """What reads the reference still, where it is what a strip shows, at a frame (None: the current one). Raises
    SourceError."""
    if settings.still_source != "STRIP" or not settings.still_strip:
        return None
    size = (settings.width, settings.height)
    return sources.still_capture(
        scene, settings.still_strip, scene.frame_current if at is None else at, *size
    )


def pose_capture(
    scene: bpy.types.Scene, settings: MusevSettings, times: tuple[float, ...]
) -> pose.PoseCapture | StillOfAnother:
    """What is to be read from the characters, and from the rig in the still where that is said. Raises PoseError."""
    who, still_rig = cast(scene, settings), settings.still_rig
    if not settings.use_still_frame:
        return _poses(settings, who, times)
    if still_rig is None or any(still_rig.name == person.armature for person in who.people):
        return _poses(settings, who, (*times, settings.still_frame), with_still=True)
    return StillOfAnother(
        _poses(settings, who, times),
        _poses(settings, cast(scene, settings, still_rig), (settings.still_frame,)),
    )


def _poses(
    settings: MusevSettings, who: Cast, times: tuple[float, ...], with_still: bool = False
) -> pose.PoseCapture:
    world, size = bpy.data.scenes[who.scene], (who.width, who.height)
    # Asked for once now, so that a camera of another scene is refused at once.
    world.view_layers[0].update()
    rig_camera.picture_matrix(world, world.view_layers[0].depsgraph, who.camera, *size)
    return pose.PoseCapture(
        who.scene, who.people, who.camera, *size, times, with_still, settings.occlusion.chosen()
    )


def told(people: Sequence[Person]) -> list[dict]:
    """What a take says of its characters: how their rigs were read."""
    return [
        {
            "name": person.name, "name_map": person.map, "score": round(person.score, 3),
            "left_out": list(person.missing), "face_approximated": person.face_approximated,
            "sides_swapped": person.swapped,
        }
        for person in people
    ]  # fmt: skip


def check_controls(rendered: Sequence[renders.RenderCapture], read: Sequence[sources.StripCapture]) -> None:
    """Whether the clip can follow these pictures, asked before any is made. Raises SettingsError."""
    menus = session.current.engine.client.menus
    wanted = [control for each in rendered for control in each.wanted.controls]
    wanted += [each.control for each in read if each.control is not None]
    for control in wanted if menus is not None else ():
        if control.name not in menus.controls:
            raise SettingsError(
                tr(
                    "The engine has no ControlNet for '{control}' (it has: {names}); turn it off, or "
                    "download its ControlNet: 'musev doctor' names it.",
                    control=control.name,
                    names=", ".join(menus.controls) or "none",
                )
            )


def check_extras(settings: MusevSettings) -> None:
    """Raises SettingsError where the engine has told that it lacks what is to be added to the model."""
    if why := loras.missing(settings.extras):
        raise SettingsError(why)


def takes_root(prefs: MusevPreferences) -> Path:
    """The folder that clips go to. Raises SettingsError while there is none, or who knows where."""
    if bpy.data.filepath:
        return Path(bpy.path.abspath("//musev"))
    if not prefs.output_folder:
        raise SettingsError(
            tr(
                "The .blend is not saved, so takes have no place yet; save it, or set a folder in the "
                "extension's preferences."
            )
        )
    folder = Path(bpy.path.abspath(prefs.output_folder))
    if not folder.is_absolute():  # it would lie wherever Blender was started
        raise SettingsError(
            tr(
                "The folder '{folder}' in the extension's preferences is no whole path, and the .blend is not saved; "
                "choose it from its root on, or save the .blend.",
                folder=prefs.output_folder,
            )
        )
    return folder


def pinned(
    asked: ClipRequest, scene: bpy.types.Scene, settings: MusevSettings, when: timing.Plan, part: Part | None
) -> tuple[ClipRequest, dict[str, bytes]]:
    """The request with its pins, and their pictures: those of the pins channel, and what stays beside new frames.
    Raises StripError."""
    held = pins.on_channel(scene, settings.pins_channel, when.start, when.start + when.output_frames)
    if part is not None:  # what stays isn't replaced by a pin
        held = {frame: file for frame, file in held.items() if frame not in part.kept}
    pictures = pins.nearest(held, when.times)
    made, blobs = pins.read(pictures | (part.pictures(when.times) if part is not None else {}))
    return dataclasses.replace(asked, pins=made), blobs


def clip_folder(
    scene: bpy.types.Scene, settings: MusevSettings, root: Path, clip: str, when: timing.Plan
) -> Path:
    """Where a new take of this clip goes: among those of a strip over the same frames, unless a new strip is wanted or
    the clip is made from that strip. Raises SourceError and TakeError."""
    if settings.new_strip:
        return takes.free_clip(root, clip)
    made_from: list = []
    if settings.mode == "video":
        choice = sources.chosen(scene, settings.source.choice, settings.source.strip)
        made_from = choice.among(strips.shown_strips(scene))
    return stack.clip_for(
        scene, root, clip, when.start, when.output_frames, session.current.jobs, [s.name for s in made_from]
    )


def clip_title(settings: MusevSettings) -> str:
    """What the clip is called: after its first character, or its prompt."""
    if settings.mode != "pose":
        return takes.clip_name(settings.prompt or settings.mode)
    first = next((item.shown_name for item in settings.people if item.use and item.armature), None)
    return takes.clip_name(first or (settings.armature.name if settings.armature else settings.mode))


def request(
    settings: MusevSettings, when: timing.Plan, mode: str, still: str | None, result: str = "clip",
    seed: int | None = None, may_be_draft: bool = True,
) -> ClipRequest:  # fmt: skip
    """What is asked of the engine, all but what is still to be read from the scene. may_be_draft: where that is set.
    Raises SettingsError for what the protocol refuses, in the panel's words."""
    if mode == "still" and not still:
        raise SettingsError(tr("No still is set. Choose a reference still."))
    if (frames := max(when.num_frames, when.output_frames)) > MAX_FRAMES:
        raise SettingsError(
            tr(
                "{count} frames are more than one clip can have ({most}); choose a shorter range, or a lower rate.",
                count=frames,
                most=MAX_FRAMES,
            )
        )
    try:
        whole = of_settings(settings, when, mode, still, result, seed)
        is_draft = settings.draft.use and may_be_draft and result == "clip"
        return draft.of(whole, settings.draft) if is_draft else whole
    except ProtocolError as refused:
        raise SettingsError(in_the_panels_words(finished(str(refused)))) from None


def in_the_panels_words(text: str) -> str:
    """A text about fields of the request, with the labels under which the artist knows them."""

    def label(found: re.Match) -> str:
        name = found[1] or found[2]
        known = MusevSettings.bl_rna.properties.get({"num_inference_steps": "steps"}.get(name, name))
        return name if known is None else tr(known.name)

    return re.sub(r"ClipRequest\.(\w+)|\b(context_frames|context_overlap|num_inference_steps)\b", label, text)


def of_settings(
    settings: MusevSettings, when: timing.Plan, mode: str, still: str | None, result: str, seed: int | None
) -> ClipRequest:
    """The request of these settings, whatever the protocol says to them. Raises ProtocolError."""
    return ClipRequest(
        mode=mode, result=result, prompt=settings.prompt, negative_prompt=settings.negative_prompt,
        width=settings.width, height=settings.height, **when.request,
        num_inference_steps=settings.steps, guidance_scale=round(settings.guidance_scale, 6),
        seed=settings.seed if seed is None else seed,
        model=settings.model, context_schedule=settings.context_schedule, predictor=settings.predictor,
        context_frames=settings.context_frames, context_overlap=settings.context_overlap,
        still=still, poses=TO_COME if mode == "pose" else None, source=(TO_COME,) if mode == "video" else (),
        posealign="auto" if mode == "pose" and settings.posealign else "off",
        prompts=prompt_track.read(settings.id_data, settings.prompt_track, when).spans,
        **loras.asked(settings.extras),
    )  # fmt: skip


def clip_job(
    context: bpy.types.Context, result: str = "clip", seed: int | None = None, folder: Path | None = None,
    part: Part | None = None, shot: Shot | None = None,
) -> Job:  # fmt: skip
    """The clip that the settings describe, or its pose pictures (`ClipRequest.result`), checked as far as can be now.
    seed: another one than the settings'. folder: of the clip that it becomes a take of; None: as `clip_folder` says.
    part: some frames of the clip, and what stays beside them. shot: another clip than the panel's. Makes its take's
    folder last.

    Raises REFUSALS.
    """
    scene = strips.shown_scene(context)
    settings: MusevSettings = scene.musev if shot is None else shot.settings
    other = part or shot  # with frames of its own
    when = clip_plan(scene, settings, other.span if other else None)
    mode, size, blobs = settings.mode, (settings.width, settings.height), {}
    if part is not None and mode == "still" and not part.begins:
        mode = "text"  # it goes on from frames that stay; the still is none of its frames
    about = {"rates": {"generated": str(when.fps), "timeline": str(when.output_fps)}}
    folder = shot.folder if shot else folder
    captures: list[Capture] = []
    still, about[origins.KEY] = None, {"start": when.start} | origins.told(shot)
    between = looks.apart(*part.sides) if part is not None and part.sides is not None else None
    if between is not None:  # and not as the panel's still looks
        still = _of_looks(between, mode, about, blobs)
    elif mode != "text" and (picture := image_capture(settings, result, about[origins.KEY])):
        still, about["still_source"] = TO_COME, settings.still_image.name
        captures.append(picture)
    elif mode != "text" and (reading := still_capture(scene, settings, shot.still_at if shot else None)):
        still, about["still_source"] = TO_COME, f"{settings.still_strip}, frame {reading.times[0]:g}"
        captures.append(reading)
        if result == "clip":
            captures.append(strip_sums.SourceCapture(about, reading, strip_sums.STILL))
    rendered = renders.captures(scene, settings, when.times, *size) if result == "clip" else []
    read = sources.captures(scene, settings.source, when.times, *size) if mode == "video" else []
    check_controls(rendered, read)
    check_extras(settings)
    if mode == "video":
        captures += read
        if result == "clip":
            captures += [strip_sums.SourceCapture(about, each) for each in read]
        about["source"] = read[0].told()
        mode = sources.request_mode(settings.source, still is not None)
    asked = request(settings, when, mode, still, result, seed, may_be_draft=part is None or part.is_draft)
    if asked.noise_width is not None:
        about[draft.KEY] = {"width": settings.width, "height": settings.height, "steps": settings.steps}
    if mode == "pose":
        capture = pose_capture(scene, settings, when.times)
        captures.append(looks.Led(capture, when.times, part.new, *between) if between else capture)
        if result == "clip":
            captures.append(origins.OriginsCapture(about, capture))
        about |= {
            "people": told(capture.people),
            "camera": capture.camera,  # null: the scene's own, as its markers switch it
            "faces_approximated": [person.name for person in capture.people if person.face_approximated],
        }
        if settings.use_still_frame:
            rig = settings.still_rig.name if settings.still_rig else None
            about["still_rig"] = {"rig": rig, "frame": settings.still_frame}
    captures += rendered
    captures += [RenderedCapture(about, each) for each in rendered]
    if result == "clip":
        if between is not None:
            asked = dataclasses.replace(asked, end_still=blob_sha256(between[1].still))
        asked, held = pinned(asked, scene, settings, when, part)
        blobs |= held
    clip = clip_title(settings) if shot is None else takes.clip_name(shot.title)
    if result == "clip":
        root = takes_root(preferences(context))
        take = takes.next_take(folder or clip_folder(scene, settings, root, clip, when))
    else:
        clip = f"{clip} {result}"
        take = takes.new_take(Path(bpy.app.tempdir) / "musev", clip)
    return Job(
        id=str(uuid.uuid4()), clip=clip, scene=scene.name, start=when.start,
        take=take, request=asked, blobs=blobs, captures=captures, about=about,
    )  # fmt: skip


def _of_looks(
    between: tuple[looks.Look, looks.Look], mode: str, about: dict, blobs: dict[str, bytes]
) -> str | None:
    """The still of a clip that goes over from one look into another, and what its take tells of it; both looks' stills
    among the blobs."""
    one, other = between
    blobs[blob_sha256(other.still)] = other.still
    if mode == "text":
        return None
    blobs[sha256 := blob_sha256(one.still)] = one.still
    about["still_source"] = one.inputs.get("still_source")
    was = one.inputs.get(origins.KEY)
    about[origins.KEY] |= {key: was[key] for key in ("still", strip_sums.STILL) if key in was} if was else {}
    return sha256


def clip_jobs(context: bpy.types.Context, count: int) -> list[Job]:
    """`count` takes of one clip that differ in their seeds alone. Raises REFUSALS, and then no folder is left."""
    first_seed = strips.shown_scene(context).musev.seed
    last = first_seed + count - 1
    if last > (highest := ClipRequest.__dataclass_fields__["seed"].metadata["high"]):
        raise SettingsError(
            tr(
                "{count} variations from seed {first} would end with seed {last}; the highest is "
                "{highest}. Use a lower seed.",
                count=count,
                first=first_seed,
                last=last,
                highest=highest,
            )
        )
    jobs = [clip_job(context)]
    try:
        for seed in range(first_seed + 1, last + 1):
            jobs.append(_variation(jobs[0], seed))
    except takes.TakeError:
        for job in jobs:
            takes.discard(job.take)
        raise
    return jobs


def _variation(job: Job, seed: int) -> Job:
    """The same clip with another seed, to be read from the scene as that is. Raises TakeError."""
    captures, about = copy.deepcopy((job.captures, job.about))  # these note in that what they read
    return Job(
        id=str(uuid.uuid4()), clip=job.clip, scene=job.scene, start=job.start,
        take=takes.next_take(job.take.parent), request=dataclasses.replace(job.request, seed=seed),
        blobs=dict(job.blobs), captures=captures, about=about,
    )  # fmt: skip
