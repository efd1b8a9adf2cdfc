"""The engine's models in the preferences: told, downloaded with their licence accepted, verified, removed."""

from __future__ import annotations

import pytest
from bl_ext.user_default.musev import session
from conftest import pump


@pytest.fixture
def told(engine):
    """Starts the fake engine and waits for its models: `told("offline")` gives the session."""

    def start(behaviour: str = "work"):
        current = engine(behaviour)
        pump(lambda: current.shelf.models)
        return current

    return start


def test_the_shelf_is_told_by_role_as_soon_as_the_engine_is_there(told):
    shelf = told().shelf
    assert list(shelf.models) == ["moves", "large", "base", "words"] and shelf.offline == ""
    assert shelf.models["base"].installed and not shelf.models["moves"].installed
    ready = session.current.engine.client.welcome.models
    assert [(model.name, model.installed) for model in ready] == [
        ("mini", True), ("absent", False), ("moves", False),
    ]  # fmt: skip
