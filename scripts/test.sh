#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest: bash scripts/test.sh tests/rl -k sampler
set -euo pipefail
. "$(dirname "$0")/setup.sh" test
exec "$VENV/bin/python" -m pytest "$@"
