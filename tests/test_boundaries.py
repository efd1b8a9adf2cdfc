"""The import law, read from the import statements: who may know whom."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = set(sys.stdlib_module_names) | {"__future__"}
BLENDER = {
    "bpy",
    "mathutils",
    "bpy_extras",
    "bl_operators",
    "bl_ui",
    "bmesh",
    "gpu",
    "gpu_extras",
    "blf",
    "idprop",
    "numpy",
    "websockets",
}


def imports(path):
    """(top-level package or our room, at module level?) of every import statement in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in tree.body


def files(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


def top(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("path", files("blender_addon"), ids=lambda path: path.name)
def test_the_extension_knows_blender_alone(path):
    assert {top(name) for name, _ in imports(path)} <= STANDARD | BLENDER | {"blender_addon"}


def test_the_protocol_knows_the_standard_library_alone():
    words, records = (list(imports(ROOT / "blender_addon" / name)) for name in ("protocol.py", "records.py"))
    assert {top(name) for name, _ in records} <= STANDARD
    others = [name for name, _ in words if not name.startswith("blender_addon.records.")]
    assert {top(name) for name in others} <= STANDARD


def test_the_extension_package_imports_nothing_at_module_level():
    assert not [
        name for name, at_module_level in imports(ROOT / "blender_addon/__init__.py") if at_module_level
    ]


@pytest.mark.parametrize("path", files("blender_addon"), ids=lambda path: path.name)
def test_nothing_takes_from_the_context_what_blender_4_2_gives_a_freed_owner(path):
    """Blender 4.2: who reads the first two makes the scene the owner of the context, for good; a window and a depsgraph
    that are got from it have that owner, freed or not, and what is set on that window is noted there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    ends = ("context.layer_collection", "context.tool_settings", "context.evaluated_depsgraph_get")
    assert not {each for each in read if each.endswith(ends)}
    assert not {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value).endswith("context.window")
    }


@pytest.mark.parametrize("name", ["client.py", "engine_process.py", "protocol.py", "records.py"])
def test_the_wire_knows_no_blender_and_no_threads(name):
    assert not {top(name) for name, _ in imports(ROOT / "blender_addon" / name)} & {
        "bpy",
        "threading",
        "asyncio",
    }


@pytest.mark.parametrize("path", files("musev_engine"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_knows_neither_server_nor_extension(path):
    known = {top(name) for name, _ in imports(path)}
    assert not known & {"server", "blender_addon", "tests"}
    if "training" not in path.parts:
        assert not known & BLENDER - {"numpy"}


@pytest.mark.parametrize("path", files("server"), ids=lambda path: path.name)
def test_the_server_knows_the_protocol_and_the_engine_alone(path):
    names = {name for name, _ in imports(path)}
    assert not {top(name) for name in names} & {"bpy", "tests"}
    ours = {name for name in names if top(name) == "blender_addon"}
    assert all(name.startswith("blender_addon.protocol") for name in ours)


@pytest.mark.parametrize("path", files("server"), ids=lambda path: path.name)
def test_only_what_the_worker_imports_may_be_heavy(path):
    at_module_level = {top(name) for name, at_module_level in imports(path) if at_module_level}
    if path.name not in ("clips.py", "inputs.py", "loaded.py"):
        assert not at_module_level & {"torch", "numpy", "musev_engine", "diffusers", "transformers"}


def test_what_the_worker_imports_is_reached_by_name_or_late():
    for path in files("server"):
        assert path.name == "clips.py" or not [
            name
            for name, at_module_level in imports(path)
            if at_module_level and name.startswith(("server.clips", "server.inputs", "server.loaded"))
        ]


def test_the_engine_package_imports_nothing_heavy():
    names = {top(name) for name, _ in imports(ROOT / "musev_engine/__init__.py")}
    assert names <= STANDARD
