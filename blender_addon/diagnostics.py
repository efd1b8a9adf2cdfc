"""What went wrong, in one file for whoever is to help: local, and without what is nobody's business.

Versions, settings, the end of the engine's log and the clips' problems. No token, no name of a user in a path, no
address of another computer; what the artist wrote (prompts, names of things in the file) only where that is wished.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import platform
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from . import session, strips
from .clips import takes
from .engine_process import TOKEN_VARIABLE
from .gather import SettingsError
from .props import MusevPreferences, preferences
from .translations import tr
from .verbs import Verb, refusable

LOG_BYTES = 200_000  # of the end of the engine's log
NAMES = (
    "model",
    "context_schedule",
    "predictor",
    "control",
)  # texts in the settings that are the engine's, not ours
COMMON = {
    "Scene",
    "Camera",
    "Armature",
    "Image",
    "Cube",
    "Light",
    "text",
    "pose",
    "still",
    "video",
}  # Blender's own
NAME = r"[^\\/\s\"':;,]+"
HOMES = rf"(?i)((?:/home|/Users|[A-Z]:[\\/]+Users)[\\/]+)(?:{NAME}(?: {NAME})*(?=[\\/])|{NAME})"
SECRET = re.compile(
    r"(?i)(bearer\s+|(?:token|api[_-]?key|password|secret)[\"']?\s*[=:]\s*[\"']?)([\w.+/=-]{12,})"
)


def redacted(text: str, secrets: Iterable[str], home: str, user: str) -> str:
    """A text without these secrets and whatever looks like one, with `~` for the home folder and `<user>` for whose it
    is, and without other computers' addresses."""
    for secret in secrets:
        text = text.replace(secret, "<removed>") if len(secret) > 3 else text
    text = SECRET.sub(r"\1<removed>", text)
    for form in {home, home.replace("\\", "/"), json.dumps(home)[1:-1]} if len(home) > 3 else ():
        text = text.replace(form, "~")
    text = re.sub(HOMES, r"\1<user>", text)
    if len(user) > 2:
        text = re.sub(rf"(?i)(?<![^\W_]){re.escape(user)}(?![^\W_])", "<user>", text)
    return re.sub(r"(wss?://)(?!127\.0\.0\.1|localhost|\[::1\])[^\s:/\"]+", r"\1<host>", text)


def without(text: str, words: Iterable[str]) -> str:
    """A text in which these words, as they stand or as JSON has them, are gone; parts of other words stay."""
    for word in sorted(words, key=len, reverse=True):
        for form in {word, json.dumps(word)[1:-1], repr(word)[1:-1]}:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "<removed>", text)
    return text


def collect(prefs: MusevPreferences, with_prompts: bool) -> dict[str, str]:
    """The files of the report, by name, redacted."""
    words = set() if with_prompts else _written()
    files = {
        "versions.json": _json(_versions()),
        "settings.json": _json({"preferences": _set(prefs, True), "scenes": _scenes(with_prompts)}),
        "clips.json": _json(_clips(with_prompts, words)),
        "engine.json": _json(_engine(words)),
        "engine.log": without(_log(), words),
    }
    secrets, home, user = _tokens(prefs), str(Path.home()), getpass.getuser()
    return {name: redacted(text, secrets, home, user) for name, text in files.items()}


def write(path: Path, files: dict[str, str]) -> None:
    """The report as one zip, whole or not at all. Raises TakeError."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    takes.write_whole(path, packed.getvalue())


def _versions() -> dict:
    manifest = tomllib.loads((Path(__file__).parent / "blender_manifest.toml").read_text(encoding="utf-8"))
    welcome = session.current.engine.client.welcome
    return {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "extension": manifest["version"], "blender": bpy.app.version_string,
        "blender_build": bpy.app.build_hash.decode(errors="replace"), "python": sys.version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "background": bpy.app.background, "online_access": bpy.app.online_access,
        "engine": welcome.engine_version if welcome else None,
        "engine_protocol": welcome.protocol_version if welcome else None,
    }  # fmt: skip


def _engine(words: set[str]) -> dict:
    link, current = session.current.engine, session.current
    welcome, menus = link.client.welcome, link.client.menus
    return {
        "state": link.state.value, "problem": without(link.problem, words), "started_here": link.process is not None,
        "models": [
            {"name": model.name, "installed": model.installed, "licence": model.licence}
            for model in (welcome.models if welcome else ())
        ],
        "known_models": {
            id: {"installed": model.installed, "problem": str(current.shelf.problem(id) or "")}
            for id, model in current.shelf.models.items()
        },
        "left_out": list(menus.left_out) if menus else [],
        "longest_tick_ms": round(1000 * current.longest_tick_s, 2),
        "longest_place_ms": round(1000 * current.longest_place_s, 2),
    }  # fmt: skip


def _clips(with_prompts: bool, words: set[str]) -> list[dict]:
    clips = []
    for number, job in enumerate(session.current.jobs, 1):
        request = {
            name: value
            for name in job.request.__dataclass_fields__
            if (value := getattr(job.request, name)) is None or isinstance(value, (str, int, float))
        }
        if not with_prompts:
            request = {
                name: value for name, value in request.items() if name not in ("prompt", "negative_prompt")
            }
        told = {
            "clip": job.clip if with_prompts else f"clip {number}", "job": job.id, "state": job.state.value,
            "phase": job.phase, "step": job.step, "num_steps": job.num_steps, "frames": len(job.have),
            "problem": without(job.problem, words), "code": job.cause.code if job.cause else "",
        }  # fmt: skip
        clips.append(told | {"request": request})
    return clips


def _scenes(with_prompts: bool) -> list[dict]:
    return [
        {
            "scene": scene.name if with_prompts else f"scene {number}",
            "frames": [scene.frame_start, scene.frame_end],
            "fps": [scene.render.fps, round(scene.render.fps_base, 6)],
            "strips": len(strips.every_strip(scene)), "view": scene.view_settings.view_transform,
            "settings": _set(scene.musev, with_prompts),
        }
        for number, scene in enumerate(bpy.data.scenes, 1)
    ]  # fmt: skip


def _set(group: bpy.types.bpy_struct, with_texts: bool) -> dict:
    """The plain values of a group of properties, those of groups inside it among them. Of pointers to things of the
    file, and of what the artist wrote unless with_texts, only whether they are set."""
    found = {}
    for item in group.bl_rna.properties:
        name = item.identifier
        if name in ("rna_type", "bl_idname", "name"):
            continue
        value = getattr(group, name)
        if item.type == "POINTER":
            inner = isinstance(value, bpy.types.PropertyGroup)
            found[name] = _set(value, with_texts) if inner else value is not None
        elif item.type == "COLLECTION":
            found[name] = len(value)
        elif item.type == "STRING" and not with_texts and name not in NAMES:
            found[name] = bool(value)
        else:
            flags = item.type == "ENUM" and item.is_enum_flag
            found[name] = (
                sorted(value) if flags else list(value) if getattr(item, "is_array", False) else value
            )
    return found


def _log() -> str:
    process = session.current.engine.process
    folder = Path(bpy.utils.extension_path_user(__package__, path="engine", create=False))
    path = process.log_path if process is not None else folder / "engine.log"
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - LOG_BYTES))
            return log.read().decode(errors="replace")
    except OSError as error:
        return f"The engine's log can't be read: {error}\n"


def _tokens(prefs: MusevPreferences) -> set[str]:
    process, found = session.current.engine.process, set()
    if process is not None:
        found.add(process.token)
    if prefs.token_file:
        with contextlib.suppress(OSError, ValueError):  # there is no token to hide then
            found.add(Path(bpy.path.abspath(prefs.token_file)).read_text(encoding="utf-8").strip())
    return found | {match[1] for match in re.finditer(rf"{TOKEN_VARIABLE}=(\S+)", prefs.engine_command)}


def _written() -> set[str]:
    """What the artist wrote or named, as it may stand in the log or in a problem's text."""
    words = set()
    for scene in bpy.data.scenes:
        words |= {scene.name, scene.musev.prompt, scene.musev.negative_prompt}
        words |= {strip.name for strip in strips.every_strip(scene)}
    for job in session.current.jobs:
        prompts = (job.request.prompt, job.request.negative_prompt)
        words |= {job.clip, job.scene, Path(job.blend_file).name, *prompts}
        words |= {prompt[:80] for prompt in prompts}  # as the engine's list of jobs has them
    words |= {item.name for item in (*bpy.data.objects, *bpy.data.images)} | {Path(bpy.data.filepath).name}
    return {word for word in words if len(word) > 2 and word not in COMMON}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class MUSEV_OT_collect_diagnostics(Verb, bpy.types.Operator, ExportHelper):
    bl_idname = "musev.collect_diagnostics"
    bl_label = "Collect Diagnostics"
    bl_description = (
        "Write versions, settings, the end of the engine's log and the clips' problems to a zip file on this computer. "
        "Tokens and user names are left out; nothing is sent anywhere"
    )

    filename_ext = ".zip"
    filter_glob: StringProperty(default="*.zip", options={"HIDDEN"})
    include_prompts: BoolProperty(
        name="Include Prompts and Names",
        description="Leave in what you wrote: prompts, and the names of scenes, strips, objects and clips",
        options={"SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.filepath = "musev-diagnostics.zip"
        return ExportHelper.invoke(self, context, event)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        if not self.filepath:
            raise SettingsError(
                tr("No file is named; give the report a place, such as //musev-diagnostics.zip.")
            )
        path = Path(bpy.path.abspath(self.filepath))
        write(path, collect(preferences(context), self.include_prompts))
        self.report({"INFO"}, tr("Diagnostics written to {path}", path=path))


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_collect_diagnostics,))
