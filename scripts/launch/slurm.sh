#!/usr/bin/env bash
# A run on GPU nodes of a SLURM cluster, one process a node. Called on a login node, in the checkout
# that scripts/setup.sh has set up, on a file system that all nodes share.
#
#   bash scripts/launch/slurm.sh [--dry-run] train CONFIG [K=V]...     submit, or go on
#   bash scripts/launch/slurm.sh [--dry-run] logs | stop
#
# NAME    of the job and the run          NODES      how many (default: 1)
# GPUS    of a node (default: 8)          TIME       limit (default: 24:00:00)
# RUN_DIR of the run (default: runs/NAME) PARTITION, ACCOUNT   if the cluster wants them
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

# A node that fails ends the job; SLURM queues it again, and it goes on from the newest checkpoint.
job() {
    cat <<END
#!/bin/bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$GPUS
#SBATCH --exclusive
#SBATCH --time=$TIME
#SBATCH --requeue
#SBATCH --output=$RUN_DIR.log
#SBATCH --open-mode=append
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
set -euo pipefail
export JAX_COORDINATOR_ADDRESS="\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1):\$((20000 + SLURM_JOB_ID % 20000))"
export JAX_COMPILATION_CACHE_DIR="\$PWD/runs/compiled"
. $VENV/bin/activate
srun --kill-on-bad-exit=1 bash -c 'JAX_NUM_PROCESSES=\$SLURM_NTASKS JAX_PROCESS_ID=\$SLURM_PROCID exec "\$@"' \\
    - $1
END
}

case "$VERB" in
train)
    TRAIN="$(train_command "$@")"
    run mkdir -p "$(dirname "$RUN_DIR")"
    feed "$(job "$TRAIN")" sbatch
    ;;
logs) run tail -n 100 -F "$RUN_DIR.log" ;;
stop) run scancel --name="$NAME" ;;
*) fail "no verb $VERB; see $0 help" ;;
esac
