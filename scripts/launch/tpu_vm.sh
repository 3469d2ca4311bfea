#!/usr/bin/env bash
# A run on a Cloud TPU VM or pod, by gcloud.
#
#   bash scripts/launch/tpu_vm.sh [--dry-run | --yes] up                        make the TPU, install jaxvl
#   bash scripts/launch/tpu_vm.sh [--dry-run | --yes] train CONFIG [K=V]...     start, or go on, on all workers
#   bash scripts/launch/tpu_vm.sh [--dry-run | --yes] logs | stop | collect | down
#
# NAME      of the TPU and of the run              ZONE    as us-central1-a
# TYPE      as v5litepod-16, v5p-8 or v6e-16       BUCKET  of Cloud Storage, seen by all workers
# SPOT=1    a TPU that can be taken back, cheaper  VERSION of its software (default: by TYPE)
# Without --yes the commands are shown, not run.
# COMMAND   grpo (default) or sft                  WORKER  whose log is shown (default: 0)
set -euo pipefail
shopt -s extglob
# shellcheck source=scripts/launch/lib.sh
. "$(dirname "$0")/lib.sh"

case "$VERB" in
help | -h | --help)
    usage
    exit
    ;;
esac
need NAME "the name of the TPU"
need ZONE "where the TPU is, as us-central1-a"
need BUCKET "a bucket of Cloud Storage that holds the runs"
# Counts that Google makes: of v5litepod and v6e chips, of the others cores.
case "${TYPE:-}" in
"" | v5litepod-@(1|4|8|16|32|64|128|256) | v6e-@(1|4|8|16|32|64|128|256)) ;;
v2-@(8|32|128|256|512) | v3-@(8|32|64|128|256|512|1024|2048)) ;;
v4-[1-9]*([0-9]) | v5p-[1-9]*([0-9]))
    [ $((${TYPE#*-} % 8)) = 0 ] || fail "TYPE is $TYPE; expected a multiple of 8 cores"
    ;;
*) fail "TYPE is $TYPE; expected one as v5litepod-16, v5p-8, v6e-16 or v4-8" ;;
esac
case "${TYPE:-}" in
v5litepod*) : "${VERSION:=v2-alpha-tpuv5-lite}" ;;
v5p*) : "${VERSION:=v2-alpha-tpuv5}" ;;
v6e*) : "${VERSION:=v2-alpha-tpuv6e}" ;;
*) : "${VERSION:=tpu-ubuntu2204-base}" ;;
esac
RUN_DIR="shared/runs/$NAME" # relative to the home directory, where commands begin

# on WORKERS COMMAND: a shell command on one worker or on all.
on() {
    run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

# The images come with an old Python: uv brings one. A rename of a folder on a bucket is a rename of
# everything in it: gcsfuse has to be told how much that may be.
SETUP='set -e
mkdir -p jaxvl shared ~/.cache
tar -xzf jaxvl.tar.gz -C jaxvl
python3 -m pip install --quiet --user uv
[ -d venv ] || python3 -m uv venv --quiet --python 3.12 venv
python3 -m uv pip install --quiet --python venv/bin/python "./jaxvl[tpu]"
command -v gcsfuse >/dev/null || { echo "error: install gcsfuse on the workers" >&2; exit 1; }'
MOUNT="{ mountpoint -q shared || gcsfuse --implicit-dirs --rename-dir-limit=100000 $BUCKET shared; }"
# shellcheck disable=SC2016 # the worker fills it in
FREE='if [ -f jaxvl.pid ] && kill -0 "$(cat jaxvl.pid)" 2>/dev/null; then
echo "error: a run is under way on $(hostname): stop it first" >&2; exit 2; fi'

case "$VERB" in
up)
    need TYPE "the kind of TPU, as v5litepod-16"
    run gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
        --version="$VERSION" ${SPOT:+--spot}
    run git archive --format=tar.gz --output=/tmp/jaxvl.tar.gz HEAD
    run gcloud compute tpus tpu-vm scp /tmp/jaxvl.tar.gz "$NAME:" --zone="$ZONE" --worker=all
    on all "$SETUP"
    ;;
train)
    TRAIN="$(train_command "$@")"
    CACHE="export JAX_COMPILATION_CACHE_DIR=\$HOME/shared/compiled"
    # Paths of configs are those of the checkout. The pid is that of jaxvl, which takes the place of
    # what starts it.
    ONE="cd; ln -sfn jaxvl/configs configs; . venv/bin/activate; $CACHE; exec $TRAIN"
    START="setsid nohup bash -c $(printf %q "$ONE") >jaxvl.log 2>&1 </dev/null &"
    on all "$FREE
$MOUNT && { $START echo \$! >jaxvl.pid; }"
    ;;
logs) on "${WORKER:-0}" "tail -n 100 -F jaxvl.log" ;;
stop) on all "kill \$(cat jaxvl.pid)" ;; # it saves and ends
collect) run gcloud storage rsync --recursive "gs://$BUCKET/runs/$NAME" "runs/$NAME" ;;
down) run gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet ;;
*) fail "no verb $VERB; see $0 help" ;;
esac
