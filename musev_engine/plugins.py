"""What this engine and other packages add to it, found alike: by name, through Python's entry points.

A package says what it adds in its pyproject.toml, one line for each thing, and is installed beside the engine:

    [project.entry-points."musev.window_schedules"]
    pendulum = "my_package.schedules:pendulum"

| group | what the named object must be |
|---|---|
| `musev.motion_models` | the motion UNet's flags by name, a dict as in `models.config.VARIANTS`; its weights lie in
    `motion/NAME/unet` of a folder in MuseV's layout |
| `musev.control_preprocessors` | called as `preprocess(frames, resolution=None)`: frames uint8 (t, h, w, 3), sRGB;
    gives the control pictures, uint8 of the same shape; `resolution` is the shorter side at which to detect, in
    pixels (None: the frames' own). Its attribute `controlnet` names the ControlNet that reads them, such as
    "control_v11p_sd15_canny" |
| `musev.window_schedules` | called as `schedule(num_frames, context_frames, context_overlap, *, context_stride,
    step)`: gives a list of `windows.Window` that count each frame of [0, num_frames) at least once |
| `musev.predictors` | called as `predictor(unet, conditions, timesteps)`: gives the function that
    `sampling.denoise` calls, see `sampling.Predict` and `conditions.predictor` |

Names are those of Python: letters, digits and underscores. `examples/plugin` is a package that does this.

Nothing is imported before it is asked for by name; what then doesn't work is one error that names the plug-in, its
package and the reason. `tried` imports other packages' ones beforehand, in another process, so that lists and menus
leave out what doesn't work and say why.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata

from musev_engine.errors import EngineError

OURS = "musev-for-blender"
TRY_S = 300  # what a package's imports may take: torch from a slow disk takes minutes
GROUPS = {  # group: what one of its objects is called
    "musev.motion_models": "motion model",
    "musev.control_preprocessors": "control preprocessor",
    "musev.window_schedules": "window schedule",
    "musev.predictors": "predictor",
}


@dataclass(frozen=True)
class Plugin:
    """One entry point. target: "module:object". problem: why it is left out, or ""."""

    group: str
    name: str
    target: str
    package: str
    version: str
    problem: str = ""

    def load(self) -> object:
        """Import the object. Raises EngineError, code "broken_plugin", if that fails or it isn't what its group
        asks for."""
        try:
            made = metadata.EntryPoint(self.name, self.target, self.group).load()
        except (Exception, SystemExit) as error:  # others' code may raise anything; here it becomes a message
            raise self._broken(f"{type(error).__name__}: {error}") from error
        if fault := _unfit(self.group, made):
            raise self._broken(fault)
        return made

    def fault(self) -> str:
        """Why it doesn't work, found by importing it, or ""."""
        try:
            self.load()
        except EngineError as error:
            return self.problem or error.value
        return self.problem

    def _broken(self, why: str) -> EngineError:
        return EngineError(
            f"The {GROUPS[self.group]} {self.name!r} of the package {self.package} {self.version} doesn't work",
            why,
            f"Update or remove the package: pip uninstall {self.package}",
            code="broken_plugin",
        )


class Found(Mapping[str, object]):
    """Name -> object, imported when it is taken out. Names come in order, the engine's own first; those that can't be
    used aren't among them."""

    def __init__(self, group: str):
        self._group = group
        here = [plugin for plugin in listing() if plugin.group == group]
        self._plugins = {plugin.name: plugin for plugin in here if not plugin.problem}
        self._plugins |= {plugin.name: plugin for plugin in here if plugin.name not in self._plugins}

    def __getitem__(self, name: str) -> object:
        """Raises EngineError for a name that isn't there (the nearest are offered), or is there and broken."""
        if name not in self._plugins:
            what, known = GROUPS[self._group], sorted(self)
            near = difflib.get_close_matches(name, known, n=3)
            remedy = (
                f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known) or 'none'}."
            )
            raise EngineError(f"No {what} has this name", name, remedy, code="unknown_name")
        plugin = self._plugins[name]
        if plugin.problem:
            raise plugin._broken(plugin.problem)
        return plugin.load()

    def __contains__(self, name: object) -> bool:
        return name in self._plugins and not self._plugins[name].problem

    def __iter__(self) -> Iterator[str]:
        return (name for name, plugin in self._plugins.items() if not plugin.problem)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def found(group: str) -> Found:
    """What there is in one of GROUPS. Looking at its names imports nothing; taking one out imports that one."""
    return Found(group)


@cache
def listing() -> tuple[Plugin, ...]:
    """Every entry point of every group, without importing any. Those whose name can't be used have a problem: a name
    belongs to this engine first, then to the package that comes first in the alphabet.
    """
    points: dict[tuple[str, str, str], tuple[list[int], str, str]] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if (
                point.group in GROUPS
            ):  # older metadata may lie beside what is installed: the newest version counts
                key = (point.group, point.name, distribution.name or "?")
                told = (_numbers(distribution.version), distribution.version, point.value)
                points[key] = max(points.get(key, told), told)
    plugins, taken = [], {}
    for group, name, package in sorted(points, key=lambda key: (key[2] != OURS, key[2])):
        _, version, target = points[group, name, package]
        holder = taken.setdefault((group, name), package)
        problem = f"the name {name!r} is taken by {holder}" if holder != package else ""
        if not name.isidentifier():
            problem = f"the name {name!r} has other signs than letters, digits and underscores"
        plugins.append(Plugin(group, name, target, package, version, problem))
    return tuple(plugins)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def tried() -> tuple[Plugin, ...]:
    """`listing`, after other packages' plug-ins were imported, each package's in a process of its own: what fails
    there has a problem here. Takes as long as their imports; without other packages, no process is started."""
    plugins = listing()
    packages = {plugin.package for plugin in plugins if plugin.package != OURS and not plugin.problem}
    problems = {key: why for package in sorted(packages) for key, why in _try(package).items()}
    return tuple(
        replace(plugin, problem=plugin.problem or problems.get((plugin.group, plugin.name), ""))
        for plugin in plugins
    )


def _try(package: str) -> dict[tuple[str, str], str]:
    """(group, name) -> why it doesn't work, of those of one package that don't."""
    ours = [plugin for plugin in listing() if plugin.package == package and not plugin.problem]
    command = [sys.executable, "-m", "musev_engine.plugins", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRY_S, check=True)
        return {(group, name): why for group, name, why in json.loads(done.stdout.splitlines()[-1])}
    except subprocess.TimeoutExpired:
        why = f"importing it took longer than {TRY_S} s"
    except (subprocess.CalledProcessError, ValueError, IndexError):
        why = "importing it ended Python"
    return {(plugin.group, plugin.name): why for plugin in ours}


def _unfit(group: str, made: object) -> str:
    """Why an object isn't what its group asks for, or ""."""
    if group == "musev.motion_models":
        flags = isinstance(made, Mapping) and all(type(value) is bool for value in made.values())
        return "" if flags else f"it must be a dict of flags, and is {type(made).__name__}"
    if not callable(made):
        return f"it must be callable, and is {type(made).__name__}"
    if group == "musev.control_preprocessors" and not isinstance(getattr(made, "controlnet", None), str):
        return "its attribute `controlnet` must name a ControlNet"
    return ""


if __name__ == "__main__":  # what `_try` runs
    faults = [
        (plugin.group, plugin.name, plugin.fault()) for plugin in listing() if plugin.package == sys.argv[1]
    ]
    print("\n" + json.dumps([fault for fault in faults if fault[2]]))
