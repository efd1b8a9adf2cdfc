# Two environments, as in real life: the engine's (.venv, with torch) and Blender's (.venv-blender, without).
PYTHON ?= python3.11
PYTHON_NEW ?= python3.13
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
BLENDER_PACKAGES = pytest websockets==17.4

.PHONY: setup demo test test-blenders test-gui lint clean

setup: .venv/ready .venv-blender/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP_INSTALL) --constraint constraints.txt --editable ".[test]"
	touch $@

.venv-blender/ready:
	$(PYTHON) -m venv .venv-blender
	.venv-blender/bin/python $(PIP_INSTALL) "bpy==4.5.*" $(BLENDER_PACKAGES)
	touch $@

demo: setup
	.venv-blender/bin/python examples/demo.py

test: setup
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --ignore=tests/blender
	.venv-blender/bin/python -m pytest tests/blender

test-blenders: setup
	PYTHON=$(PYTHON) PYTHON_NEW=$(PYTHON_NEW) sh tests/blender/every_version.sh

# In a real window: BLENDER="/path/to/blender", or a wrapper that sees nothing but the temporary directory.
BLENDER ?= blender
test-gui: setup
	.venv-blender/bin/python tests/gui/run.py "$(BLENDER)" $(GUI_ARGUMENTS)

lint: .venv/ready
	.venv/bin/ruff check .

clean:
	rm -rf .venv .venv-blender* build dist out
