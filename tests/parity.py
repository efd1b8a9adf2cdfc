"""Is ours the same as the original? ``python -m tests.parity DIRECTORY [--only GLOB] [--json]``

Runs every case of a golden directory, one line a case: its name, the largest absolute error, the largest error
relative to the largest expected value, the verdict. Ends with 1 if one is out, 2 if nothing was run; a case that
there is no check for, or that asks for what the checks don't know, is out. Widths, depths, seeds and mixtures all
come from the directory's own files. A case called KNOWN_BUG_… documents a defect of the original: what ours does
instead is checked. Loops are compared link by link, see `parity_links`; --float64 and --free show what roundings
have to do with what is left.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch

from musev_engine.models.projections import FaceProjModel, ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D, insert_condition_frames
from tests.golden_data import Case, Comparison, NotCovered, compare, load_tensors, read_json

NETWORKS = 2e-5  # largest absolute error of one forward pass in float32

Check = Callable[[Path, Path], list[Comparison]]


def check_unet(directory: Path, root: Path) -> list[Comparison]:
    """One forward pass of the 3-D UNet."""
    case = Case(directory, root)
    unet = _unet(case)
    has = unet.config
    sample, index, clean = (
        case.get(f"in.{name}")
        for name in ("sample", "vision_conditon_frames_sample_index", "vision_condition_frames_sample")
    )
    if clean is not None:
        sample = insert_condition_frames(sample, clean, case.get("in.sample_index"), index)
    down, mid = case.get_list("in.down_block_refer_embs"), case.get("in.mid_block_refer_emb")
    residuals = case.get_list("in.down_block_additional_residuals")
    middle = case.get("in.mid_block_additional_residual")
    got = unet(
        sample, case.get("in.timestep"), case.get("in.encoder_hidden_states"),
        condition_index=index,
        frame_index=case.get("in.frame_index"),
        motion_speed=case.scalars.get("sample_frame_rate", 1),
        # The original passes over tokens that a variant has no weights for; ours refuses them.
        image_tokens=case.get("in.vision_clip_emb") if has.ip_adapter_cross_attn else None,
        image_scale=case.scalars.get("ip_adapter_scale", 1.0),
        face_tokens=case.get("in.ip_adapter_face_emb") if has.need_t2i_ip_adapter_face else None,
        face_scale=case.scalars.get("ip_adapter_face_scale", 1.0),
        reference=(down, mid) if down and has.need_refer_emb else None,
        control_residuals=(residuals, middle) if residuals else None,
        pose_embedding=case.get("in.pose_guider_emb"),
        skip_temporal=case.scalars.get("skip_temporal_layers", False),
    )  # fmt: skip
    return [compare("sample", got, case.tensors["out.sample"], atol=NETWORKS)]


def check_referencenet(directory: Path, root: Path) -> list[Comparison]:
    """ReferenceNet's maps."""
    case = Case(directory, root)
    net = ReferenceNet.from_config(case.json("config")).eval()
    net.load_state_dict(case.weights())
    frames = case.info["num_frames"]
    sample, text = case.get("in.sample"), case.get("in.encoder_hidden_states")
    sample = sample.unflatten(0, (-1, frames)).transpose(1, 2)
    down, mid = net(sample, case.get("in.timestep"), text.unflatten(0, (-1, frames)))
    expected = case.get_list("out.down")
    if len(down) != len(expected):
        return [Comparison(f"{len(down)} maps, expected {len(expected)}", math.inf, math.inf, False)]
    maps = [
        compare(f"down.{i}", got, want, atol=NETWORKS)
        for i, (got, want) in enumerate(zip(down, expected, strict=True))
    ]
    return [*maps, compare("mid", mid, case.tensors["out.mid"], atol=NETWORKS)]


def check_proj(directory: Path, root: Path) -> list[Comparison]:
    """Image and face projections, each for every form of input that the case has."""
    case = Case(directory, root)
    weights = {key.removeprefix("image_proj."): value for key, value in case.weights().items()}
    kind = FaceProjModel if "proj.0.weight" in weights else ImageProjModel
    model = kind.from_state_dict(weights).eval()
    names = [key.removeprefix("in.") for key in case.tensors if key.startswith("in.")]
    return [
        compare(name, model(case.tensors[f"in.{name}"]), case.tensors[f"out.{name}"], atol=NETWORKS)
        for name in names
    ]


def _unet(case: Case) -> UNet3D:
    """The UNet with exactly the keys that the case lists. The config beside the list of keys is the one that
    belongs to it: a FaceID case names the config of its base model."""
    keys_path = case.root / case.info["keys"]
    own_config = keys_path.with_name(keys_path.name.replace(".keys.json", ".config.json"))
    keys = read_json(keys_path)
    with torch.device("meta"):
        unet = UNet3D.from_config(
            read_json(own_config) if own_config.exists() else case.json("config")
        ).eval()
    unet.load_state_dict(load_tensors(case.root / case.info["weights"], list(keys)), assign=True)
    return unet


CHECKS: dict[str, Check] = {"unet": check_unet, "referencenet": check_referencenet, "proj": check_proj}


def all_checks(**how: object) -> dict[str, Check]:
    """Top-level folder or file -> its check. `how`: of the loops, see `parity_links.Links`."""
    from tests.parity_loops import CHECKS as PARTS
    from tests.parity_pipeline import check_pipeline
    from tests.parity_predictor import check_predictor

    loops = {"pipeline": check_pipeline, "predictor": check_predictor}
    return CHECKS | PARTS | {kind: partial(check, **how) for kind, check in loops.items()}


def cases(root: Path) -> Iterator[tuple[str, Path]]:
    """(kind, place) of every case: each folder of a kind, or the kind's own folder if it has none; and the files
    beside them that hold cases."""
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "weights"):
        inner = sorted(path for path in kind.iterdir() if path.is_dir())
        for directory in inner or [kind]:
            yield kind.name, directory
    for path in sorted(root.glob("*.json")):
        if path.stem != "errors_observed":  # of option combinations that work in ours: tests/test_pipeline.py
            yield path.stem, path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="a golden directory (unet/, weights/, ...)")
    parser.add_argument(
        "--only", default="*", metavar="GLOB", help="only cases of matching name, as 'unet/*'"
    )
    parser.add_argument("--json", action="store_true", help="print [{case, max_abs, max_rel, ok}] last")
    parser.add_argument("--float64", action="store_true", help="loops' networks without roundings of ours")
    parser.add_argument(
        "--free", action="store_true", help="loops from end to end, nothing put back between links"
    )
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is not a directory.")

    torch.set_num_threads(1)  # as the original's numbers were made
    checks = all_checks(dtype=torch.float64 if options.float64 else torch.float32, free=options.free)
    results = []
    for kind, directory in cases(options.directory):
        name = directory.relative_to(options.directory).as_posix()
        if not fnmatch(name, options.only):
            continue
        try:
            if kind not in checks:
                raise NotCovered(f"there is no check for cases of {kind}")
            with torch.no_grad():
                comparisons = checks[kind](directory, options.directory)
        except NotCovered as reason:  # what isn't compared isn't the same
            comparisons = [Comparison(f"not covered: {reason}", math.inf, math.inf, False)]
        except Exception as error:  # one broken case must not hide the others; it counts as out
            comparisons = [Comparison(f"{type(error).__name__}: {error}", math.inf, math.inf, False)]
        results.append(_report(name, comparisons))

    bad = sum(not result["ok"] for result in results)
    print(f"{len(results)} cases, {bad} out of tolerance")
    if options.json:
        print(json.dumps(results))
    return 2 if not results else 1 if bad else 0


def _report(name: str, comparisons: list[Comparison]) -> dict:
    """Print a case's line, and a line for each comparison that is out; return its entry of the JSON list."""
    max_abs = max((each.max_abs for each in comparisons), default=math.inf)
    max_rel = max((each.max_rel for each in comparisons), default=math.inf)
    ok = bool(comparisons) and all(each.ok for each in comparisons)
    verdict = "OUT" if not ok else "ok: its bug, ours is right" if "KNOWN_BUG" in name else "ok"
    print(f"{name:<56} abs {max_abs:9.2e}   rel {max_rel:9.2e}   {verdict}")
    for each in comparisons:
        if not each.ok or each.note:
            note = f": ok, {each.note}" if each.note else ""
            print(f"    {each.name}: abs {each.max_abs:.2e}, rel {each.max_rel:.2e}{note}")
    return {"case": name, "max_abs": max_abs, "max_rel": max_rel, "ok": ok}


if __name__ == "__main__":
    sys.exit(main())
