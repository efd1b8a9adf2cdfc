"""The list of characters and its panel: found, added, ordered, points set by hand, saved where it can be."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest
import rigs
from bl_ext.user_default.musev.rig import cast as casting
from bl_ext.user_default.musev.rig import characters, maps, pose
from bl_ext.user_default.musev.rig.skeleton import INDEX
from rigs import camera, figure


@pytest.fixture
def settings(empty_scene):
    return empty_scene.musev


def names(settings) -> list[str]:
    return [item.shown_name for item in settings.people]


def refusal(operator, **options) -> str:
    with pytest.raises(RuntimeError) as caught:
        operator(**options)
    return str(caught.value)


def instancer(scene, rig, name="Crowd"):
    """An empty that shows an instance of a collection with the rig, which the scene does not show itself."""
    group = bpy.data.collections.new(name)
    group.objects.link(rig)
    scene.collection.objects.unlink(rig)
    empty = bpy.data.objects.new(name, None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    scene.collection.objects.link(empty)
    return empty


def test_find_adds_the_known_from_left_to_right_and_names_the_unknown(empty_scene, settings):
    right, left = figure(rigs.UNREAL, "Right"), figure(rigs.mixamo(), "Left")
    right.location.x, left.location.x = 1, -1
    middle = instancer(empty_scene, figure(rigs.VROID, "Extra"))
    prop = figure(rigs.UNREAL, "Crane")
    for bone in prop.data.bones:
        bone.name = "part"
    camera()
    assert bpy.ops.musev.characters_find() == {"FINISHED"}
    assert names(settings) == ["Left", "Extra in Crowd", "Right"]
    bpy.ops.musev.characters_find()  # those that are there already are not added again
    assert len(settings.people) == 3
    middle.name = "Stage"
    assert names(settings)[1] == "Extra in Stage"
    assert [person.name for person in casting.cast(empty_scene).people] == ["Left", "Extra in Stage", "Right"]


def test_a_metarig_is_left_out_where_its_rig_is_there(empty_scene, settings):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    bpy.ops.pose.rigify_generate()
    bpy.ops.musev.characters_find()
    (item,) = settings.people
    assert item.match().map.title == "Rigify generated rig"


def test_selected_rigs_and_the_rigs_of_selected_meshes_are_added(empty_scene, settings):
    rig = figure(rigs.UNREAL, "Dancer")
    body = bpy.data.objects.new("Body", bpy.data.meshes.new("Body"))
    body.modifiers.new("Armature", "ARMATURE").object = rig
    empty_scene.collection.objects.link(body)
    for item in empty_scene.objects:
        item.select_set(item == body)
    bpy.ops.musev.characters_add()
    assert names(settings) == ["Dancer"]
    body.select_set(False)
    assert "None of the 0 selected objects is a rig" in refusal(bpy.ops.musev.characters_add)


def test_the_list_decides_who_is_sent_and_in_which_order(empty_scene, settings):
    one, two = figure(rigs.UNREAL, "One"), figure(rigs.mixamo(), "Two")
    two.location.x = 1
    camera()
    settings.armature = two
    assert [person.name for person in casting.cast(empty_scene).people] == ["Two"]
    characters.add(settings, one)
    characters.add(settings, two)
    assert [person.name for person in casting.cast(empty_scene).people] == ["One", "Two"]
    bpy.ops.musev.characters_move(direction="UP")
    assert [person.name for person in casting.cast(empty_scene).people] == ["Two", "One"]
    bpy.ops.musev.characters_move(direction="UP")  # it is the first already
    assert names(settings) == ["Two", "One"] and settings.people_index == 0
    settings.people[0].use = False
    assert [person.name for person in casting.cast(empty_scene).people] == ["One"]
    settings.people[1].use = False
    with pytest.raises(pose.PoseError, match="No character of the list is used"):
        casting.cast(empty_scene)
    bpy.ops.musev.characters_remove()
    assert names(settings) == ["One"]


def test_a_removed_rig_and_one_too_many_are_refused(empty_scene, settings):
    camera()
    members = [figure(rigs.BVH_JOINTS, f"Extra {number}") for number in range(9)]
    for rig in members:
        characters.add(settings, rig)
    with pytest.raises(pose.PoseError, match="9 characters are used; a clip has at most 8"):
        casting.cast(empty_scene)
    settings.people[0].use = False
    bpy.data.objects.remove(members[3])
    with pytest.raises(pose.PoseError, match="was removed"):
        casting.cast(empty_scene)


def test_characters_of_two_scenes_are_refused(empty_scene, settings):
    camera()
    characters.add(settings, figure(rigs.UNREAL, "Here"))
    away = figure(rigs.UNREAL, "Away")
    empty_scene.collection.objects.unlink(away)
    bpy.data.scenes.new("Else").collection.objects.link(away)
    characters.add(settings, away)
    with pytest.raises(pose.PoseError, match="'Here' is in scene 'Scene' and Away not"):
        casting.cast(empty_scene)


def test_points_set_by_hand_are_saved_with_the_armature(empty_scene, settings, tmp_path):
    rig = figure(rigs.UNREAL, "Dancer")
    camera()
    characters.add(settings, rig)
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.musev.character_set_point(point="left_elbow", bone="spine_03") == {"FINISHED"}
    bpy.ops.musev.character_set_point(point="left_knee")  # starts from where the map has it
    saved = rig.data.musev_rig
    assert {item.name: (item.bone, item.end) for item in saved.overrides} == {
        "left_elbow": ("spine_03", 0.0), "left_knee": ("calf_l", 0.0),
    }  # fmt: skip
    saved.overrides["left_knee"].end, saved.overrides["left_knee"].offset = 0.5, (0.0, 0.0, 0.1)
    (person,) = casting.cast(empty_scene).people
    assert person.bones[person.rows[INDEX["left_elbow"]]] == "spine_03"
    length = rig.data.bones["calf_l"].length
    assert person.offsets[INDEX["left_knee"]] == pytest.approx((0, length / 2, 0.1, 1))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene = bpy.context.scene
    (again,) = casting.cast(scene).people
    assert np.array_equal(again.offsets, person.offsets) and again.bones == person.bones
    bpy.ops.musev.character_unset_point()
    assert "left_knee" not in bpy.data.armatures["Dancer"].musev_rig.overrides
    bpy.ops.musev.character_reset()
    assert not bpy.data.armatures["Dancer"].musev_rig.overrides
    assert "no bone 'tail'" in refusal(bpy.ops.musev.character_set_point, point="left_elbow", bone="tail")


def test_points_by_hand_make_an_unknown_rig_usable(empty_scene, settings):
    rig = figure(rigs.UNREAL, "Dancer")
    called = {}
    for number, bone in enumerate(rig.data.bones):
        called[bone.name], bone.name = f"os {number}", f"os {number}"
    camera()
    item = characters.add(settings, rig)
    with pytest.raises(pose.PoseError, match="0 of 12"):
        item.person()
    for point, (bone, _) in rigs.UNREAL.points().items():
        if point in maps.LIMB_POINTS:
            bpy.ops.musev.character_set_point(point=point, bone=called[bone])
    person = item.person()
    read = pose.keypoints(empty_scene, [person], None, 64, 64, [1])[0, 0]
    assert read[INDEX["left_ankle"], 2] == 1 and read[INDEX["neck"], 2] == 1
    assert read[INDEX["nose"], 2] == 0 and "head" in person.missing


def test_one_undo_step_a_verb(empty_scene, settings):
    figure(rigs.UNREAL, "Dancer")
    camera()
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.musev.characters_find("EXEC_DEFAULT", True)  # True: with its undo step, as from a button
    bpy.ops.musev.character_set_point("EXEC_DEFAULT", True, point="left_elbow", bone="root")
    assert bpy.data.armatures["Dancer"].musev_rig.overrides
    bpy.ops.ed.undo()
    assert not bpy.data.armatures["Dancer"].musev_rig.overrides
    assert len(bpy.context.scene.musev.people) == 1
    bpy.ops.ed.undo()
    assert len(bpy.context.scene.musev.people) == 0


def test_a_linked_rigs_points_are_saved_in_this_file(empty_scene, settings, tmp_path):
    lent = figure(rigs.UNREAL, "Dancer")
    lent.data.musev_rig.overrides.add().name = "left_wrist"
    lent.data.musev_rig.overrides[0].bone = "spine_01"
    path = str(tmp_path / "cast.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    bpy.data.objects.remove(lent)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.objects = ["Dancer"]
    (rig,) = wanted.objects
    empty_scene.collection.objects.link(rig)
    camera()
    item = characters.add(settings, rig)
    assert item.settings == item.rig != rig.data.musev_rig
    bpy.ops.musev.character_set_point(point="left_elbow", bone="spine_02")
    assert [by_hand.name for by_hand in rig.data.musev_rig.overrides] == ["left_wrist"]
    (person,) = casting.cast(empty_scene).people
    assert person.library
    hung = {point: person.bones[person.rows[INDEX[point]]] for point in ("left_wrist", "left_elbow")}
    assert hung == {"left_wrist": "spine_01", "left_elbow": "spine_02"}


def test_a_map_goes_out_and_comes_in_as_json(empty_scene, settings, tmp_path):
    rig, twin = figure(rigs.UNREAL, "Dancer", hands=True), figure(rigs.UNREAL, "Twin", hands=True)
    for armature in (rig, twin):
        armature.data.bones["upperarm_l"].name = "bras gauche"
    camera()
    characters.add(settings, rig)
    bpy.ops.musev.character_set_point(point="left_shoulder", bone="bras gauche")
    path = tmp_path / "map.json"
    bpy.ops.musev.character_export_map(filepath=str(path))
    assert json.loads(path.read_text())["points"]["left_shoulder"][0]["bone"] == "bras gauche"
    characters.add(settings, twin)
    assert "left_shoulder" in settings.people[1].person().missing
    bpy.ops.musev.character_import_map(filepath=str(path))
    one, two = (item.person() for item in settings.people)
    assert one.bones[one.rows[INDEX["left_shoulder"]]] == two.bones[two.rows[INDEX["left_shoulder"]]]
    assert two.map == "Dancer" and twin.data.musev_rig.map == "CUSTOM"
    path.write_text('{"format": "musev.rig_map", "version": 1, "title": "x", "points": {"third_eye": []}}')
    assert "third_eye" in refusal(bpy.ops.musev.character_import_map, filepath=str(path))
    assert "No such file" in refusal(bpy.ops.musev.character_import_map, filepath=str(tmp_path / "none.json"))
    twin.data.musev_rig.custom = "{"  # a file by another hand
    with pytest.raises(maps.MapError, match="not a rig map"):
        casting.cast(empty_scene)


class Paper:
    """A layout that takes every call and keeps what it says."""

    def __init__(self, said):
        self.said = said

    def __getattr__(self, name):
        def call(*args, **options):
            self.said += [str(value) for value in (*args, *options.values())]
            return Paper(self.said)

        return call

    def __setattr__(self, name, value):
        self.__dict__[name] = value


def test_the_panel_tells_what_is_known_and_what_is_left_out(empty_scene, settings):
    from bl_ext.user_default.musev.rig.characters_panel import draw_character, told

    rig = figure(rigs.mixamo(), "Dancer")
    rig.data.bones["mixamorig:LeftFoot"].name = "pied gauche"
    item = characters.add(settings, rig)
    bpy.ops.musev.character_set_point(point="left_hip", bone="root")
    said = []
    draw_character(bpy.context, Paper(said), item)
    text = " ".join(said)
    assert "Mixamo" in text and "left ankle" in text and "left hip" in text and told(item) == "77%"
    for bone in rig.data.bones:
        bone.name = "os"
    said.clear()
    draw_character(bpy.context, Paper(said), item)
    assert "ERROR" in said and told(item) == "unknown"
    rig.data.musev_rig.map, rig.data.musev_rig.custom = "CUSTOM", "{"
    said.clear()
    draw_character(bpy.context, Paper(said), item)
    assert "not a rig map" in " ".join(said) and told(item) == "unreadable"


def test_a_hidden_rig_is_found_by_its_mesh(empty_scene, settings):
    rig = figure(rigs.UNREAL, "Dancer")
    body = bpy.data.objects.new("Body", bpy.data.meshes.new("Body"))
    body.data.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
    body.modifiers.new("Armature", "ARMATURE").object = rig
    empty_scene.collection.objects.link(body)
    camera()
    rig.hide_viewport = True
    bpy.ops.musev.characters_find()
    assert names(settings) == ["Dancer"]
    (person,) = casting.cast(empty_scene).people
    assert pose.keypoints(empty_scene, [person], None, 64, 64, [1])[0, 0, INDEX["left_wrist"], 2] == 1
