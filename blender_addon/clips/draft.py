"""Draft and final: a quick look, smaller and in few steps, that begins with the noise of the clip it is a draft of."""

from __future__ import annotations

import dataclasses

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty

from ..protocol import MIN_SIZE, SIZE_STEP, ClipRequest

KEY = "draft"  # in what a job tells of itself, and so in `take.json`: the final's size and steps


class MusevDraftSettings(bpy.types.PropertyGroup):
    use: BoolProperty(
        name="Draft",
        description="Make a smaller clip in fewer steps, to see soon what comes; Make Final then makes it whole",
    )
    share: FloatProperty(
        name="Size", description="How wide and high it is, as a share of the clip", default=0.5, min=0.25, max=1.0,
        subtype="FACTOR",
    )  # fmt: skip
    steps: IntProperty(
        name="Steps",
        description="Steps in which the draft is made; never more than the clip's",
        default=4,
        min=1,
        max=200,
    )


def side(pixels: int, share: float) -> int:
    """A draft's width or height: what is nearest of those that the engine takes."""
    return min(pixels, max(MIN_SIZE, round(pixels * share / SIZE_STEP) * SIZE_STEP))


def size(of, settings: MusevDraftSettings) -> tuple[int, int]:
    """The width and height of the draft of a clip; of: whatever has its width and height."""
    return side(of.width, settings.share), side(of.height, settings.share)


def of(request: ClipRequest, settings: MusevDraftSettings) -> ClipRequest:
    """The draft of a clip. Its inputs stay those of the whole one."""
    width, height = size(request, settings)
    return dataclasses.replace(
        request, width=width, height=height,
        num_inference_steps=min(settings.steps, request.num_inference_steps),
        noise_width=request.width, noise_height=request.height,
    )  # fmt: skip


def final(request: ClipRequest, told: dict) -> ClipRequest:
    """The clip that this was a draft of. Raises ProtocolError."""
    return dataclasses.replace(
        request, width=told.get("width"), height=told.get("height"),
        num_inference_steps=told.get("steps"), noise_width=None, noise_height=None,
    )  # fmt: skip


register, unregister = bpy.utils.register_classes_factory((MusevDraftSettings,))
