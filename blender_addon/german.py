"""German, for Blender's interface: what stands in English -> what is shown. A test finds entries that are dead."""

from __future__ import annotations

TEXTS: dict[str, str] = {}
