#!/usr/bin/env bash
# Sets up and trains the small model that comes with the checkout: about eight minutes on two cores.
# Arguments change the config: bash scripts/quickstart.sh run.seed=1
set -euo pipefail
. "$(dirname "$0")/setup.sh" "" # no extra, whatever the arguments are
RUN=runs/quickstart
for ((i = 2; ; i++)); do
    [ -e "$RUN" ] || break
    RUN="runs/quickstart-$i"
done
exec "$VENV/bin/jaxvl" grpo configs/quickstart.py "run.dir=$RUN" "$@"
