"""Runs every one of the 26 controls at its full size and tells what ran: `python -m tests.control_table [NAME …]`.

A detector whose files are in the models folder runs with them; another one is built with random weights of the same
classes, written as the published files are and loaded from there; shapes and ranges are checked, and the pictures are
compared with those of `controlnet_aux`'s own detector on the same weights. Prints a table; the exit status is 1 if
anything failed.
"""

import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from musev_engine import detectors, registry
from musev_engine.control import CONTROLS, Cache, preprocess
from musev_engine.errors import EngineError
from tests.test_control import pictures
from tests.test_detectors import MODULES, lively, places_of_colours, sure_of_all, theirs

ENTRIES = {"PidiNetDetector": "state_dict", "ZoeDetector": "model", "LeresDetector": "depth_model"}
ENTRIES["NormalBaeDetector"] = "model"
MAKERS = {
    "HEDdetector": detectors.make_hed, "PidiNetDetector": detectors.make_pidi,
    "LineartDetector": detectors.make_lineart, "LineartAnimeDetector": detectors.make_lineart_anime,
    "MidasDetector": detectors.make_midas, "ZoeDetector": detectors.make_zoe,
    "LeresDetector": detectors.make_leres, "NormalBaeDetector": detectors.make_normals,
}  # fmt: skip


def networks(name: str) -> dict[str, torch.nn.Module]:
    """File -> the network that it fills, with random weights."""
    kind = CONTROLS[name]
    if kind.detector in MAKERS:
        network = MAKERS[kind.detector]()
        # ZoeDepth's bins overflow where weights are larger than its own first ones
        return {kind.files[0]: network if kind.detector == "ZoeDetector" else lively(network)}
    if kind.detector.endswith("SamDetector"):
        from controlnet_aux.segment_anything import sam_model_registry

        network = sam_model_registry["vit_t" if "Mobile" in kind.detector else "vit_h"]()
        return {kind.files[0]: sure_of_all(network)}
    from controlnet_aux.open_pose.face import FaceNet
    from controlnet_aux.open_pose.model import bodypose_model, handpose_model

    made = {
        "body_pose_model.pth": bodypose_model,
        "hand_pose_model.pth": handpose_model,
        "facenet.pth": FaceNet,
    }
    return {file: lively(made[file.partition("/")[2]]()) for file in kind.files}


def write(name: str, made: dict[str, torch.nn.Module], folder: Path) -> None:
    """Random weights in the published files' form."""
    for file, network in made.items():
        state = network.state_dict()
        if file.endswith("_pose_model.pth"):  # as published, without the names of the blocks
            state = {key.partition(".")[2]: value for key, value in state.items()}
        entry = ENTRIES.get(CONTROLS[name].detector)
        torch.save({entry: state} if entry else state, folder / file.partition("/")[2])


def compared(name: str, network: torch.nn.Module, frames: np.ndarray, made: np.ndarray) -> str:
    """How far our pictures are from `controlnet_aux`'s. Raises AssertionError if that is more than rounding."""
    wanted = theirs(name, network.eval(), frames)
    if name in ("sam", "mobile_sam"):
        for mine, other in zip(made, wanted, strict=True):
            if places_of_colours(mine) != places_of_colours(other):
                raise AssertionError("other things than controlnet_aux's")
        return f"the same {len(places_of_colours(made[0]))} regions as controlnet_aux's"
    furthest = int(np.abs(made.astype(int) - wanted).max())
    differ = float((made != wanted).mean())
    if furthest > 1 and not (name == "hed_scribble" and differ < 0.01):
        raise AssertionError(f"up to {furthest} levels from controlnet_aux's")
    return (
        f"{differ:.2%} of values a level or so off controlnet_aux's"
        if differ
        else "equal to controlnet_aux's"
    )


def check(name: str, folder: Path) -> str:
    kind, find = CONTROLS[name], registry.find_file
    here = all(registry.installed(file.partition("/")[0]) for file in kind.files)
    what, random = "itself, no learned weights" if not kind.files else "with its published weights", {}
    if kind.detector == "DWposeDetector" and not here:
        return "pre- and postprocessing, with ONNX files of known answers (tests/test_people.py)"
    if not here and kind.detector != "MediapipeFaceDetector":  # nobody can make up MediaPipe's file
        random = networks(name)
        write(name, random, folder)
        registry.find_file = lambda id, part: folder / part
        total = sum(value.numel() for network in random.values() for value in network.parameters())
        what = f"its networks ({total / 1e6:.1f} M parameters) with random weights"
    try:
        frames = pictures(2, 128, 192)
        if kind.detector == "MediapipeFaceDetector":  # blobs have no faces; scikit-image brings a photograph
            from skimage.data import astronaut

            frames = np.stack([astronaut()[:192, 128:320]] * 2)
        start = time.perf_counter()
        made = preprocess(name, frames, cache=Cache())
        took = time.perf_counter() - start
    finally:
        registry.find_file = find
        detectors.load.cache_clear()
    if made.shape != frames.shape or made.dtype != np.uint8:
        raise AssertionError(f"{made.dtype} {made.shape}")
    told = f"{what}; 2 frames of {frames.shape[1]}×{frames.shape[2]} in {took:.1f} s, values {made.min()}…{made.max()}"
    if kind.detector == "OpenposeDetector" and random:
        told += "; they find nobody: what is found is in tests/test_openpose.py"
    if random and kind.detector in MODULES:
        (network,) = random.values()
        told += f", {compared(name, network, frames, made)}"
    return told


def main(names: list[str]) -> int:
    warnings.simplefilter("ignore")
    failed = 0
    print("| name | ControlNet | what ran |\n|---|---|---|")
    for name in names or CONTROLS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                told = check(name, Path(folder))
            except EngineError as error:
                told = f"told: {error}"
            except Exception as error:  # the table goes on, and says what broke
                failed += 1
                told = f"FAILED: {error}"
                traceback.print_exc()
        print(f"| {name} | {CONTROLS[name].controlnet} | {told} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
