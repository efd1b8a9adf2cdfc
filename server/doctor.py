"""`musev doctor`: what a clip needs and what is here of it, for which modes, and what this machine can run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

LEAST_FREE_BYTES = 500_000_000
GB = 1e9
# MuseV's README tells the GPU memory of 512 x 512 x 12 frames: 8 GB for musev, 12 GB with ReferenceNet and image
# prompt. The weights' share is ours, counted: parameters in half precision, with VAE, text and image encoders.
WHOLE_BYTES = {"musev_referencenet": 12 * GB, "musev": 8 * GB}
WEIGHT_BYTES = {"musev_referencenet": 6 * GB, "musev": 3.5 * GB}
FULL_SIDE, LEAST_SIDE = 512, 256  # pixels
MODES = {  # mode: the models it needs, beside an image model
    "text to clip": ("musev",),
    "still to clip": ("musev_referencenet", "referencenet", "image_encoder"),
    "pose to clip": (
        "musev_referencenet_pose", "referencenet", "image_encoder", "control_v11p_sd15_openpose",
    ),
}  # fmt: skip
IMAGE_MODEL, TOKENIZER = "stable-diffusion-v1-5", "clip-tokenizer"  # what is offered where there is none
PACKAGES = {"face_detector": "mediapipe"}  # control: what it imports that doesn't come with this engine


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0, or 1 if something is missing that every clip needs"
    parser.add_argument("--state-dir", type=Path, help="the folder that `musev serve` would use")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def doctor(args: argparse.Namespace) -> int:
    found = {
        "checks": checks(args.state_dir),
        "machine": machine(),
        "modes": modes(),
        "plugins": broken_plugins(),
    }
    if args.json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0 if all(check["ok"] for check in found["checks"]) else 1


def checks(state_dir: Path | None) -> list[dict]:
    """What every clip needs, each {"name", "ok", "told"}."""
    from server.state_folder import cache_folder

    names = ("diffusers", "transformers", "huggingface_hub", "websockets")
    tries: list[tuple[str, Callable[[], str]]] = [
        ("Python", platform.python_version),
        ("torch", _torch),
        *((name, lambda name=name: metadata.version(name)) for name in names),
        ("state folder", lambda: _disk(state_dir or cache_folder())),
        ("shipped model", _shipped),
    ]
    rows = []
    for name, look in tries:
        try:
            rows.append({"name": name, "ok": True, "told": look()})
        except (ImportError, OSError, ValueError) as error:
            rows.append({"name": name, "ok": False, "told": str(error)})
    return rows


def modes() -> list[dict]:
    """For each mode with MuseV's weights, each {"mode", "ready", "missing", "packages"}: the ids of the models, and the
    names of the Python packages, that it lacks.

    video2video comes once for each control name; it takes either motion model, and the one without ReferenceNet
    needs least.
    """
    from musev_engine import known_models, registry

    controls = {
        f"video to clip by {name}": ("musev", *needs) for name, needs in known_models.controls().items()
    }
    images = [path for root in registry.folders() for path in registry.image_models(root / "t2i").values()]
    base = (
        (TOKENIZER,)
        if images and not any(path.is_dir() for path in images)
        else ()
        if images
        else (IMAGE_MODEL,)
    )
    here = {id for id in known_models.known() if registry.installed(id)}
    rows = []
    for mode, needs in (MODES | {"video to clip": ("musev",)} | controls).items():
        missing = [id for id in (*needs, *base) if id not in here]
        package = PACKAGES.get(mode.rpartition(" ")[2])
        packages = [package] if package and importlib.util.find_spec(package) is None else []
        rows.append({"mode": mode, "ready": not missing + packages, "missing": missing, "packages": packages})
    return rows


def machine() -> dict:
    """Memory in bytes, the device, the models folder's free disk, and a suggestion of what to ask for."""
    from musev_engine import registry

    device, gpu_free = _device()
    memory_total, memory_free = memory()
    folder = registry.models_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return {
        "device": device,
        "gpu_free_bytes": gpu_free,
        "memory_bytes": memory_total,
        "memory_free_bytes": memory_free,
        "models_folder": str(folder),
        "disk_free_bytes": shutil.disk_usage(there).free,
        "suggestion": suggestion(gpu_free),
    }


def suggestion(gpu_free: float | None) -> dict:
    """What to ask for with so many bytes of GPU memory free (None: no GPU): a model, a size, and how many windows of
    how many frames at once. An estimate from MuseV's published figures, by area; on a CPU the embedded model."""
    for model, whole in WHOLE_BYTES.items():
        spare = (gpu_free or 0) - WEIGHT_BYTES[model]
        one_window = whole - WEIGHT_BYTES[model]
        side = math.floor(math.sqrt(max(spare, 0) / one_window) * FULL_SIDE / 64) * 64
        if side >= (FULL_SIDE if model == "musev_referencenet" else LEAST_SIDE):
            side = min(side, FULL_SIDE)
            windows = max(1, int(spare // (one_window * (side / FULL_SIDE) ** 2)))
            return _ask(model, side, 12, 4, min(windows, 8))
    return _ask("mini", 128, 12, 4, 1)


def _ask(model: str, side: int, frames: int, overlap: int, windows: int) -> dict:
    return {
        "model": model, "width": side, "height": side,
        "context_frames": frames, "context_overlap": overlap, "windows_at_once": windows,
    }  # fmt: skip


def memory() -> tuple[int | None, int | None]:
    """This machine's memory and what is free of it, in bytes; None where the system doesn't tell."""
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):  # MEMORYSTATUSEX
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")
            ]

        status = Status(length=ctypes.sizeof(Status))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status.total, status.free
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return total, int(line.split()[1]) * 1024
    return total, None


def broken_plugins() -> list[dict]:
    """Plug-ins that don't work: {"name", "group", "package", "problem"}."""
    from musev_engine import plugins

    return [
        {"name": plugin.name, "group": plugin.group, "package": plugin.package, "problem": plugin.problem}
        for plugin in plugins.tried()
        if plugin.problem
    ]


def _print(found: dict) -> None:
    for check in found["checks"]:
        print(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}: {check['told']}")
    machine = found["machine"]
    gpu = f", {machine['gpu_free_bytes'] / GB:.1f} GB of its memory free" if machine["gpu_free_bytes"] else ""
    print(f"\ndevice: {machine['device']}{gpu}")
    if machine["memory_bytes"]:
        free = f", {machine['memory_free_bytes'] / GB:.1f} GB free" if machine["memory_free_bytes"] else ""
        print(f"memory: {machine['memory_bytes'] / GB:.1f} GB{free}")
    print(f"models folder: {machine['models_folder']}, {machine['disk_free_bytes'] / GB:.1f} GB free")
    ask = machine["suggestion"]
    print(
        f"suggested: {ask['model']} at {ask['width']} x {ask['height']}, windows of {ask['context_frames']} frames "
        f"overlapping by {ask['context_overlap']}, {ask['windows_at_once']} at once (an estimate)\n"
    )
    print("The shipped model makes clips from text, stills and poses. With MuseV's weights:")
    together: dict[tuple, list[str]] = {}  # controls that lack the same share a line
    for row in found["modes"]:
        lacks = (row["ready"], tuple(row["missing"]), tuple(row["packages"]))
        together.setdefault(lacks, []).append(row["mode"])
    for (ready, missing, packages), names in together.items():
        print(f"{'ok  ' if ready else '-   '}  {names[0]}{_and_controls(names)}")
        if missing:
            print(f"        musev models download {' '.join(missing)}")
        for package in packages:
            print(f"        the Python package {package}")
    for row in found["plugins"]:
        print(f"left out: the plug-in {row['name']} of {row['package']} ({row['group']}): {row['problem']}")


def _and_controls(modes: list[str]) -> str:
    return "".join(f", {mode.removeprefix('video to clip by ')}" for mode in modes[1:])


def _torch() -> str:
    import torch

    return f"{torch.__version__} on {_device()[0]}"


def _device() -> tuple[str, int | None]:
    """The device that clips are made on, and its free memory in bytes if it has its own."""
    try:
        import torch
    except ImportError:
        return "none: torch isn't installed", None
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    return f"CPU, {torch.get_num_threads()} threads", None


def _disk(folder: Path) -> str:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can't be written; give another with --state-dir")
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise OSError(f"{folder} has {free / 1e6:.0f} MB left; free {LEAST_FREE_BYTES / 1e6:.0f} MB")
    return f"{folder}, {free / GB:.1f} GB free"


def _shipped() -> str:
    from server.models import models_here

    installed = [model.name for model in models_here() if model.installed]
    if not installed:
        raise ValueError("none is installed; see `musev models`")
    return ", ".join(installed)
