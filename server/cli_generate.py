"""`musev text2video` and `musev video2video`: MuseV's task files and options, clips as files.

| exit status | what it says |
|---|---|
| 0 | every clip was made, or was there already |
| 1 | a clip couldn't be made (a picture or video that can't be read, say); the others were |
| 2 | the command line or the task file asks for what can't be |
| 3 | a model isn't there, or doesn't do |
| 4 | the memory doesn't suffice |
| 130 | interrupted |

The path of each clip is printed on standard output, a line each; everything else goes to standard error. A clip's file
appears when it is complete.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blender_addon.protocol import PoseTrack, ProtocolError
from server.sidecars import read_sidecar, sidecar

if TYPE_CHECKING:
    import numpy as np

    from musev_engine.clip import Clip
    from musev_engine.loading import Models
    from musev_engine.tasks import Task

FAILED, USAGE, MODEL, MEMORY, INTERRUPTED = 1, 2, 3, 4, 130
MODEL_CODES = ("missing_model", "bad_model", "unknown_model", "no_models", "not_supported", "broken_plugin")
USAGE_CODES = ("bad_tasks", "unknown_name", "changed_input", "bad_request", "missing_device", "unwritable")
LONGEST_SEED = 2**31  # exclusive


def text2video_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments("text2video", parser)


def video2video_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments("video2video", parser)


def text2video(args: argparse.Namespace) -> int:
    """Make a clip of each task from text and pictures."""
    return _Run("text2video", args).status()


def video2video(args: argparse.Namespace) -> int:
    """Make a clip of each task from a video."""
    return _Run("video2video", args).status()


def _arguments(verb: str, parser: argparse.ArgumentParser) -> None:
    from musev_engine.options import parser_of

    parser_of(verb, parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__


class _Run:
    """One call of a verb: its options, and what is told of it."""

    def __init__(self, verb: str, args: argparse.Namespace):
        from musev_engine.options import defaults

        self.verb, given = verb, vars(args)
        self.options = argparse.Namespace(**defaults(verb) | given, given=frozenset(given))
        self.quiet = self.options.log_level not in ("DEBUG", "INFO")
        self.said: set[str] = set()
        self.model = ""  # the sha256 of the one that a clip shall be made with again

    def status(self) -> int:
        """Do it all; the exit status. To be told to end is an interruption too, so that nothing half-made is left."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return self._status()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _status(self) -> int:
        try:
            tasks, worst = self._checked()
            if not tasks:
                return worst
            for image, models in self._models():
                for task, folder in tasks:
                    for repeat in range(self.options.n_repeat):
                        try:
                            self._make(dict(task), folder, models, image, repeat)
                        except (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
                            worst = max(worst, self._told(error, str(task["name"])))
                del models  # before the next one is read
            return worst
        except (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
            return self._told(error)
        except KeyboardInterrupt:
            self._say(f"musev {self.verb}: interrupted; nothing half-made was kept")
            return INTERRUPTED

    def _checked(self) -> tuple[list[tuple[dict, Path]], int]:
        """The tasks that can be tried, and the exit status for the others: all that can be known to be wrong is told
        before any model is read."""
        from musev_engine.media import writable
        from musev_engine.task_files import misspelt
        from musev_engine.tasks import Task

        able, worst = [], 0
        for values, folder in self._tasks():
            for key, near in misspelt(values).items():
                self._say(f"the task {values['name']} has {key}, which nothing reads: is {near} meant?")
            try:
                task = Task(dict(values), self.options, folder)
                task.check(**self._poses(task))
                able.append((values, folder))
            except (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
                worst = max(worst, self._told(error, str(values["name"])))
        if able:
            writable(Path(self.options.output_dir))
        return able, worst

    def _tasks(self) -> Iterator[tuple[dict, Path]]:
        """Each task, and the folder that its paths may be relative to."""
        from musev_engine.task_files import read_tasks, select

        options = self.options
        if options.repeat:
            task, self.options, self.model = read_sidecar(Path(options.repeat), self.verb, options)
            yield task, Path()
        elif options.test_data_path:
            for task in select(read_tasks(options.test_data_path), options.target_datas):
                yield task, Path(options.test_data_path).parent
        elif options.prompt is not None or options.still_file or options.poses_file:
            yield {"name": options.name, "prompt": options.prompt or ""}, Path()
        else:
            raise ProtocolError(
                "There is nothing to make",
                "no task",
                "Give -test_data_path FILE.yaml, or --prompt TEXT.",
                "bad_tasks",
            )

    def _models(self) -> Iterator[tuple[str | None, Models]]:
        from musev_engine.options import NO
        from musev_engine.task_models import SHIPPED, models_of

        image, motion = self.options.sd_model_name, self.options.unet_model_name
        if image.lower() in NO:
            image = self.options.sd_model_cfg_path
        self._say(f"loading {SHIPPED if image == SHIPPED else f'{motion} with {image}'} …")
        return models_of(self.options)

    def _make(self, values: dict, folder: Path, models: Models, image: str | None, repeat: int) -> None:
        """One clip of a task: read, made, written. image: the image model's name, if there are several."""
        from musev_engine import pipeline
        from musev_engine.media import media_path, sidecar_of, write_media
        from musev_engine.task_models import fitting
        from musev_engine.tasks import Task

        options, name = self.options, _file_name(str(values["name"]))
        if image is not None:
            name += f"_{_file_name(image)}"
            options = argparse.Namespace(**vars(options) | {"sd_model_name": image})
        name += f"_{repeat}" if repeat else ""
        path = media_path(Path(options.output_dir), name, options.save_filetype)
        if path.exists() and not options.overwrite:
            self._say(f"{path} is there already; --overwrite makes it again")
            return
        seed = (
            random.randrange(LONGEST_SEED) if options.seed is None else (options.seed + repeat) % LONGEST_SEED
        )
        task = Task(dict(values), options, folder)
        clip = fitting(task.clip(seed, **self._poses(task, models.name)), models, self.options.given)
        self._say_once(*_remarks(clip, models))
        if self.model not in ("", models.sha256):
            self._say_once(f"{models.name} isn't the model that made that clip: this one will differ")
        told = sidecar(self.verb, values, folder, options, seed, models)
        progress = _Progress(name, self.quiet)

        def frames() -> Iterator[np.ndarray]:
            for event in pipeline.generate(clip, models):
                if isinstance(event, pipeline.Progress):
                    progress.show(event)
                elif isinstance(event, pipeline.Frames):
                    yield from event.frames

        try:
            shown = _beside(frames(), self._sources(task), options.n_cols)
            count = write_media(path, shown, options.fps, told, options.overwrite)
        finally:
            progress.end()
        if options.save_images and options.save_filetype != "images":
            from musev_engine.media import read_video

            pictures = media_path(Path(options.output_dir), f"{name}_images", "images")
            write_media(pictures, read_video(path), options.fps, told, options.overwrite)
        self._say(f"{count} frames, seed {seed}, told in {sidecar_of(path)}")
        print(path, flush=True)

    def _poses(self, task: Task, model: str = "") -> dict:
        """The pose track's points in the clip's pixels, aligned if that is asked for; without the hands and faces for
        a model that never saw any."""
        import numpy as np

        from musev_engine import keypoints
        from server.models import traits

        if not (path := self.options.poses_file):
            return {}
        try:
            track = PoseTrack.from_bytes(Path(path).read_bytes())
        except ProtocolError as error:
            raise ProtocolError(
                f"{path} is no pose track", error.value, "Give a file of PoseTrack.to_bytes().", "bad_poses"
            ) from error
        width, height = task.size()
        scale = np.array([width / track.width, height / track.height, 1], np.float32)
        poses, still_pose = np.frombuffer(track.points, "<f4").reshape(track.shape) * scale, None
        if track.still_pose is None and self.options.posealign == "auto":
            raise ProtocolError(
                f"{path} has no figure of a still to align the poses to", "no still_pose",
                "Give a track that has one, or leave --posealign off.", "bad_request",
            )  # fmt: skip
        if track.still_pose is not None:
            still_pose = np.frombuffer(track.still_pose, "<f4").reshape(track.shape[1:]) * scale
            if self.options.posealign == "auto":
                poses = keypoints.align(poses, still_pose)
        both = {"poses": poses, "still_pose": still_pose}
        if traits(model).body_only:
            both = {name: each if each is None else keypoints.split(each)[0] for name, each in both.items()}
        return both

    def _sources(self, task: Task) -> list[np.ndarray]:
        shown = [task.sources] if getattr(self.options, "need_return_videos", False) else []
        return shown + (task.controls if getattr(self.options, "need_return_condition", False) else [])

    def _told(self, error: BaseException, task: str = "") -> int:
        """Say what went wrong in one line; the exit status for it."""
        from server.problems import problem_of

        problem = problem_of(error)
        where = f"task {task}: " if task else ""
        print(f"musev {self.verb}: {where}{' '.join(str(problem).split())}", file=sys.stderr)
        if problem.code == "out_of_memory":
            return MEMORY
        return MODEL if problem.code in MODEL_CODES else USAGE if problem.code in USAGE_CODES else FAILED

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr)

    def _say_once(self, *texts: str) -> None:
        for text in texts:
            if text not in self.said:
                self.said.add(text)
                self._say(text)


class _Progress:
    """How far a clip is and how long it will take: one line that is written over where somebody looks, else a line
    for every tenth."""

    def __init__(self, name: str, quiet: bool):
        self.name, self.quiet, self.live = name, quiet, sys.stderr.isatty()
        self.phase, self.began, self.start, self.tenth = "", 0.0, 0.0, -1

    def show(self, event) -> None:
        if self.quiet:
            return
        done = event.step + (event.window / event.num_windows if event.num_windows else 0)
        share = done / max(1, event.num_steps)
        if event.phase != self.phase:
            self.phase, self.began, self.start, self.tenth = event.phase, time.monotonic(), share, -1
        text = f"{self.name}: {event.phase} {int(done)}/{event.num_steps}"
        if self.start < share < 1:
            left = (time.monotonic() - self.began) * (1 - share) / (share - self.start)
            text += f", {int(left) // 60}:{int(left) % 60:02d} left"
        if self.live:
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)
        elif int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.live and not self.quiet:
            print(file=sys.stderr)


def _remarks(clip: Clip, models: Models) -> Iterator[str]:
    """What a user should know of how a clip is made, beside what was asked for."""
    from musev_engine.task_models import SHIPPED, missing_words

    if (few := models.few_step) is not None:
        by = few.scheduler if clip.scheduler == "model" else clip.scheduler
        steps, scale = clip.num_inference_steps, clip.guidance_scale
        yield f"a few-step LoRA: {steps} steps, guidance {scale:g}, scheduler {by}"
    if models.name != SHIPPED and (words := missing_words(clip, models)):
        yield (
            f"the negative prompt's {', '.join(words)} are plain words here, for want of their files; "
            f"musev models download {' '.join(words)}"
        )


def _beside(frames: Iterator[np.ndarray], sources: list[np.ndarray], n_cols: int) -> Iterator[np.ndarray]:
    """Each frame with the same frame of the source videos before it, in rows of `n_cols`."""
    if not sources:
        yield from frames
        return
    import cv2
    import numpy as np

    for number, frame in enumerate(frames):
        size = (frame.shape[1], frame.shape[0])
        row = [cv2.resize(video[min(number, len(video) - 1)], size) for video in sources] + [frame]
        columns = min(n_cols, len(row))
        row += [np.zeros_like(frame)] * (-len(row) % columns)
        yield np.concatenate(
            [np.concatenate(row[at : at + columns], axis=1) for at in range(0, len(row), columns)]
        )


def _file_name(name: str) -> str:
    """A task's name as a file's: no separators, and never hidden."""
    kept = "".join("_" if sign in '/\\:*?"<>|' or ord(sign) < 32 else sign for sign in name).strip(". ")
    return kept[:100] or "clip"
