"""The one place where exceptions become what people are told. Standard library only, with the protocol."""

from __future__ import annotations

import errno

from blender_addon.protocol import Problem

LONGEST = 1000  # letters of what an exception says


def problem_of(error: BaseException) -> Problem:
    """What an exception means to the artist."""
    name, text = type(error).__name__, sayable(error)
    if {"code", "message", "value", "remedy"} <= set(dir(error)):
        return Problem(error.code, sayable(error.message), sayable(error.value), sayable(error.remedy))
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text:
        remedy = "Use a smaller size or fewer context_frames, or close other programs."
        return Problem("out_of_memory", "There is not enough memory for this clip", text, remedy)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (name == "OperationalError" and "full" in text):  # the latter is SQLite's
        remedy = "Free some space, or move the engine's state folder (--state-dir); then generate again."
        return Problem(
            "disk_full",
            "The engine's disk is full",
            sayable(getattr(error, "filename", None) or text),
            remedy,
        )
    if isinstance(error, OSError):
        return Problem(
            "file_error",
            f"The engine could not use a file: {text}",
            sayable(error.filename or ""),
            "See that it is there and may be read.",
        )
    if isinstance(error, ValueError):
        return Problem(
            "bad_request", "The engine does not take this request", text, "Change it and try again."
        )
    return Problem(
        "engine_error", f"The engine failed: {name}: {text}", "", "Report this, with the engine's log."
    )


def sayable(value: object) -> str:
    """A text that a Problem takes: not endless, and Unicode, which names of files need not be."""
    return str(value).encode(errors="replace").decode()[:LONGEST]
