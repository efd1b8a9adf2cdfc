"""Builds the extension's zip with Blender's own `extension build`.

    python build_extension.py [--output-dir dist] [--blender /path/to/blender] [--engine "COMMAND"]

Stages `blender_addon/`, the manifest, the licence and the wheels that the manifest names in a temporary
folder, because Blender wants `__init__.py` at the zip's root. The builder is the one inside the `bpy` package
of the Python that runs this, or else the Blender on the PATH. Wheels are fetched once into `build/wheels`, by
version and checksum.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WHEELS = ROOT / "build" / "wheels"
WHEEL_SHA256 = {
    "websockets-17.4-py3-none-any.whl": "c6bd2c9781915592b209160d0f017d4c7c82ad53075e6b0c24d2a89299e7f9e9",
}


def manifest() -> dict:
    """The extension's manifest, parsed."""
    return tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))


def fetch_wheels() -> list[Path]:
    """The wheels that the manifest names, downloaded by pip where they are not in `build/wheels` yet.

    Raises ValueError for a wheel without a known checksum or with another one.
    """
    paths = []
    for entry in manifest()["wheels"]:
        path = WHEELS / Path(entry).name
        if path.name not in WHEEL_SHA256:
            raise ValueError(
                f"{path.name} has no checksum in build_extension.py; add the one that PyPI shows for it."
            )
        if not path.exists():
            project, version, *_ = path.name.split("-")
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ]
            command += ["--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none"]
            subprocess.run([*command, f"--dest={WHEELS}", f"{project}=={version}"], check=True)
        if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != WHEEL_SHA256[path.name]:
            raise ValueError(
                f"{path} has sha256 {found}, expected {WHEEL_SHA256[path.name]}; delete it and try again."
            )
        paths.append(path)
    return paths


def builder(blender: str | None) -> list[str]:
    """The command that stands before `build --source-dir … --output-dir …`.

    Raises FileNotFoundError where there is neither a bpy package nor a Blender.
    """
    if not blender and (spec := importlib.util.find_spec("bpy")):
        package = Path(spec.origin).parent
        found = sorted(package.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
        if found:
            return [sys.executable, str(found[0])]
    if found := shutil.which(blender or "blender"):
        return [found, "--factory-startup", "--command", "extension"]
    raise FileNotFoundError(
        f"No {blender or 'blender'} to build with. Run this with .venv-blender's Python, or give --blender."
    )


def build(output_dir: Path, blender: str | None = None, engine: str = "") -> Path:
    """Builds `output_dir/musev-<version>.zip` and returns its path. engine: the command that starts the engine on this
    computer, so that nobody need set it; such a zip is for this computer alone. Raises CalledProcessError if Blender
    refuses.
    """
    command = builder(blender)
    wheels = fetch_wheels()
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="musev-extension-") as folder:
        stage = Path(folder) / "musev"
        shutil.copytree(ROOT / "blender_addon", stage, ignore=shutil.ignore_patterns("__pycache__"))
        (stage / "wheels").mkdir()
        for source in (ROOT / "blender_manifest.toml", ROOT / "LICENSE"):
            shutil.copy2(source, stage)
        for wheel in wheels:
            shutil.copy2(wheel, stage / "wheels")
        if engine:
            (stage / "engine_command.txt").write_text(engine + "\n", encoding="utf-8")
        subprocess.run([*command, "build", f"--source-dir={stage}", f"--output-dir={output_dir}"], check=True)
    about = manifest()
    return output_dir / f"{about['id']}-{about['version']}.zip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=Path, default=ROOT / "dist")
    parser.add_argument("--blender", help="build with this Blender instead of the bpy package")
    parser.add_argument(
        "--engine",
        default="",
        help="the engine's command on this computer, say: /path/to/.venv/bin/musev serve",
    )
    arguments = parser.parse_args()
    print(build(arguments.output_dir, arguments.blender, arguments.engine))


if __name__ == "__main__":
    main()
