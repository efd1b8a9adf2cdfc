"""Finding people: DWPose's arithmetic around its two networks, with networks whose answers are known."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from musev_engine import dwpose
from musev_engine.control import preprocess
from musev_engine.drawing import draw_poses
from musev_engine.dwpose import DWPose, cut_person, letterbox, people_boxes, people_of, simcc_points
from musev_engine.errors import EngineError

CELLS = [(x, y, s) for s in (8, 16, 32) for y in range(640 // s) for x in range(640 // s)]


def yolox_rows(*boxes: tuple[float, ...]) -> np.ndarray:
    """YOLOX's raw output in which each box (x0, y0, x1, y1, person's score, objectness) stands in the cell of its
    centre on the finest grid."""
    rows = np.zeros((8400, 85), np.float32)
    for x0, y0, x1, y1, score, objectness in boxes:
        centre, size = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0])
        cell = (int(centre[0] // 8), int(centre[1] // 8))
        row = rows[cell[1] * 80 + cell[0]]
        row[:2], row[2:4], row[4], row[5] = centre / 8 - cell, np.log(size / 8), objectness, score
    return rows


def simcc_of(points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distributions that peak at points (n, 133, 2) of the cut."""
    rows = np.arange(133)
    x, y = np.zeros((len(points), 133, 576), np.float32), np.zeros((len(points), 133, 768), np.float32)
    for person, (at, sure) in enumerate(zip(points, scores, strict=True)):
        x[person, rows, np.round(at[:, 0] * 2).astype(int)] = sure
        y[person, rows, np.round(at[:, 1] * 2).astype(int)] = sure
    return x, y


def test_a_box_comes_back_from_yoloxs_grid():
    boxes = people_boxes(yolox_rows((100, 50, 300, 600, 0.9, 0.9)))
    assert np.allclose(boxes, [[100, 50, 300, 600]], atol=1e-2)


def test_each_grid_has_its_own_stride():
    rows = np.zeros((8400, 85), np.float32)
    for index in (0, 6400 + 41, 8000 + 21):
        rows[index, 4:6] = 1
    centres = {tuple(np.round((box[:2] + box[2:]) / 2)) for box in people_boxes(rows)}
    assert centres == {tuple(np.array(CELLS[i][:2]) * CELLS[i][2]) for i in (0, 6441, 8021)}


def test_unsure_boxes_and_the_same_person_twice_are_left_out():
    boxes = people_boxes(
        yolox_rows(
            (100, 50, 300, 600, 0.9, 0.9),
            (112, 60, 308, 600, 0.8, 0.9),  # the same
            (400, 50, 600, 600, 0.95, 0.95),  # somebody else, surer
            (10, 10, 60, 60, 0.5, 0.5),  # perhaps
        )
    )
    assert np.allclose(boxes, [[400, 50, 600, 600], [100, 50, 300, 600]], atol=1e-2)


def test_the_detector_sees_the_whole_picture_in_its_corner():
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[..., 0] = 200  # red
    squared, scale = letterbox(frame)
    assert squared.shape == (3, 640, 640) and scale == 3.2
    assert (squared[2, :320] == 200).all() and (squared[0, :320] == 0).all()  # blue comes first
    assert (squared[:, 320:] == 114).all()


def test_a_cut_knows_where_its_points_lie():
    frame = np.zeros((300, 400, 3), np.uint8)
    frame[150, 100] = 255
    cut, (zoom, offset) = cut_person(frame, np.array([50.0, 100.0, 150.0, 250.0]))
    assert cut.shape == (3, 384, 288)
    row, column = np.unravel_index(cut[0].argmax(), cut[0].shape)
    assert np.allclose((np.array([column, row]) - offset) / zoom, (100, 150), atol=1)
    mean = (np.zeros(3) - dwpose.MEAN) / np.float32(dwpose.STD)
    assert np.allclose(cut[:, 0, 0], mean, atol=1e-5)


def test_a_points_score_is_the_smaller_peak():
    x, y = simcc_of(np.full((1, 133, 2), 100.5), np.full((1, 133), 0.8))
    y[0, 3] /= 2
    points = simcc_points(x, y)
    assert np.allclose(points[0, :, :2], 100.5)
    assert np.allclose(points[0, [0, 3], 2], (0.8, 0.4))


def test_coco_whole_body_becomes_openposes_order():
    names = (
        "nose l_eye r_eye l_ear r_ear l_sho r_sho l_elb r_elb l_wri r_wri l_hip r_hip l_kne r_kne l_ank r_ank"
    )
    wanted = "nose - r_sho r_elb r_wri l_sho l_elb l_wri r_hip r_kne r_ank l_hip l_kne l_ank r_eye l_eye r_ear l_ear"
    points = np.arange(133, dtype=np.float32)[None, :, None] * (1, 1, 0) + (0, 0, 1)
    points[0, 5, 2] = 0.2  # one shoulder is hidden
    bodies, hands, faces = people_of(points.astype(np.float32))
    at = {name: index for index, name in enumerate(names.split())}
    for index, name in enumerate(wanted.split()):
        if name != "-":
            assert bodies[0, index, 0] == at[name]
    assert np.allclose(bodies[0, 1], (5.5, 5.5, 0.2))
    assert hands[0, 0, :, 0].tolist() == list(range(91, 112))
    assert hands[0, 1, :, 0].tolist() == list(range(112, 133))
    assert faces[0, :, 0].tolist() == list(range(23, 91))


def write_constant(path, inputs: str, shape: list, outputs: dict[str, np.ndarray], per_row: bool) -> None:
    """An ONNX file that answers every picture with the same values: its input × 0, summed, added to them."""
    nodes = [
        helper.make_node("ReduceMax", [inputs, "axes"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "column"], ["rows"]),
    ]
    given = {"axes": np.array([1, 2, 3]), "zero": np.float32(0), "column": np.array([-1, 1, 1])} | outputs
    named = [(f"{name}_out", value) for name, value in outputs.items()]
    nodes += [helper.make_node("Add", ["rows", name], [f"{name}_out"]) for name in outputs]
    batch = "batch" if per_row else 1
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, [batch, *shape])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *value.shape[1:]])
            for name, value in named
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture
def files(tmp_path):
    """Two networks that see one standing person in the left half of a 64×128 picture, hands, face and all."""
    random = np.random.default_rng(0)
    box = np.array([8, 4, 56, 60]) * 5.0  # the detector sees the picture five times as large
    points = random.uniform(40, 240, (1, 133, 2))
    scores = np.full((1, 133), 0.9)
    scores[0, 10] = 0.1  # the right wrist is hidden
    simcc_x, simcc_y = simcc_of(points, scores)
    yolox, pose = tmp_path / "yolox_l.onnx", tmp_path / "dw-ll_ucoco_384.onnx"
    write_constant(yolox, "images", [3, 640, 640], {"output": yolox_rows((*box, 0.9, 0.9))[None]}, False)
    write_constant(pose, "input", [3, 384, 288], {"simcc_x": simcc_x, "simcc_y": simcc_y}, True)
    return yolox, pose, np.round(points[0] * 2) / 2


def test_points_are_found_where_the_networks_say(files):
    yolox, pose, points = files
    bodies, hands, faces = DWPose(yolox, pose)(np.zeros((64, 128, 3), np.uint8))
    assert bodies.shape == (1, 18, 3) and hands.shape == (1, 2, 21, 3) and faces.shape == (1, 68, 3)
    zoom = min(288 / (48 * 1.25), 384 / (56 * 1.25))
    offset = np.array([144, 192]) - np.array([32, 32]) * zoom
    assert np.allclose(bodies[0, 0, :2], (points[0] - offset) / zoom + 0.5, atol=0.02)
    assert bodies[0, 4, 2] == 0 and bodies[0, 7, 2] == 1  # in full or not at all


@pytest.mark.parametrize(
    ("name", "colours"),
    [
        ("dwpose", {"body", "hand", "face"}), ("dwpose_face", {"face"}), ("dwpose_hand", {"hand"}),
        ("dwpose_body", {"body"}), ("dwpose_body_hand", {"body", "hand"}),
    ],
)  # fmt: skip
def test_each_name_draws_its_parts_of_what_was_found(name, colours, files, monkeypatch):
    yolox, pose, _ = files
    monkeypatch.setattr(
        "musev_engine.registry.find_file", lambda id, name: yolox if "yolox" in name else pose
    )
    from musev_engine import control, detectors

    monkeypatch.setattr(control, "_CACHE", control.Cache())
    detectors.load.cache_clear()
    frames = np.zeros((2, 64, 128, 3), np.uint8)
    made = preprocess(name, frames)
    detectors.load.cache_clear()
    assert made.shape == frames.shape and np.array_equal(made[0], made[1])
    bodies, hands, faces = (points[None] for points in DWPose(yolox, pose)(frames[0]))
    shown = bodies if "body" in colours else bodies * (1, 1, 0)
    wanted = draw_poses(
        shown, 128, 64, hands if "hand" in colours else None, faces if "face" in colours else None
    )
    assert wanted.any() and np.array_equal(made[:1], wanted)


def test_people_brought_to_a_still_that_shows_the_same_are_drawn_where_they_were(files, monkeypatch):
    yolox, pose, _ = files
    monkeypatch.setattr(
        "musev_engine.registry.find_file", lambda id, name: yolox if "yolox" in name else pose
    )
    from musev_engine import detectors
    from musev_engine.control import CONTROLS

    detectors.load.cache_clear()
    frames = np.zeros((2, 64, 128, 3), np.uint8)
    plain = CONTROLS["dwpose_body_hand"](frames)
    aligned, still = CONTROLS["dwpose_body_hand"].aligned(frames, frames[0])
    detectors.load.cache_clear()
    assert aligned.shape == frames.shape and still.shape == frames.shape[1:]
    assert plain.any() and np.abs(plain.astype(int) - aligned).max() <= 2
    assert np.array_equal(still, plain[0])
    with pytest.raises(EngineError, match="Posealign is for poses"):
        CONTROLS["canny"].aligned(frames, frames[0])


def test_a_picture_without_people_is_read_as_a_close_up(files, tmp_path):
    _, pose, _ = files
    empty = tmp_path / "empty.onnx"
    write_constant(empty, "images", [3, 640, 640], {"output": np.zeros((1, 8400, 85), np.float32)}, False)
    bodies, _, _ = DWPose(empty, pose)(np.zeros((64, 128, 3), np.uint8))
    assert bodies.shape == (1, 18, 3) and np.ptp(bodies[0, :, 0]) > 30  # the whole width is a person's


def test_a_file_that_is_no_network_is_named(tmp_path):
    path = tmp_path / "yolox_l.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"yolox_l.onnx can't be read"):
        DWPose(path, path)
