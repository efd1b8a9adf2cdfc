"""The measuring of rigs, run as a command on a file of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bpy
import rigs

ROOT = Path(__file__).resolve().parents[2]


def test_the_armatures_of_a_file_are_measured(empty_scene, tmp_path):
    rig = rigs.figure(rigs.mixamo(), "Dancer", face=True, hands=True)
    rig.data.bones["mixamorig:RightHandRing4"].name = "end"
    rigs.wave(rig, range(1, 5), every=3)
    unknown = rigs.figure(rigs.UNREAL, "Crane")
    for bone in unknown.data.bones:
        bone.name = "part"
    rigs.camera(shift_x=0.1)
    path = tmp_path / "rigs.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
    command = [sys.executable, "-m", "tests.rig_accuracy", "--json", "--frames", "4", "--blend", str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    assert told["rigs"] == 1 and told["frames"] == 4
    assert 0 < told["max_px_error"] < 0.5 and told["swaps"] == told["lost"] == 0
    assert told["cost_bones"] >= 60 and told["cost_ratio"] > 0
    assert max(told["longest_tick_ms"], told["longest_single_step_ms"]) > 0
    assert "Dancer in Scene: Mixamo" in ran.stderr and "Crane: no map, unmapped: left shoulder" in ran.stderr
