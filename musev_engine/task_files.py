"""MuseV's task files: YAML (or CSV), a list of tasks, each a mapping with `name`, `prompt`, `condition_images`,
`video_path` and others, where `${.condition_images}` takes another key's value (OmegaConf), `{key}` in a prompt is
filled in from the task, and `a|b` makes a task of each.
"""

from __future__ import annotations

import ast
import csv
import difflib
import itertools
import re
from pathlib import Path

from musev_engine.errors import EngineError
from musev_engine.prompts import NEGATIVE_SETS, fill_template

KEYS = (  # of a task
    "name", "prompt", "condition_images", "condition_images_index", "refer_image", "ipadapter_image", "face_image",
    "video_path", "height", "width", "img_length_ratio", "redraw_condition_image", "motion_speed", "w_ind_noise",
    "img_weight", "negative_prompt", "video_negative_prompt", "style", "sex", "video_is_middle", "video_has_condition",
    "of",
)  # fmt: skip


def read_tasks(path: str | Path) -> list[dict]:
    """The tasks of a YAML (or CSV) file, `a|b` multiplied out. Relative paths in it are kept: see `find_path`.

    Raises EngineError, code "bad_tasks", naming what is wrong with the file.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(path)
    if not path.is_file():
        raise bad_tasks("There is no such task file", path, "Give the path of a YAML list of tasks.")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = [
                    {k: yaml.safe_load(v) if v else None for k, v in row.items()}
                    for row in csv.DictReader(file)
                ]
        else:
            rows = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        OmegaConfBaseException,
        TypeError,
        AttributeError,
    ) as error:
        told = " ".join(str(error).split())
        raise bad_tasks(f"The task file {path} can't be read", told, "Give a YAML list of tasks.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        kind = "nothing" if not rows else type(rows).__name__
        raise bad_tasks(
            f"The task file {path} is no list of tasks", kind, "Begin each task with '- name: …'."
        )
    rows = [{"name": str(number), **row} for number, row in enumerate(rows)]
    return [task for row in rows for task in _multiplied(row)]


def select(tasks: list[dict], target_datas: str) -> list[dict]:
    """The tasks of these names (with commas), or "all". Raises EngineError for a name that none has."""
    if target_datas == "all":
        return tasks
    wanted = [name.strip() for name in target_datas.split(",") if name.strip()]
    known = list(dict.fromkeys(str(task.get("of", task["name"])) for task in tasks))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known[:5]
            raise bad_tasks("No task has this name", name, f"Did you mean {' or '.join(near)}?")
    return [task for task in tasks if str(task.get("of", task["name"])) in wanted]


def _multiplied(row: dict) -> list[dict]:
    """A task for each combination of the values that are joined by |; their names get numbers."""
    parts = {k: v.split("|") for k, v in row.items() if isinstance(v, str) and "|" in v and k != "name"}
    if not parts:
        return [row]
    chosen = [dict(zip(parts, values, strict=True)) for values in itertools.product(*parts.values())]
    return [
        row
        | {k: v.strip() for k, v in values.items()}
        | {"name": f"{row['name']}_{number}", "of": row["name"]}
        for number, values in enumerate(chosen)
    ]


def misspelt(task: dict) -> dict[str, str]:
    """Keys of a task that nothing reads, though one much like them is known: key -> that one. Others may be there: a
    prompt's {key}, and whatever MuseV's users keep in their files."""
    unread = [str(key) for key in task if key not in KEYS and f"{{{key}}}" not in str(task.get("prompt"))]
    near = {key: difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.8) for key in unread}
    return {key: found[0] for key, found in near.items() if found}


def prompt_of(task: dict) -> str:
    """The task's prompt with {key} filled in. Raises EngineError where there is none, or a key isn't the task's."""
    if not isinstance(prompt := task.get("prompt"), str):
        raise bad_tasks(f"The task {task['name']} has no prompt", prompt, "Give it one: 'prompt: …'.")
    return fill_template(prompt, {str(key): value for key, value in task.items() if value is not None})


def negative_prompt(text: str, cfg_path: str | None) -> str:
    """A negative set's text by its name, or the text itself. cfg_path: MuseV's file of sets, which is read as data and
    not run; where it isn't there, our sets; "None": no names, all is text. Raises EngineError for an unknown name."""
    if cfg_path is None or str(cfg_path).lower() == "none":
        return text
    own = {name: each.prompt for name, each in NEGATIVE_SETS.items()}
    sets = _sets(Path(cfg_path)) if Path(cfg_path).is_file() else own
    if text in sets:
        return sets[text]
    if re.fullmatch(r"V\d+", text) or text.lower() in map(str.lower, sets):
        raise bad_tasks(
            "No negative prompt has this name", text, f"Choose one of {', '.join(sets)}, or give a text."
        )
    return text


def _sets(path: Path) -> dict[str, str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        (value,) = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "Negative_Prompt_CFG"
        ]
        return {str(name): str(row["prompt"]) for name, row in ast.literal_eval(value).items()}
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "It must assign a plain dict to Negative_Prompt_CFG; or give --negprompt_cfg_path None."
        raise bad_tasks(f"The negative prompts in {path} can't be read", error, remedy) from error


def find_path(text: str, folder: Path) -> Path:
    """A path of a task: from where the command runs, as in MuseV, else from the task file's folder."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() or not (folder / path).exists() else folder / path


def bad_tasks(message: str, value: object, remedy: str) -> EngineError:
    """What a task says can't be done."""
    return EngineError(message, value, remedy, code="bad_tasks")
