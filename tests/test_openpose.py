"""OpenPose's bodies, hands and faces and MediaPipe's face mesh, with networks whose answers are known."""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from musev_engine import control, detectors, people
from musev_engine.control import Cache, preprocess
from musev_engine.drawing import draw_poses
from musev_engine.errors import EngineError
from musev_engine.people import OpenPose
from tests.test_drawing import person

SIDE = 256
PICTURE = np.zeros((SIDE, SIDE, 3), np.uint8)
SEEN_HAND = np.arange(21) != 20  # the little finger's tip is hidden
SEEN_FACE = np.arange(70) >= 5


class Body:
    """OpenPose's body network, as far as `OpenPose` calls it: one person, whose right wrist is hidden."""

    def to(self, device):
        return self

    def __call__(self, bgr):
        return None, None

    def format_body_result(self, candidate, subset):
        from controlnet_aux.open_pose.body import BodyResult, Keypoint

        points = [Keypoint(float(x), float(y)) for x, y in person(2)[:, :2]]
        points[4] = None
        return [BodyResult(points, 1.0, 17)]


def hills(places: np.ndarray, seen: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """(n, rows, columns): a hill for each place (x, y in 0…1) that is seen, its top at 1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    far = torch.stack([(x - px) ** 2 + (y - py) ** 2 for px, py in places])
    return torch.exp(-far / (2 * 0.06**2)) * torch.from_numpy(seen)[:, None, None]


class HandNet(torch.nn.Module):
    """Sees a hand's points at the same places of whatever square it is shown."""

    places = np.random.default_rng(1).uniform(0.2, 0.8, (21, 2))

    def __init__(self):
        super().__init__()
        self.somewhere = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        rows, columns = (side // 8 for side in pictures.shape[2:])
        maps = hills(self.places, SEEN_HAND, rows, columns)
        return torch.cat([maps, 1 - maps.amax(0, keepdim=True)])[None].float()


class FaceNet(HandNet):
    places = np.random.default_rng(2).uniform(0.2, 0.8, (70, 2))

    def forward(self, pictures):
        maps = hills(self.places, SEEN_FACE, 96, 96)
        return [torch.cat([maps, 1 - maps.amax(0, keepdim=True)])[None].float()]


def parts() -> tuple:
    """`controlnet_aux`'s own Hand and Face around these networks."""
    from controlnet_aux.open_pose import Face, Hand

    hand, face = Hand.__new__(Hand), Face.__new__(Face)
    hand.model, face.model = HandNet().eval(), FaceNet().eval()
    return hand, face


@pytest.fixture(scope="module")
def found() -> people.People:
    return OpenPose(Body(), *parts(), "cpu")(PICTURE)


def test_bodies_are_found_where_the_network_says(found):
    assert np.allclose(found.bodies[0, 3], (*(person(2)[3, :2] + 0.5), 1)) and found.bodies[0, 4, 2] == 0
    alone = OpenPose(Body(), None, None, "cpu")(PICTURE)
    assert np.array_equal(alone.bodies, found.bodies) and not alone.hands.any() and not alone.faces.any()


def test_a_hand_is_found_at_the_end_of_its_arm(found):
    from controlnet_aux.open_pose.util import handDetect

    ((x, y, side, is_left),) = handDetect(Body().format_body_result(None, None)[0], PICTURE)
    assert is_left  # the right wrist is hidden, so that nobody looks for that hand
    left, right = found.hands[0]
    assert not right.any() and np.array_equal(left[:, 2] > 0, SEEN_HAND)
    wanted = HandNet.places * side + (x + 0.5, y + 0.5)
    assert np.abs(left[SEEN_HAND, :2] - wanted[SEEN_HAND]).max() < 0.04 * side


def test_a_face_is_found_around_the_nose(found):
    from controlnet_aux.open_pose.util import faceDetect

    x, y, side = faceDetect(Body().format_body_result(None, None)[0], PICTURE)
    (face,) = found.faces
    assert np.array_equal(face[:, 2] > 0, SEEN_FACE)
    wanted = FaceNet.places * (side - 1) + (x + 0.5, y + 0.5)
    assert np.abs(face[SEEN_FACE, :2] - wanted[SEEN_FACE]).max() < 1.01


def test_hands_and_faces_are_controlnet_auxs(found):
    from controlnet_aux.open_pose import OpenposeDetector

    (theirs,) = OpenposeDetector(Body(), *parts()).detect_poses(PICTURE, include_hand=True, include_face=True)
    hand = np.array([(point.x, point.y) for point in theirs.left_hand]) * SIDE + 0.5
    assert np.allclose(found.hands[0, 0, SEEN_HAND, :2], hand[SEEN_HAND], atol=1e-3)
    # Without those that aren't seen.
    face = np.array([(point.x, point.y) for point in theirs.face]) * SIDE + 0.5
    assert np.allclose(found.faces[0, SEEN_FACE, :2], face[: SEEN_FACE.sum()], atol=1e-3)
    assert theirs.right_hand is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pose", "body"), ("pose_body", "body"), ("pose_hand", "hand"), ("pose_face", "face"),
        ("pose_hand_body", "hand body"), ("pose_hand_face", "hand face"),
    ],
)  # fmt: skip
def test_each_name_draws_its_parts(name, shown, found, monkeypatch):
    def load(files, device):
        hand, face = parts()
        named = {path.stem for path in files}
        assert "body_pose_model" in named
        nets = (hand if "hand_pose_model" in named else None, face if "facenet" in named else None)
        return partial(people.draw_people, OpenPose(Body(), *nets, device))

    monkeypatch.setitem(detectors.DETECTORS, "OpenposeDetector", load)
    monkeypatch.setattr("musev_engine.registry.find_file", lambda id, file: Path(file))
    detectors.load.cache_clear()
    (made,) = preprocess(name, PICTURE[None], cache=Cache())
    detectors.load.cache_clear()
    bodies = found.bodies if "body" in shown else found.bodies * (1, 1, 0)
    hands, faces = (found.hands if "hand" in shown else None), (found.faces if "face" in shown else None)
    wanted = draw_poses(
        bodies[None], SIDE, SIDE, *(part if part is None else part[None] for part in (hands, faces))
    )
    assert wanted.any() and np.array_equal(made, wanted[0])


# --- MediaPipe's face mesh ----------------------------------------------------------------------------------


def test_face_outlines_lie_where_the_points_are():
    corner = np.array([[[0.25, 0.25], [0.75, 0.25]], [[0.75, 0.25], [0.75, 0.75]]])
    dot = np.array([[[0.25, 0.75], [0.25, 0.75]]])
    made = people.draw_face_meshes(
        lambda picture: [(corner, (10, 200, 10), 2), (dot, (250, 200, 10), 4)],
        np.zeros((1, 64, 64, 3)),
        512,
        512,
    )[0]
    assert made.shape == (512, 512, 3)
    assert made[128, 256, 1] > 90 and made[256, 384, 1] > 90
    assert not made[160:, :120].any() and not made[400:, 200:].any()
    assert tuple(made[384, 128]) == (250, 200, 10)
    width = (made[:, 256, 1] > 90).sum()
    assert 2 <= width < (made[:, 128, 0] > 125).sum() <= 6


@pytest.fixture
def mediapipe(monkeypatch, tmp_path):
    """The package, as far as `face_mesh` calls it, which sees one face in every picture that isn't black; and its file.
    All of its points lie in the middle, but for those that tell the outline, an eye and the pupils."""
    points = np.full((478, 2), 0.5)
    points[[10, 338]] = (0.1, 0.1), (0.9, 0.1)
    points[[263, 249]] = (0.6, 0.4), (0.8, 0.4)
    points[[468, 473]] = (0.3, 0.7), (0.7, 0.7)
    asked = []

    class FaceLandmarker:
        @classmethod
        def create_from_options(cls, options):
            asked.append(options)
            if not Path(options.base_options.model_asset_path).read_bytes():
                raise RuntimeError("Unable to open zip archive.")
            return cls()

        def detect(self, image):
            faces = [[SimpleNamespace(x=x, y=y) for x, y in points]] if image.pixels.any() else []
            return SimpleNamespace(face_landmarks=faces)

    def line(*ends):
        return [SimpleNamespace(start=ends[0], end=ends[1])] if ends else []

    connections = SimpleNamespace(
        FACE_LANDMARKS_FACE_OVAL=line(10, 338), FACE_LANDMARKS_LEFT_EYE=line(263, 249),
        **{f"FACE_LANDMARKS_{part}": line(0, 1)
           for part in ("LEFT_EYEBROW", "RIGHT_EYE", "RIGHT_EYEBROW", "LIPS")},
    )  # fmt: skip
    package, tasks, python = (ModuleType(name) for name in ("mediapipe", "tasks", "python"))
    package.Image = lambda kind, pixels: SimpleNamespace(pixels=pixels)
    package.ImageFormat = SimpleNamespace(SRGB=1)
    python.BaseOptions = lambda **given: SimpleNamespace(**given)
    python.vision = SimpleNamespace(
        FaceLandmarksConnections=connections, FaceLandmarker=FaceLandmarker,
        FaceLandmarkerOptions=lambda **given: SimpleNamespace(**given),
    )  # fmt: skip
    for name, module in (
        ("mediapipe", package),
        ("mediapipe.tasks", tasks),
        ("mediapipe.tasks.python", python),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path))
    path = tmp_path / "annotators" / "face_landmarker.task"
    path.parent.mkdir()
    path.write_bytes(b"a network")
    monkeypatch.setattr(control, "_CACHE", Cache())
    detectors.load.cache_clear()
    yield SimpleNamespace(path=path, asked=asked)
    detectors.load.cache_clear()


def test_a_face_is_drawn_with_eyes_and_pupils_and_nobody_leaves_black(mediapipe):
    frames = np.zeros((2, 512, 512, 3), np.uint8)
    frames[0] = 128
    face, nobody = preprocess("face_detector", frames)
    assert not nobody.any()
    assert tuple(face[51, 256]) == (10, 200, 10) and tuple(face[204, 358]) == (10, 200, 180)
    assert tuple(face[358, 153]) == (250, 200, 10) and tuple(face[358, 358]) == (10, 200, 250)
    assert mediapipe.asked[0].num_faces == 4 and len(mediapipe.asked) == 1


def test_a_damaged_file_of_mediapipes_is_told(mediapipe, tmp_path):
    (tmp_path / "other.task").write_bytes(b"")
    with pytest.raises(EngineError, match=r"other.task isn't this detector's file.*zip"):
        people.face_mesh(tmp_path / "other.task")


def test_a_missing_package_is_told_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(EngineError, match=r"needs the package mediapipe.*pip install") as told:
        people.face_mesh(tmp_path)
    assert told.value.code == "missing_model"
