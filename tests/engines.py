"""Engines that can be read, in place of networks: what the worker process runs in the tests of the wire."""

import os
import struct
import zlib
from threading import Event

from blender_addon.protocol import Done, FrameReady, Preview, Progress


def by_prompt(job, request, read_blob, previews):
    """The engine that the prompt names."""
    made = {
        "paint": paint,
        "crash": crash,
        "endless": endless,
        "loads for ever": loads_for_ever,
        "mute": mute,
        "lazy": lazy,
        "slowly": slowly,
        "no memory": no_memory,
        "full disk": full_disk,
    }[request.prompt](job, request, read_blob)
    return (message for message in made if previews or not isinstance(message, Preview))


def paint(job, request, read_blob):
    """Each frame one grey, by its number and the length of the inputs."""
    brightness = sum(len(read_blob(sha256)) for sha256 in request.blobs)
    for frame in range(request.num_frames):
        yield Progress(job, "denoise", frame, request.num_frames)
        yield FrameReady(job, frame, grey_png(request.width, request.height, (brightness + frame) % 256))
    yield Done(job, request.num_frames, device="cpu")


def crash(job, request, read_blob):
    yield FrameReady(job, 0, grey_png(request.width, request.height, 0))
    os._exit(7)


def endless(job, request, read_blob):
    """Shows a preview of the first frame, and then never gets any further."""
    yield Preview(job, 0, 0, grey_png(request.width, request.height, 0))
    while True:
        yield Progress(job, "denoise", 1, 2)
        Event().wait(0.005)


def loads_for_ever(job, request, read_blob):
    """Loads a model that never is there, and hears nothing meanwhile."""
    yield Progress(job, "load", 0, 1)
    Event().wait()


def mute(job, request, read_blob):
    """Stops without a word."""
    yield Progress(job, "denoise", 0, 1)


def lazy(job, request, read_blob):
    """Says it is done, with a frame too few."""
    for frame in range(request.num_frames - 1):
        yield FrameReady(job, frame, grey_png(request.width, request.height, 0))
    yield Done(job, request.num_frames)


def slowly(job, request, read_blob):
    """As `paint`, through all phases, with time to be killed in each."""
    for phase, count in (("load", 2), ("prepare", 2), ("denoise", 4)):
        for step in range(count):
            yield Progress(job, phase, step, count)
            Event().wait(0.01)
    for message in paint(job, request, read_blob):
        yield message
        Event().wait(0.01)


def no_memory(job, request, read_blob):
    yield Progress(job, "denoise", 0, 1)
    raise MemoryError("could not allocate 99 GB")


def full_disk(job, request, read_blob):
    yield Progress(job, "denoise", 0, 1)
    raise OSError(28, "No space left on device", "latents.tmp")


def grey_png(width, height, brightness):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([brightness]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
