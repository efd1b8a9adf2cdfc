"""A face as the numbers that IP-Adapter FaceID reads: found in a picture by some face recogniser, or from a file.

`FaceEmbedder` is all that is asked of one. `InsightFaces` is there where the package `insightface` is installed,
which isn't part of this engine: its models (buffalo_l) are for research that isn't commercial.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from musev_engine import known_models, registry
from musev_engine.checkpoints import bad_model, open_weights, read_all
from musev_engine.errors import EngineError
from musev_engine.kinds import SUFFIXES

MAX_FACES = 64


class FaceEmbedder(Protocol):
    """uint8 (h, w, 3), sRGB -> float32 (e,), of unit length: the picture's first face.

    Raises EngineError where there is none.
    """

    def __call__(self, picture: np.ndarray) -> np.ndarray: ...


class InsightFaces:
    """InsightFace's recogniser (https://github.com/deepinsight/insightface), 512 numbers, as FaceID was trained with.

    root: the folder that holds `models/buffalo_l`; None: InsightFace's own, ~/.insightface, else the models folder's.
    It is imported when the first face is asked for.
    """

    def __init__(self, root: Path | None = None, name: str = "buffalo_l", size: int = 640):
        self._root, self._name, self._size = root, name, size

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        faces = self._recogniser.get(np.ascontiguousarray(picture[..., ::-1]))  # it reads blue first
        if not faces:
            raise EngineError("No face was found in the picture", f"{picture.shape[1]}x{picture.shape[0]} pixels",
                              "Give a picture in which the face is larger and seen from the front.")  # fmt: skip
        return np.asarray(faces[0].normed_embedding, np.float32)

    @cached_property
    def _recogniser(self) -> Any:
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise EngineError(
                "FaceID needs the package insightface, or the face's embedding as a file",
                error,
                "Run: pip install insightface onnxruntime",
                code="missing_package",
            ) from error
        recogniser = FaceAnalysis(
            self._name, str(self._place()), allowed_modules=["detection", "recognition"]
        )
        recogniser.prepare(ctx_id=0, det_size=(self._size, self._size))
        return recogniser

    def _place(self) -> Path:
        """The folder that holds `models/NAME`; without the models, InsightFace would go and download them unasked."""
        own = Path.home() / ".insightface"
        root = self._root or own
        if any((root / "models" / self._name).glob("*.onnx")):
            return root
        if self._root is not None or self._name not in known_models.known():
            raise EngineError(
                "InsightFace's models aren't there",
                root / "models" / self._name,
                f"Put the models of {self._name} there; their licence allows no commercial use.",
                code="missing_model",
            )
        return registry.find(self._name).parents[1]


def read_faces(path: Path, width: int = 512) -> np.ndarray:
    """Embeddings of faces from a file, float32 (n, width): `.npy` (never a pickle), or one tensor in a `.safetensors`
    or PyTorch file. Raises EngineError, code "bad_model", for anything else."""
    if path.suffix in SUFFIXES:
        weights = open_weights(path)
        if len(weights) != 1:
            raise bad_model(f"{path} holds {len(weights)} tensors", ", ".join(list(weights)[:5]), "Give one.")
        ((key, stored),) = weights.items()
        _check_shape(path, stored.shape, width)
        array = read_all({key: stored})[key].float().numpy()
    else:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise bad_model(f"{path} can't be read", error, "Save the embedding with numpy.save.") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise bad_model(
                f"{path} holds no array of numbers", type(array).__name__, "Save it with numpy.save."
            )
        _check_shape(path, array.shape, width)
        array = np.asarray(array, np.float32)
    if not np.isfinite(array).all() or not array.any():
        raise bad_model(f"{path} holds no face", "zeros, or numbers that aren't finite", "Make it anew.")
    return array.reshape(-1, width)


def _check_shape(path: Path, shape: tuple[int, ...], width: int) -> None:
    if len(shape) not in (1, 2) or shape[-1] != width or not 1 <= int(np.prod(shape[:-1])) <= MAX_FACES:
        raise bad_model(
            f"{path} holds no embeddings of faces",
            f"shape {tuple(shape)}",
            f"Give ({width},), or (n, {width}) with n to {MAX_FACES}.",
        )
