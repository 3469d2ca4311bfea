#!/usr/bin/env bash
# Checks the types of jaxvl/; arguments go to mypy: bash scripts/types.sh jaxvl/rl
# What it learnt of the packages stays in the environment that holds them, so that the second run
# takes seconds, in any checkout that shares the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"
if [ ! -x "$VENV/bin/mypy" ]; then . scripts/setup.sh test; fi
exec "$VENV/bin/mypy" --cache-dir "$VENV/mypy-cache" "$@"
