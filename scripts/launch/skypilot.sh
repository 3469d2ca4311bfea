#!/usr/bin/env bash
# A run on GPUs of any cloud that SkyPilot knows, one process a machine.
#
#   bash scripts/launch/skypilot.sh [--dry-run | --yes] train CONFIG [K=V]...     start, or go on
#   bash scripts/launch/skypilot.sh [--dry-run | --yes] logs | stop | collect | down
#
# Without --yes the commands are shown, not run.
# NAME   of the cluster and of the run         BUCKET  that SkyPilot makes and mounts
# GPUS   of a machine (default: H100:8)        NODES   how many machines (default: 1)
# SPOT=1 machines that can be taken back, cheaper     COMMAND  grpo (default) or sft
set -euo pipefail
# shellcheck source=scripts/launch/lib.sh
. "$(dirname "$0")/lib.sh"

case "$VERB" in
help | -h | --help)
    usage
    exit
    ;;
esac
need NAME "the name of the cluster"
: "${GPUS:=H100:8}" "${NODES:=1}"
RUN_DIR="/shared/runs/$NAME"

case "$VERB" in
train)
    need BUCKET "the bucket that holds the runs"
    whole NODES
    [[ "$GPUS" =~ ^[A-Za-z][A-Za-z0-9-]*(:[1-9][0-9]*)?$ ]] || fail "GPUS is $GPUS; expected kind and count, as H100:8"
    TRAIN="$(train_command "$@")"
    run sky launch --yes --detach-run --cluster "$NAME" --gpus "$GPUS" --num-nodes "$NODES" \
        ${SPOT:+--use-spot} --env "TRAIN=$TRAIN" --env "BUCKET=$BUCKET" scripts/launch/skypilot.yaml
    ;;
logs) run sky logs "$NAME" ;;
stop) run sky cancel --yes --all "$NAME" ;;
collect)
    run mkdir -p "runs/$NAME"
    run rsync -a "$NAME:$RUN_DIR/" "runs/$NAME/"
    ;;
down) run sky down --yes "$NAME" ;;
*) fail "no verb $VERB; see $0 help" ;;
esac
