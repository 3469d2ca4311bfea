#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest: bash scripts/test.sh tests/rl -k sampler
set -euo pipefail
. "$(dirname "$0")/setup.sh" test
# A process a processor, but not many: each compiles what its own tests need. A file stays together.
# Files are handed out in the order of tests/conftest.py, not those of most tests first.
exec "$VENV/bin/python" -m pytest -n logical --maxprocesses 4 --no-loadscope-reorder --dist loadfile "$@"
