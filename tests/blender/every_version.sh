#!/bin/sh
# Runs the extension's tests on every bpy that it supports, each in an environment of its own.
set -u
failed=""
for version in 4.2 4.5 5.0 5.2; do
  case $version in 5.2) python=${PYTHON_NEW:-python3.13} ;; *) python=${PYTHON:-python3.11} ;; esac
  if ! "$python" --version >/dev/null 2>&1; then
    echo "bpy $version: left out, there is no $python on this machine"
    continue
  fi
  venv=.venv-blender-$version
  [ "$version" = 4.5 ] && venv=.venv-blender
  if [ ! -e "$venv/ready" ]; then
    "$python" -m venv "$venv" &&
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "bpy==$version.*" pytest websockets==17.4 &&
      touch "$venv/ready" || { echo "bpy $version: could not be installed"; failed="$failed $version"; continue; }
  fi
  echo "bpy $version:"
  "$venv/bin/python" -m pytest tests/blender || failed="$failed $version"
done
[ -z "$failed" ] || { echo "failed on bpy$failed"; exit 1; }
