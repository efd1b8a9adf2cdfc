"""Records: frozen dataclasses whose fields are checked when they are made, as JSON and back.

Standard library only. What can be said with them is in `protocol.py`; here is how a record is checked, refused with a
`ProtocolError` that names the field, the value and the remedy, and turned into text or bytes. A packed record is a
little-endian uint32 length, that many bytes of JSON header, and the rest is the payload.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import sys
import types
import typing
from dataclasses import dataclass
from functools import cache

MAX_JSON_BYTES = 2 * 2**20  # of a control message, such as a list of many models; of a binary one's header
MAX_ITEMS = 10_000  # of a list, where its field says nothing else
MAX_TEXT = 4000  # characters, where the field says nothing else
MAX_INT = 2**53  # either way, where the field says nothing else: readers of JSON, and SQLite, hold it


class ProtocolError(ValueError):
    """Something that does not fit the protocol; `problem` says what, with the value and the remedy."""

    def __init__(self, message: str, value: object = "", remedy: str = "", code: str = "bad_message"):
        super().__init__(f"{message} (got {_brief(value)}). {remedy}")
        self.code, self.message, self.value, self.remedy = code, _brief(message, 1000), _brief(value), remedy

    @property
    def problem(self) -> Problem:
        return Problem(self.code, self.message, self.value, self.remedy)


def limited(default=dataclasses.MISSING, **limits) -> typing.Any:
    """A field with limits: `low`, `high`, `step`, `choices`, `pattern`, `longest` (of a text or a tuple)."""
    return dataclasses.field(default=default, metadata=limits)


class Record:
    """A frozen dataclass whose fields are checked against their types and limits when it is made."""

    def __post_init__(self):
        for name, kind in kinds(type(self)).items():
            limits = self.__dataclass_fields__[name].metadata
            checked = _check(f"{type(self).__name__}.{name}", kind, getattr(self, name), limits)
            object.__setattr__(self, name, checked)


@dataclass(frozen=True)
class Problem(Record):
    """What went wrong, for people and programs: a stable code, the sentence, the offending value, the
    remedy."""

    code: str = limited(pattern=r"[a-z0-9_]{1,40}")
    message: str = limited(longest=4000)
    value: str = limited("", longest=1000)
    remedy: str = limited("", longest=1000)

    def __str__(self) -> str:
        value = f" (got {self.value})" if self.value else ""
        return f"{self.message}{value}. {self.remedy}".strip()


@cache
def kinds(record: type[Record]) -> dict[str, typing.Any]:
    """The type of every field, in order."""
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def plain(record: Record) -> dict:
    """The record as a dict of JSON values (and bytes)."""

    def of(value):
        if isinstance(value, Record):
            return plain(value)
        return [of(item) for item in value] if isinstance(value, tuple) else value

    return {name: of(getattr(record, name)) for name in kinds(type(record))}


def build(record: type[Record], raw: object) -> typing.Any:
    """A record from a dict of JSON values: every field known, none missing; its own checks do the rest. Raises
    ProtocolError."""
    if not isinstance(raw, dict):
        raise ProtocolError(f"{record.__name__} must be an object", raw, "Send its fields by name.")
    known = kinds(record)
    if unknown := sorted(raw.keys() - known.keys()):
        raise ProtocolError(
            f"{record.__name__} has no field {unknown[0]!r}",
            raw[unknown[0]],
            f"It has {', '.join(known)}; update the side that sent it.",
        )
    for name, field in record.__dataclass_fields__.items():
        if name not in raw and field.default is dataclasses.MISSING:
            raise ProtocolError(f"{record.__name__}.{name} is missing", sorted(raw), "Send every field.")
    return record(**{name: _shape(known[name], value) for name, value in raw.items()})


def _shape(kind, value):
    """Lists become tuples and objects become records where the field's type says so."""
    if isinstance(kind, types.UnionType):  # X | None
        kind = next(choice for choice in typing.get_args(kind) if choice is not type(None))
        return None if value is None else _shape(kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_shape(typing.get_args(kind)[0], item) for item in value)
    if isinstance(kind, type) and issubclass(kind, Record):
        return build(kind, value)
    return value


def _check(name: str, kind, value, limits) -> typing.Any:
    """The value, if it has the field's type and keeps its limits (an int given for a float becomes one)."""
    if isinstance(kind, types.UnionType):  # X | None
        if value is None:
            return None
        kind = next(choice for choice in typing.get_args(kind) if choice is not type(None))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise ProtocolError(f"{name} must be a list", value, "Send a list.")
        of_items = {key: limits[key] for key in ("pattern", "low") if key in limits}
        value = tuple(
            _check(f"{name}[{index}]", typing.get_args(kind)[0], item, of_items)
            for index, item in enumerate(value)
        )
    elif kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    elif type(value) is not kind:
        raise ProtocolError(f"{name} must be {kind.__name__}", value, f"Send {kind.__name__}.")
    if kind is float and not math.isfinite(value):
        raise ProtocolError(f"{name} must be a finite number", value, "Send a finite number.")
    if kind is str:
        _check_text(name, value, limits)
    if isinstance(value, tuple) and len(value) > (longest := limits.get("longest", MAX_ITEMS)):
        raise ProtocolError(f"{name} has at most {longest} items", len(value), "Send fewer.")
    if "choices" in limits and value not in limits["choices"]:
        raise ProtocolError(
            f"{name} is not one of the choices",
            value,
            f"Choose from {', '.join(map(str, limits['choices']))}.",
        )
    most = MAX_INT if kind is int else math.inf
    low, high, step = limits.get("low", -most), limits.get("high", most), limits.get("step")
    if kind in (int, float) and not low <= value <= high:
        raise ProtocolError(f"{name} must be from {low} to {high}", value, f"Choose {low} to {high}.")
    if step and value % step:
        below = max(value - value % step, low)
        raise ProtocolError(f"{name} must be a multiple of {step}", value, f"Use {below} or {below + step}.")
    return value


def _check_text(name: str, value: str, limits) -> None:
    if len(value) > (longest := limits.get("longest", MAX_TEXT)):
        raise ProtocolError(f"{name} has at most {longest} characters", len(value), "Shorten it.")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        raise ProtocolError(f"{name} is not of the form {limits['pattern']}", value, "Correct it.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ProtocolError(
            f"{name} is not valid Unicode", value.encode(errors="replace"), "Remove the letter."
        )


def pack(header: dict, payload: bytes) -> bytes:
    """One packed record. Raises ProtocolError for a header that is too long."""
    text = json_text(header).encode()
    if len(text) > MAX_JSON_BYTES:
        raise ProtocolError(f"A header has at most {MAX_JSON_BYTES} bytes", len(text), "Send less.")
    return b"".join((struct.pack("<I", len(text)), text, payload))


def unpack(raw: bytes) -> tuple[dict, bytes]:
    """Header and payload of what `pack` wrote. Raises ProtocolError for anything else."""
    size = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else MAX_JSON_BYTES + 1
    if size > min(MAX_JSON_BYTES, len(raw) - 4):
        raise ProtocolError(
            "A binary message begins with its header's length", raw[:4], "Send a whole message."
        )
    return parse(raw[4 : 4 + size]), raw[4 + size :]


def json_text(value: dict) -> str:
    """As `parse` reads it. Raises ValueError for a number that is not finite."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def parse(raw: str | bytes) -> dict:
    """One JSON object, its length checked first. Raises ProtocolError for anything else."""
    if len(raw) > MAX_JSON_BYTES:
        raise ProtocolError(f"A control message has at most {MAX_JSON_BYTES} bytes", len(raw), "Send less.")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or endless digits
        raise ProtocolError(f"Not JSON: {error}", raw[:80], "Send one JSON object.") from None
    if not isinstance(value, dict):
        raise ProtocolError("A message is a JSON object", value, "Send one JSON object.")
    return value


def _brief(value: object, longest: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text.encode(errors="replace").decode()[:longest]
