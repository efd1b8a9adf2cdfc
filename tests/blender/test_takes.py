"""Takes on disk: whole files or none, new folders, clear words."""

from __future__ import annotations

import errno
import os

import pytest
from bl_ext.user_default.musev.clips import takes


def test_every_take_is_a_new_folder(tmp_path):
    made = [takes.new_take(tmp_path, "Dancer").name for _ in range(3)]
    (tmp_path / "Dancer" / "take_002").rmdir()
    assert made == ["take_001", "take_002", "take_003"]
    assert takes.new_take(tmp_path, "Dancer").name == "take_004"  # a removed number does not come again


@pytest.mark.parametrize(
    ("text", "name"),
    [("a dancer, in the rain!", "a_dancer_in_the_rain"), ("../../etc", "etc"), ("C:\\x", "C_x"),
     ("", "clip"), ("..", "clip"), ("Tänzerin 雨", "Tänzerin_雨"), ("x" * 90, "x" * 40),
     ("Aux!", "Aux_"), ("auxiliary", "auxiliary")],
)  # fmt: skip
def test_clip_names_stay_inside_their_folder(text, name):
    assert takes.clip_name(text) == name


def test_a_sidecar_reads_back(tmp_path):
    takes.write_sidecar(tmp_path, {"prompt": "雨", "seed": 3})
    assert takes.read_sidecar(tmp_path) == {"prompt": "雨", "seed": 3}
    (tmp_path / "take.json").write_text("[1]")
    with pytest.raises(takes.TakeError, match="no JSON object"):
        takes.read_sidecar(tmp_path)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "The disk is full: .*0001.png"), (errno.EACCES, "No right to write .*0001.png"),
     (errno.EIO, "0001.png can't be written")],
)  # fmt: skip
def test_what_can_not_be_written_is_not_there(tmp_path, monkeypatch, number, words):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(takes.os, "replace", refuse)
    with pytest.raises(takes.TakeError, match=words):
        takes.write_frame(tmp_path, 0, b"png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_really_full_device_is_told(tmp_path):
    (tmp_path / "0001.png.part").symlink_to("/dev/full")
    with pytest.raises(takes.TakeError, match="The disk is full"):
        takes.write_frame(tmp_path, 0, b"png" * 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_became_read_only_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(takes, "open", refuse, raising=False)
    monkeypatch.setattr(takes.Path, "unlink", refuse)  # so does Linux, whether the file is there or not
    with pytest.raises(takes.TakeError, match=r"No right to write .*0001\.png \(Read-only file system\)"):
        takes.write_frame(tmp_path, 0, b"png")


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "Dancer").write_text("a file")
    with pytest.raises(takes.TakeError, match="can't be written"):
        takes.new_take(tmp_path, "Dancer")


def test_discard_removes_only_what_is_ours(tmp_path):
    ours, shared = takes.new_take(tmp_path, "a"), takes.new_take(tmp_path, "b")
    (shared / "notes.txt").write_text("mine")
    for take in (ours, shared):
        takes.write_frame(take, 0, b"png")
        takes.write_sidecar(take, {})
        takes.discard(take)
    assert not ours.exists()
    assert [path.name for path in shared.iterdir()] == ["notes.txt"]


def test_a_file_in_slices_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(takes, "SLICE_BYTES", 3)
    path = tmp_path / "file"
    slices = takes.writing(path, b"abcdefgh")
    assert [next(slices), next(slices)] == [None, None] and not path.exists()
    slices.close()
    assert list(tmp_path.iterdir()) == []
    assert len(list(takes.writing(path, b"abcdefgh"))) == 2 and path.read_bytes() == b"abcdefgh"
    takes.write_whole(path, b"")
    assert path.read_bytes() == b"" and list(tmp_path.iterdir()) == [path]
