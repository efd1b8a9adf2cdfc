"""What finds edges, depth, people … in pictures: networks of `controlnet_aux`, DWPose and MediaPipe.

Each is loaded once, when it is first named, from files of the models folder (see `registry`), and reads several
pictures at a time where its network lets it. Its arithmetic is that of `controlnet_aux`'s own detectors, which take
one picture; tests compare the two.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from musev_engine.drawing import MIN_VISIBILITY, NUM_BODY_POINTS, NUM_HAND_POINTS
from musev_engine.dwpose import DWPose
from musev_engine.errors import EngineError
from musev_engine.people import People, draw_people, face_mesh, openpose

# Pictures, uint8 (n, h, w, 3) with sides that are multiples of 64 -> maps, uint8 (n, height, width, 3).
Detect = Callable[..., np.ndarray]
PIXELS_AT_ONCE = 2**20  # four pictures of 512×512
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEGMENT_HUE_STEP = 0.381966  # of the golden section: neighbours in size get hues far apart
SHUFFLE_CELL = 256  # pixels between the random displacements


@lru_cache(maxsize=4)  # as many as may be named for one clip; the largest takes 2.6 GB
def load(detector: str, files: tuple[str, ...], device: str) -> Detect:
    """A detector by the name of its class in `controlnet_aux` ("" for the picture itself).

    Raises EngineError naming a file that isn't there, can't be read or holds another network, or a package that
    isn't installed.
    """
    from musev_engine import registry

    with _quiet():
        return DETECTORS[detector]([registry.find_file(*file.split("/")) for file in files], device)


def people_in(
    frames: np.ndarray, detector: str, files: tuple[str, ...], device: str, size: tuple[int, int]
) -> People:
    """The largest person of each frame, uint8 (t, h, w, 3), in its pixels: bodies (t, 1, 18, 3) and so on, without
    visibility where a frame shows nobody. `size`: rows and columns at which the detector looks."""
    find = load(detector, files, device).args[0]  # what `draw_people` draws for these detectors
    scale = np.array([frames.shape[2] / size[1], frames.shape[1] / size[0], 1], np.float32)
    found = []
    for frame in frames:
        how = cv2.INTER_LANCZOS4 if size[0] > frame.shape[0] else cv2.INTER_AREA
        seen = frame.shape[:2] == size
        people = find(frame if seen else cv2.resize(frame, size[::-1], interpolation=how))
        extents = [np.ptp(body[body[:, 2] >= MIN_VISIBILITY, :2], axis=0).prod() if
                   (body[:, 2] >= MIN_VISIBILITY).any() else 0.0 for body in people.bodies]  # fmt: skip
        largest = int(np.argmax(extents)) if extents else None
        found.append([None if largest is None else part[largest] * scale for part in people])
    shapes = [
        (NUM_BODY_POINTS, 3),
        (2, NUM_HAND_POINTS, 3),
        next((f[2].shape for f in found if f[2] is not None), (68, 3)),
    ]
    parts = [
        np.stack([np.zeros(shape, np.float32) if row[index] is None else row[index] for row in found])[
            :, None
        ]
        for index, shape in enumerate(shapes)
    ]
    return People(*parts)


# --- without learned weights ----------------------------------------------------------------------------


def plain(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pictures themselves."""
    return _fit(pictures, height, width)


def canny(pictures: np.ndarray, height: int, width: int, low: int = 100, high: int = 200) -> np.ndarray:
    """White edges on black (Canny 1986); `low` and `high` are the hysteresis' thresholds."""
    return _fit(np.stack([cv2.Canny(picture, low, high) for picture in pictures]), height, width)


def shuffle(pictures: np.ndarray, height: int, width: int, seed: int = 0) -> np.ndarray:
    """The picture's content with its places exchanged along a smooth random field (ControlNet 1.1's shuffle). The
    field is the same for every frame of a video, so that the colours don't flicker."""
    rows, columns = pictures.shape[1:3]
    random = np.random.default_rng(seed)
    field = []
    for side in (columns, rows):
        noise = random.random((rows // SHUFFLE_CELL + 2, columns // SHUFFLE_CELL + 2))
        noise = cv2.resize(
            noise, (columns + 2 * SHUFFLE_CELL, rows + 2 * SHUFFLE_CELL), interpolation=cv2.INTER_CUBIC
        )
        noise = noise[SHUFFLE_CELL : SHUFFLE_CELL + rows, SHUFFLE_CELL : SHUFFLE_CELL + columns]
        field.append(((noise - noise.min()) / np.ptp(noise) * (side - 1)).astype(np.float32))
    moved = [cv2.remap(picture, *field, interpolation=cv2.INTER_LINEAR) for picture in pictures]
    return _fit(np.stack(moved), height, width)


# --- edges and lines ------------------------------------------------------------------------------------


@torch.no_grad()
def hed(net, pictures: np.ndarray, height: int, width: int, scribble: bool = False) -> np.ndarray:
    """Soft edges, white on black (Xie & Tu, arXiv 1504.06375, as ControlNet 1.1 retrained it); `scribble` thins them
    and makes them hard, as a hand would draw them."""
    sides = net(_tensor(net, pictures))
    logits = torch.stack([_resize(side.float(), pictures.shape[1:3]) for side in sides]).mean(0)
    maps = _fit(_bytes(logits.double().sigmoid()), height, width)
    if not scribble:
        return maps
    from controlnet_aux.util import nms

    lines = [cv2.GaussianBlur(nms(soft[..., 0], 127, 3.0), (0, 0), 3.0) for soft in maps]
    return _fit(np.where(np.stack(lines) > 4, 255, 0).astype(np.uint8), height, width)


@torch.no_grad()
def pidi(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Soft edges, white on black (Su et al., arXiv 2108.07009)."""
    return _fit(_bytes(net(_tensor(net, pictures[..., ::-1]) / 255)[-1]), height, width)


@torch.no_grad()
def lineart(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Lines as drawn by hand, white on black (Chan et al., arXiv 2203.12691)."""
    return 255 - _fit(_bytes(net(_tensor(net, pictures) / 255)), height, width)


@torch.no_grad()
def lineart_anime(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Lines as in anime, white on black. The network wants sides that are multiples of 256."""
    rows, columns = pictures.shape[1:3]
    large = tuple(-(-side // 256) * 256 for side in (columns, rows))
    feed = np.stack([cv2.resize(picture, large, interpolation=cv2.INTER_CUBIC) for picture in pictures])
    lines = net(_tensor(net, feed) / 127.5 - 1)[:, 0] * 127.5 + 127.5
    lines = [cv2.resize(line, (columns, rows), interpolation=cv2.INTER_CUBIC) for line in lines.cpu().numpy()]
    return 255 - _fit(np.stack(lines).clip(0, 255).astype(np.uint8), height, width)


# --- depth and normals ----------------------------------------------------------------------------------


@torch.no_grad()
def midas(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Inverse depth of each picture, near is white (Ranftl et al., arXiv 1907.01341)."""
    depth = net(_tensor(net, pictures) / 127.5 - 1).float()
    depth = depth - depth.amin((1, 2), keepdim=True)
    return _fit(_bytes(depth / depth.amax((1, 2), keepdim=True).clamp_min(1e-12)), height, width)


@torch.no_grad()
def zoe(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Metric depth, near is white, between the 2nd and 85th percentile of each picture (arXiv 2302.12288)."""
    depth = net.infer(_tensor(net, pictures) / 255)[:, 0].float().cpu().numpy()
    near, far = np.percentile(depth, (2, 85), axis=(1, 2), keepdims=True)
    maps = 1 - (depth - near) / np.maximum(far - near, 1e-12)
    return _fit((maps * 255).clip(0, 255).astype(np.uint8), height, width)


@torch.no_grad()
def leres(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Depth of each picture, near is white (Yin et al., arXiv 2012.09365). The pictures are normalised without being
    brought to 0…1 first, as `controlnet_aux` does it and ControlNet's users know its maps."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    feed = (torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2).float() - mean) / std
    maps = []
    for depth in net(feed.to(_device(net)))[:, 0].float().cpu().numpy():
        depth = cv2.resize(depth, pictures.shape[2:0:-1], interpolation=cv2.INTER_CUBIC)
        depth = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-12)
        sixteen_bits = (65535 * depth.astype(np.float64)).astype(np.uint16)
        maps.append(255 - cv2.convertScaleAbs(sixteen_bits, alpha=255 / 65535))
    return _fit(np.stack(maps), height, width)


@torch.no_grad()
def normals(net, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Surface normals as colours (Bae et al., arXiv 2109.09881)."""
    mean, std = (torch.tensor(v, device=_device(net)).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    directions = net((_tensor(net, pictures) / 255 - mean) / std)[0][-1][:, :3]
    return _fit(_bytes((directions + 1) / 2), height, width)


# --- regions --------------------------------------------------------------------------------------------


def segments(generator, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Everything that is one thing in a colour of its own (Segment Anything, arXiv 2304.02643), small things over
    large ones. A colour goes with a thing's rank in size; MuseV draws lots for it in every frame."""
    maps = np.zeros_like(pictures)
    for drawing, picture in zip(maps, pictures, strict=True):
        things = sorted(generator.generate(picture), key=lambda thing: thing["area"], reverse=True)
        for rank, thing in enumerate(things):
            hue = round(rank * SEGMENT_HUE_STEP % 1 * 179)
            colour = cv2.cvtColor(np.uint8([[[hue, 200, 255 - rank % 3 * 60]]]), cv2.COLOR_HSV2RGB)
            drawing[thing["segmentation"]] = colour[0, 0]
    return np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_NEAREST) for m in maps])


# --- loading --------------------------------------------------------------------------------------------


def _network(make: Callable, function: Callable, inner: str = "") -> Callable[[list[Path], str], Detect]:
    """A loader: the network that `make` gives, filled from one file (from its entry `inner`), for `function`."""

    def loader(files: list[Path], device: str) -> Detect:
        network = make()
        _fill(network, files[0], inner)
        return partial(function, network.to(device).eval())

    return loader


def make_hed():
    from controlnet_aux.hed import ControlNetHED_Apache2

    return ControlNetHED_Apache2()


def make_pidi():
    from controlnet_aux.pidi.model import pidinet

    return pidinet()


def make_lineart():
    from controlnet_aux.lineart import Generator

    return Generator(3, 1, 3)


def make_lineart_anime():
    from controlnet_aux.lineart_anime import UnetGenerator

    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)


def make_midas():
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    return DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)


def make_zoe():
    from controlnet_aux.zoe import ZoeDepth, get_config

    return ZoeDepth.build_from_config(get_config("zoedepth", "infer"))


def make_leres():
    from controlnet_aux.leres.leres.multi_depth_model_woauxi import RelDepthModel

    return RelDepthModel(backbone="resnext101").depth_model


def make_normals():
    from types import SimpleNamespace

    from controlnet_aux.normalbae import NNET

    return NNET(SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7))


def _sam(variant: str, files: list[Path], device: str) -> Detect:
    from controlnet_aux.segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    network = sam_model_registry[variant]()
    _fill(network, files[0])
    return partial(segments, SamAutomaticMaskGenerator(network.to(device).eval()))


def _fill(network: torch.nn.Module, path: Path, inner: str = "") -> None:
    """Put a file's tensors into a network. Names may begin with "module.", as training on several GPUs leaves them."""

    def fill(path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state[inner] if inner else state
        state = {
            key.removeprefix("module.").removeprefix("depth_model."): value for key, value in state.items()
        }
        own = network.state_dict().keys()  # timm no longer keeps the index tables that follow from the sizes
        network.load_state_dict(
            {key: v for key, v in state.items() if key in own or not key.endswith("relative_position_index")}
        )

    checked(path, fill)


def checked(path: Path, read: Callable[[Path], object]) -> object:
    """What `read` makes of a file. Raises EngineError, code "bad_model", naming a file that doesn't do."""
    try:
        return read(path)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(
            f"{path} isn't this detector's file", told[0], "Download it again.", code="bad_model"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """`controlnet_aux` warns of packages that aren't needed, and its networks print while they are made."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


DETECTORS: dict[str, Callable[[list[Path], str], Detect]] = {
    "": lambda files, device: plain,
    "CannyDetector": lambda files, device: canny,
    "ContentShuffleDetector": lambda files, device: shuffle,
    "HEDdetector": _network(make_hed, hed),
    "PidiNetDetector": _network(make_pidi, pidi, "state_dict"),
    "LineartDetector": _network(make_lineart, lineart),
    "LineartAnimeDetector": _network(make_lineart_anime, lineart_anime),
    "MidasDetector": _network(make_midas, midas),
    "ZoeDetector": _network(make_zoe, zoe, "model"),
    "LeresDetector": _network(make_leres, leres, "depth_model"),
    "NormalBaeDetector": _network(make_normals, normals, "model"),
    "SamDetector": partial(_sam, "vit_h"),
    "MobileSamDetector": partial(_sam, "vit_t"),
    "OpenposeDetector": lambda files, device: partial(draw_people, openpose(files, device, checked)),
    "DWposeDetector": lambda files, device: partial(draw_people, DWPose(*files, device)),
    "MediapipeFaceDetector": lambda files, device: face_mesh(files[0]),
}


# --- pixels and tensors ---------------------------------------------------------------------------------


def _device(net: torch.nn.Module) -> torch.device:
    return next(net.parameters()).device


def _tensor(net: torch.nn.Module, pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w), 0…255, where the network is."""
    return torch.from_numpy(pictures.copy()).to(_device(net)).permute(0, 3, 1, 2).float()


def _resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _bytes(maps: torch.Tensor) -> np.ndarray:
    """(n, h, w), or (n, 1 or 3, h, w), of 0…1 -> uint8 (n, h, w) or (n, h, w, 3)."""
    maps = maps[:, 0] if maps.ndim == 4 and maps.shape[1] == 1 else maps
    maps = maps.movedim(1, -1) if maps.ndim == 4 else maps
    return (maps * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()


def _fit(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (n, h, w) or (n, h, w, 3) -> (n, height, width, 3)."""
    if maps.shape[1:3] != (height, width):
        maps = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in maps])
    return np.repeat(maps[..., None], 3, axis=-1) if maps.ndim == 3 else maps
