#!/usr/bin/env bash
# A run on GPU nodes of a SLURM cluster, one process a node. Called on a login node, in the checkout
# that `bash scripts/setup.sh cuda` has set up, on a file system that all nodes share.
#
#   bash scripts/launch/slurm.sh [--dry-run | --yes] train CONFIG [K=V]...     submit, or go on
#   bash scripts/launch/slurm.sh [--dry-run | --yes] logs | stop
#
# Without --yes the commands are shown, not run.
# NAME    of the job and the run          NODES      how many (default: 1)
# GPUS    of a node (default: 8)          TIME       limit (default: 24:00:00)
# RUN_DIR of the run (default: runs/NAME) PARTITION, ACCOUNT   if the cluster wants them
# COMMAND grpo (default) or sft           RESTARTS   after a failure (default: 3)
# GRACE   seconds to save in before the time is up (default: 300)
set -euo pipefail
# shellcheck source=scripts/launch/lib.sh
. "$(dirname "$0")/lib.sh"

case "$VERB" in
help | -h | --help)
    usage
    exit
    ;;
esac
need NAME "the name of the job"
: "${NODES:=1}" "${GPUS:=8}" "${TIME:=24:00:00}" "${RUN_DIR:=runs/$NAME}" "${VENV:=.venv}"
: "${RESTARTS:=3}" "${GRACE:=300}"

# Before its time is up a run is asked to stop: it saves, ends with 143, and the job is queued again,
# unless `stop` asked. So it is after a failure, RESTARTS times since the last such stop, but not
# after a mistake (2). A job of the same name waits until this one has ended: two never write to one
# directory.
job() {
    cat <<END
#!/bin/bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$GPUS
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=$TIME
#SBATCH --signal=TERM@$GRACE
#SBATCH --dependency=singleton
#SBATCH --requeue
#SBATCH --output=$RUN_DIR.log
#SBATCH --open-mode=append
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
set -euo pipefail
export JAX_PLATFORMS=cuda,cpu # without CUDA an error, and no slow run
export JAX_COORDINATOR_ADDRESS="\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1):\$((20000 + SLURM_JOB_ID % 20000))"
export JAX_COMPILATION_CACHE_DIR="\$PWD/runs/compiled"
. $VENV/bin/activate
code=0
srun --kill-on-bad-exit=1 bash -c 'JAX_NUM_PROCESSES=\$SLURM_NTASKS JAX_PROCESS_ID=\$SLURM_PROCID exec "\$@"' \\
    - $1 || code=\$?
[ ! -e "$RUN_DIR.stop" ] || exit "\$code"
case "\$code" in
0 | 2) exit "\$code" ;;
143) rm -f "$RUN_DIR.failures" ;;
*)
    echo "\$SLURM_JOB_ID: \$code" >>"$RUN_DIR.failures"
    [ "\$(wc -l <"$RUN_DIR.failures")" -le $RESTARTS ] || exit "\$code"
    ;;
esac
scontrol requeue "\$SLURM_JOB_ID"
END
}

case "$VERB" in
train)
    whole NODES GPUS RESTARTS GRACE
    [[ "$TIME" =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || fail "TIME is $TIME; expected one as 24:00:00 or 2-00:00:00"
    TRAIN="$(train_command "$@")"
    run mkdir -p "$(dirname "$RUN_DIR")"
    run rm -f "$RUN_DIR.stop" "$RUN_DIR.failures"
    feed "$(job "$TRAIN")" sbatch
    ;;
logs) run tail -n 100 -F "$RUN_DIR.log" ;;
stop)
    run touch "$RUN_DIR.stop" # what is there when the run has saved and ended is not queued again
    run scancel --name="$NAME" --state=PENDING
    run scancel --name="$NAME" --state=RUNNING --signal=TERM # to the run, not to the job around it
    ;;
*) fail "no verb $VERB; see $0 help" ;;
esac
