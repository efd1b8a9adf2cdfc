"""Plug-ins: what other packages add is found by name, imported late, and left out where it can't work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musev_engine import plugins
from musev_engine.errors import EngineError
from musev_engine.windows import plan_windows

ROOT = Path(__file__).parents[1]
SCHEDULES, CONTROLS = "musev.window_schedules", "musev.control_preprocessors"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package of one module as pip would leave it."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package, source, points, group=SCHEDULES, version="1.2"):
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {target}" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        forget()

    yield put
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)
    forget()


def forget():
    plugins.listing.cache_clear()
    plugins.found.cache_clear()


def problem(name):
    (left_out,) = [plugin for plugin in plugins.listing() if plugin.name == name and plugin.problem]
    return left_out.problem


def test_everything_of_ours_is_registered_and_fits_its_group():
    ours = [plugin for plugin in plugins.listing() if plugin.package == plugins.OURS]
    assert {plugin.group for plugin in ours} >= {"musev.motion_models", SCHEDULES, "musev.predictors"}
    for plugin in ours:
        assert not plugin.problem
        plugin.load()  # raises where it is no such thing


def test_listing_imports_nothing_heavy():
    program = (
        "import sys; from musev_engine import plugins; plugins.listing();"
        "print([len(plugins.found(g)) for g in plugins.GROUPS]);"
        "assert not {'torch', 'numpy', 'musev_engine.windows'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_another_packages_schedule_is_found_and_imported_only_when_taken(install):
    install(
        "windows-by-ann",
        "def pendulum(*sizes, **more):\n    return []\n",
        {"pendulum": "windows_by_ann:pendulum"},
    )
    there = plugins.found(SCHEDULES)
    assert "pendulum" in there and list(there)[:1] != ["pendulum"]
    assert "windows_by_ann" not in sys.modules
    assert there["pendulum"](8, 4, 2) == []
    (plugin,) = [plugin for plugin in plugins.listing() if plugin.name == "pendulum"]
    assert (plugin.package, plugin.version, plugin.problem) == ("windows-by-ann", "1.2", "")


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("thing = print", "no_such_module_anywhere:thing", "No module named 'no_such_module_anywhere'"),
        ("thing = print", "by_bob.deeper.still:thing", "No module named 'by_bob.deeper'"),
        ("thing = print", "by_bob:nothing", "has no attribute 'nothing'"),
        ("thing = print", "by_bob", "must be callable, and is module"),
        ("def thing(:", "by_bob:thing", "SyntaxError"),
        ("import a_library_that_is_not_there\nthing = print", "by_bob:thing", "a_library_that_is_not_there"),
        ("raise SystemExit(3)", "by_bob:thing", "SystemExit"),
    ],
)
def test_what_does_not_work_is_told_with_its_package_and_the_reason(install, source, target, said):
    install("by-bob", source + "\n", {"bad": target})
    with pytest.raises(
        EngineError, match=r"'bad' of the package by-bob 1\.2 doesn't work.*pip uninstall"
    ) as told:
        plugins.found(SCHEDULES)["bad"]
    assert told.value.code == "broken_plugin" and said in str(told.value)
    assert plugins.found(SCHEDULES)["uniform"]  # the others go on


def test_a_name_with_other_signs_cannot_be_used(install):
    install("by-bob", "thing = print\n", {"odd-name": "by_bob:thing"})
    assert "other signs" in problem("odd-name") and "odd-name" not in plugins.found(SCHEDULES)
    with pytest.raises(EngineError, match="other signs"):
        plugins.found(SCHEDULES)["odd-name"]


@pytest.mark.parametrize("frames", ["range(num_frames - 1)", "range(num_frames + 1)"])
def test_a_schedule_that_leaves_frames_out_or_makes_some_up_is_told(install, frames):
    source = f"""
from musev_engine.windows import Window

def careless(num_frames, *_, **__):
    return [Window(list({frames}), range(len({frames})))]
"""
    install("by-kim", source, {"careless": "by_kim:careless"})
    with pytest.raises(EngineError, match="'careless' doesn't count each of 8 frames") as refused:
        plan_windows("careless", 8, 4, 2)
    assert refused.value.code == "broken_plugin"


@pytest.mark.parametrize(
    ("group", "source", "said"),
    [
        (SCHEDULES, "thing = 3\n", "must be callable"),
        (CONTROLS, "def thing(frames, resolution=None):\n    return frames\n", "controlnet"),
        ("musev.motion_models", "thing = {'need_refer_emb': 1}\n", "dict of flags"),
    ],
)
def test_what_is_no_such_thing_is_refused(install, group, source, said):
    install("by-gus", source, {"thing": "by_gus:thing"}, group)
    with pytest.raises(EngineError, match=said):
        plugins.found(group)["thing"]


def test_a_taken_name_stays_with_the_engine_then_with_the_first(install):
    install("aaa-first", "thing = print\n", {"uniform": "aaa_first:thing", "mine": "aaa_first:thing"})
    install("zzz-last", "thing = print\n", {"mine": "zzz_last:thing"})
    assert "taken by musev-for-blender" in problem("uniform")
    assert "taken by aaa-first" in problem("mine")
    assert plugins.found(SCHEDULES)["uniform"] is not print


def test_a_packages_older_metadata_does_no_harm(install):
    install("by-lou", "thing = print\n", {"mine": "by_lou:gone"}, version="1.0")
    install("by-lou", "thing = print\n", {"mine": "by_lou:thing"}, version="1.1")
    (plugin,) = [plugin for plugin in plugins.listing() if plugin.name == "mine"]
    assert (plugin.version, plugin.problem) == ("1.1", "") and plugins.found(SCHEDULES)["mine"] is print


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(EngineError, match="Did you mean shifting") as refused:
        plugins.found(SCHEDULES)["shiftign"]
    assert refused.value.code == "unknown_name"


def test_what_fails_when_imported_is_found_apart_and_the_rest_goes_on(install, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")  # for the processes that import them
    install("by-hal", "import a_library_that_is_not_there\nthing = print\n", {"late": "by_hal:thing"})
    install("by-ida", "import os\nos._exit(3)\nthing = print\n", {"dead": "by_ida:thing"})
    install("by-jim", "print('hello')\nthing = print\n", {"fine": "by_jim:thing", "gone": "by_jim:gone"})
    problems = {plugin.name: plugin.problem for plugin in plugins.tried()}
    assert "a_library_that_is_not_there" in problems["late"]
    assert "has no attribute 'gone'" in problems["gone"]
    assert problems["dead"] == "importing it ended Python"
    assert problems["fine"] == problems["shifting"] == ""
    assert not {"by_hal", "by_ida", "by_jim"} & set(sys.modules)


# --- the example package ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The folder into which examples/plugin was installed, as any package is."""
    source = shutil.copytree(ROOT / "examples" / "plugin", tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("installed")
    words = [
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    return target


def run_with(folder, *words):
    """Run Python with a folder on its path: what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_musev_plugins_lists_the_example_without_importing_it(example):
    program = (
        "import sys; from server.cli import main; main(['plugins', '--json']);"
        "assert not {'musev_example_plugin', 'torch', 'numpy'} & set(sys.modules)"
    )
    rows = {row["name"]: row for row in json.loads(run_with(example, "-c", program))}
    for name, group in (("centred", SCHEDULES), ("sketch", CONTROLS)):
        row = rows[name]
        assert (row["group"], row["package"], row["version"]) == (group, "musev-example-plugin", "1.0")
        assert row["ok"] and not row["problem"]
    assert "centred" not in plugins.found(SCHEDULES)  # here it isn't installed


def test_the_engine_offers_the_example_to_its_clients(example):
    program = (
        "from server.models import menus; from blender_addon import protocol; print(protocol.encode(menus()))"
    )
    menus = json.loads(run_with(example, "-c", program))
    assert "centred" in menus["window_schedules"] and "sketch" in menus["control_preprocessors"]
    assert menus["left_out"] == []


def test_the_examples_schedule_and_control_are_used_as_the_engines_own(example):
    program = """
import numpy as np
from musev_engine import control
from musev_engine.windows import plan_windows

for num_frames, context_frames, overlap in ((1, 12, 4), (13, 12, 0), (48, 12, 4), (101, 16, 15)):
    windows = plan_windows("centred", num_frames, context_frames, overlap)
    counted = {window.frames[place] for window in windows for place in window.counted}
    assert counted == set(range(num_frames)), (num_frames, windows)
    assert {len(window.frames) for window in windows} == {min(num_frames, context_frames)}

frames = np.zeros((2, 64, 96, 3), np.uint8)
frames[:, 20:40, 30:60] = 200
drawn = control.preprocess("sketch", frames)
assert drawn.shape == frames.shape and drawn.dtype == np.uint8
assert drawn[0, 20, 45].min() == 255 and not drawn[0, 30, 45].any()
assert control.find_control("sketch").controlnet == "control_v11p_sd15_scribble"
print("done")
"""
    assert run_with(example, "-c", program) == "done\n"
