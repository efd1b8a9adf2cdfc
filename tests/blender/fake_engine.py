"""A small engine for the extension's tests: real sockets and the real protocol, pictures of one colour each.

    MUSEV_TOKEN=… python fake_engine.py [--do BEHAVIOUR] [--parent-pid PID]

Frame k is `colour(k)` all over. Behaviours: "work"; "wait" (never ends a clip by itself); "fail" after two frames;
"fail_some": the same where the prompt has that word; "drop" the connection once, after two frames; "short": says it
is done one frame early; "wrong_size"; "old": speaks another protocol version; "mute": ends without a greeting;
"offline": downloads no models; "queue": one clip after the other, none of which ends by itself; "pause": goes on
after two frames once a client has come back; "tight": has 2 GiB of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import struct
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from websockets.asyncio.server import ServerConnection, serve

from blender_addon import protocol as p

MINI = p.ModelInfo("mini", "free", True, 128, 128, 0)
ABSENT = p.ModelInfo("absent", "free", False, 128, 128, 0)


def shelf() -> dict[str, p.ShelfModel]:
    """Six known models, of which three are installed; by their ids."""
    page = "https://example.org/"
    models = (
        p.ShelfModel("words", "embedding", "Words to avoid", "unknown", page + "words", None, None),
        p.ShelfModel(
            "base", "t2i", "An image model", "OpenRAIL", page + "base", True, 2_100_000_000, True, True
        ),
        p.ShelfModel(
            "ink", "lora", "Draws", "CC-BY", page, None, 5_000_000, True, True, trigger="in ink, lines"
        ),
        p.ShelfModel("chalk", "lora", "Smears", "CC-BY-NC", page, False, 5_000_000, True, True),
        p.ShelfModel("moves", "motion", "Makes it move", "research only", page + "moves", False, 3_000_000),
        p.ShelfModel("large", "motion", "Never arrives", "MIT", page + "large", True, 9_000_000_000),
    )
    return {model.id: model for model in models}


def colour(frame: int) -> tuple[int, int, int]:
    return (10 + frame * 7 % 240, 200, 255 - frame * 5 % 250)


def png(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = (b"\0" + bytes(rgb) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


class FakeEngine:
    def __init__(self, behaviour: str):
        self.behaviour = behaviour
        self.blobs: dict[str, bytearray] = {}
        self.requests: dict[str, p.ClipRequest] = {}
        self.dropped = False
        self.again: set[str] = set()  # jobs that repeat one
        self.owners: dict[str, str] = {}
        self.line: list[str] = []  # of "queue": the running job, then those that wait
        self.shelf = shelf()
        self.works: dict[str, asyncio.Task] = {}
        self.files: dict[str, tuple[p.AddModel, bytearray]] = {}  # of models that are added

    async def converse(self, connection: ServerConnection) -> None:
        self.makers: dict[str, asyncio.Task] = {}
        version = p.PROTOCOL_VERSION + (self.behaviour == "old")
        await connection.send(p.encode(p.Welcome(version, "fake", os.getpid(), (MINI, ABSENT))))
        left_out = ("by-hal: the window schedule late: no module",)
        schedules, predictors = ("shifting", "pendulum"), ("musev", "other")
        menus = p.Menus(
            window_schedules=schedules,
            predictors=predictors,
            controls=("depth", "normal_bae", "lineart"),
            left_out=left_out,
        )
        await connection.send(p.encode(menus))
        async for raw in connection:
            match p.decode(raw):
                case p.Submit(job, request, place, owner):
                    await self.submit(connection, job, request, place, owner)
                case p.Retry(job, of, place, owner) if of in self.requests:
                    self.again.add(job)
                    await self.submit(connection, job, self.requests[of], place, owner)
                case p.Retry(job, of):
                    problem = p.Problem("unknown_job", "No such job", of, "Generate again.")
                    await connection.send(p.encode(p.Refused(problem, job)))
                case p.Move(job, place):
                    self.line.remove(job)
                    self.line.insert(1 if place == "front" else len(self.line), job)
                    await self.tell_queue(connection)
                case p.AskEstimate(number, request):
                    await connection.send(p.encode(self.estimate(number, request)))
                case p.BlobSlice(sha256, offset, _, data):
                    blob = self.blobs.setdefault(sha256, bytearray())
                    blob[offset : offset + len(data)] = data
                case p.Resume(job, have) if job in self.requests:
                    self.follow(connection, job, set(have))
                case p.Resume(job):
                    problem = p.Problem("unknown_job", "No such job", job, "Generate again.")
                    await connection.send(p.encode(p.Refused(problem, job)))
                case p.Cancel(job):
                    if job in self.makers:
                        self.makers[job].cancel()
                    await connection.send(p.encode(p.Cancelled(job)))
                    if job in self.line:
                        self.line.remove(job)
                        await self.tell_queue(connection)
                case p.AskModels():
                    await self.tell_shelf(connection)
                case p.DownloadModel(id, licence) if self.behaviour == "offline":
                    problem = p.Problem("offline", "The engine works offline", id, "Start it online.")
                    await connection.send(p.encode(p.Refused(problem, model=id)))
                case p.DownloadModel(id, licence) if licence != self.shelf[id].licence:
                    problem = p.Problem("licence_not_accepted", "Not accepted", licence, "Accept it.")
                    await connection.send(p.encode(p.Refused(problem, model=id)))
                case p.DownloadModel(id) | p.VerifyModel(id) | p.RemoveModel(id) as wanted:
                    self.works[id] = asyncio.create_task(self.see_to(connection, id, type(wanted)))
                case p.AddModel(id) as wanted:
                    if id in self.shelf:
                        problem = p.Problem("name_taken", "This name is taken", id, "Give it another name.")
                        await connection.send(p.encode(p.Refused(problem, model=id)))
                    else:
                        self.files[id] = wanted, bytearray()
                        await connection.send(p.encode(p.SendModel(id)))
                case p.ModelSlice(id, offset, data) if id in self.files:
                    await self.add(connection, id, offset, data)
                case p.ModelSlice():
                    pass
                case p.CancelModel(id) if id in self.files:
                    del self.files[id]
                    await connection.send(p.encode(p.ModelProgress(id, "add", "cancelled")))
                case p.CancelModel(id):
                    self.works[id].cancel()
                    await connection.send(p.encode(p.ModelProgress(id, "download", "cancelled")))

    def estimate(self, number: int, request: p.ClipRequest) -> p.Estimate:
        """Half a second a frame; a byte for every 4 pixels is a MiB."""
        needed, fits, remedies = request.width * request.height / 4, request.width**2 / 4 <= 2048, ()
        if self.behaviour == "tight" and not fits:
            changes = (p.Change("width", 64), p.Change("height", 64), p.Change("context_frames", 8))
            remedies = (p.Remedy("Size 64 x 64", changes, 3.0, 1024.0),)
        free = 2048.0 if self.behaviour == "tight" else None
        seconds = request.num_frames * 0.5
        return p.Estimate(number, seconds, (), 0.0, needed, free, "cpu", 3, remedies)

    async def tell_queue(self, connection: ServerConnection) -> None:
        if self.line and self.line[0] not in self.makers:
            self.follow(connection, self.line[0], set())
        running = self.line[0] if self.line else None
        await connection.send(p.encode(p.Queue(running, tuple(self.line[1:]))))

    async def tell_shelf(self, connection: ServerConnection) -> None:
        offline = "The engine works offline" if self.behaviour == "offline" else ""
        shelf = [p.ModelInfo(m.id, m.licence, m.installed, 64, 64, 0) for m in self.shelf.values()]
        ready = (MINI, ABSENT, *(model for model in shelf if model.name == "moves"))
        await connection.send(p.encode(p.ModelShelf(tuple(self.shelf.values()), ready, offline)))

    async def add(self, connection: ServerConnection, id: str, offset: int, data: bytes) -> None:
        """Takes a slice of a model's file: one that begins with "XL" is refused, 'slow' never gets whole."""
        wanted, held = self.files[id]
        assert offset == len(held)
        held += data
        now = p.ModelProgress(id, "add", done_bytes=len(held), total_bytes=wanted.size)
        if held.startswith(b"XL"):
            problem = p.Problem("wrong_kind", "This can't be added", "it seems to be XL", "Take another.")
            now = dataclasses.replace(now, state="failed", problem=problem)
        elif len(held) == wanted.size and id != "slow":
            now = dataclasses.replace(now, state="done")
            self.shelf[id] = p.ShelfModel(
                id, wanted.role or "lora", wanted.title or "added by a file", wanted.licence or "unknown",
                wanted.licence_url, wanted.commercial, wanted.size, True, True, added=True,
                trigger=p.blob_sha256(bytes(held))[:8],
            )  # fmt: skip
        if now.state != "running":
            del self.files[id]
        await connection.send(p.encode(now))
        if now.state == "done":
            await self.tell_shelf(connection)

    async def see_to(self, connection: ServerConnection, id: str, wanted: type[p.Message]) -> None:
        """Does what is wanted of a model: 'large' is downloaded by halves, 'base' is found damaged."""
        action = {p.DownloadModel: "download", p.VerifyModel: "verify", p.RemoveModel: "remove"}[wanted]
        if action == "download":
            size = self.shelf[id].size_bytes or 10
            half = p.ModelProgress(
                id, action, file="unet.safetensors", done_bytes=size // 2, total_bytes=size
            )
            await connection.send(p.encode(half))
            if id == "large":
                await asyncio.get_running_loop().create_future()
        if action != "verify":
            here = action == "download"
            self.shelf[id] = dataclasses.replace(self.shelf[id], installed=here, removable=here)
        results, intact = (("unet.safetensors: damaged",), False) if action == "verify" else ((), None)
        await connection.send(p.encode(p.ModelProgress(id, action, "done", results=results, intact=intact)))
        await self.tell_shelf(connection)

    async def submit(
        self, connection: ServerConnection, job: str, request: p.ClipRequest, place: str, owner: str
    ) -> None:
        whole = {sha256 for sha256, blob in self.blobs.items() if p.blob_sha256(blob) == sha256}
        missing = tuple(sha256 for sha256 in request.blobs if sha256 not in whole)
        if missing:
            await connection.send(p.encode(p.NeedBlobs(job, missing)))
            return
        if request.poses:  # what came must be a pose track of the clip's length and size
            track = p.PoseTrack.from_bytes(bytes(self.blobs[request.poses]))
            assert (track.num_frames, track.width, track.height) == (
                request.num_frames, request.noise_width or request.width, request.noise_height or request.height,
            )  # fmt: skip
        for kind in (request.source, request.mask, *(control.pictures for control in request.controls)):
            sets = [p.Pictures.from_bytes(bytes(self.blobs[sha256])) for sha256 in kind]
            assert sum(len(each.sizes) for each in sets) in (0, request.num_frames)
        self.requests[job] = request
        if self.behaviour != "queue":
            await connection.send(p.encode(p.Accepted(job, 0)))
            self.follow(connection, job, set())
            return
        replaced = tuple(w for w in self.line[1:] if place == "replace" and self.owners[w] == owner)
        self.line = [other for other in self.line if other not in replaced]
        self.line.insert(1 if place == "front" else len(self.line), job)
        self.owners[job] = owner
        await connection.send(p.encode(p.Accepted(job, self.line.index(job), replaced)))
        await self.tell_queue(connection)

    def follow(self, connection: ServerConnection, job: str, have: set[int]) -> None:
        self.makers[job] = asyncio.create_task(self.make(connection, job, have))

    async def make(self, connection: ServerConnection, job: str, have: set[int]) -> None:
        request = self.requests[job]
        frames = request.frames_out
        for k in [k for k in range(frames) if k not in have]:
            left = float(frames - k)
            await connection.send(p.encode(p.Progress(job, "denoise", k, frames, left, total_eta_s=left + 5)))
            await connection.send(p.encode(p.Preview(job, k, k, png(16, 16, colour(k)))))
            if k >= 2 and (self.behaviour in ("wait", "queue") or (self.behaviour == "pause" and not have)):
                await asyncio.get_running_loop().create_future()
            unlucky = self.behaviour == "fail" or (self.behaviour == "fail_some" and "fail" in request.prompt)
            if k >= 2 and unlucky and job not in self.again:
                problem = p.Problem("out_of_memory", "The GPU is full", "8 GB", "Use a smaller size.")
                await connection.send(p.encode(p.Failed(job, problem)))
                return
            if k >= 2 and self.behaviour == "drop" and not self.dropped:
                self.dropped = True
                await connection.close()
                return
            if k == frames - 1 and self.behaviour == "short":
                break
            width = request.width + 8 * (self.behaviour == "wrong_size")
            await connection.send(p.encode(p.FrameReady(job, k, png(width, request.height, colour(k)))))
        phases = (p.PhaseTime("denoise", 1.5),)
        done = p.Done(job, frames, phases, 12.0, "cpu", "ab" * 32, "free", "fake")
        await connection.send(p.encode(done))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--do", default="work")
    parser.add_argument("--parent-pid", type=int)
    behaviour = parser.parse_args().do
    if behaviour == "mute":
        sys.exit("no model found")
    token = os.environ["MUSEV_TOKEN"]

    def admit(connection: ServerConnection, request):
        if request.headers.get("Authorization") == f"Bearer {token}":
            return None
        refused = p.Refused(p.Problem("bad_token", "Wrong token", "", "Set the token."))
        return connection.respond(401, p.encode(refused))

    engine = FakeEngine(behaviour)
    async with serve(
        engine.converse, "127.0.0.1", 0, subprotocols=[p.SUBPROTOCOL], compression=None, max_size=2**25,
        process_request=admit,
    ) as server:  # fmt: skip
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        print(p.encode(p.Greeting(p.PROTOCOL_VERSION, url, os.getpid())), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
