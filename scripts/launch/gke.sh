#!/usr/bin/env bash
# A run on a TPU node pool of GKE, as a JobSet, by kubectl.
#
#   bash scripts/launch/gke.sh [--dry-run | --yes] build                     the image, by docker
#   bash scripts/launch/gke.sh [--dry-run | --yes] train CONFIG [K=V]...     start, or go on
#   bash scripts/launch/gke.sh [--dry-run | --yes] logs | stop | collect
#
# NAME         of the run                  IMAGE      of the container, where the cluster finds it
# BUCKET       of Cloud Storage            ACCOUNT    Kubernetes account that may use it (default: default)
# Without --yes the commands are shown, not run.
# ACCELERATOR  as tpu-v5-lite-podslice     TOPOLOGY   of a slice, as 4x4
# HOSTS        machines of a slice         CHIPS      of a machine (default: 4)
# SLICES       of such chips (default: 1)  RESTARTS   after a failure (default: 3)
# SPOT=1       machines that can be taken  COMMAND    grpo (default) or sft
#              back, cheaper               GRACE      seconds to save in (default: 300)
set -euo pipefail
# shellcheck source=scripts/launch/lib.sh
. "$(dirname "$0")/lib.sh"

case "$VERB" in
help | -h | --help)
    usage
    exit
    ;;
esac
need NAME "the name of the run"
: "${ACCOUNT:=default}" "${CHIPS:=4}" "${SLICES:=1}" "${RESTARTS:=3}" "${GRACE:=300}"
RUN_DIR="/shared/runs/$NAME"

# One job a slice, one pod a machine. GKE tells the pods of each other and jax finds it; when one
# fails, all are started again and go on from the newest checkpoint. A machine that is taken back or
# repaired is nobody's failure: that restart does not count. Its pod is asked to stop, and all pods
# end with 143.
manifest() {
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
      - action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: ["PodFailurePolicy"]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions:
                  - type: DisruptionTarget
              - action: FailJob
                onExitCodes:
                  containerName: jaxvl
                  operator: In
                  values: [143]
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $GRACE
              serviceAccountName: $ACCOUNT
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
${SPOT:+                cloud.google.com/gke-spot: 'true'
}              containers:
                - name: jaxvl
                  image: $IMAGE
                  command: ["bash", "-c", "$1"]
                  env:
                    - name: JAX_COMPILATION_CACHE_DIR
                      value: /shared/compiled
                  ports:
                    - containerPort: 8471
                    - containerPort: 8482
                  resources:
                    requests:
                      google.com/tpu: $CHIPS
                    limits:
                      google.com/tpu: $CHIPS
                  volumeMounts:
                    - name: shared
                      mountPath: /shared
              volumes:
                - name: shared
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $BUCKET
                      mountOptions: implicit-dirs,rename-dir-limit=100000
END
}

case "$VERB" in
build)
    need IMAGE "the name of the image to build and push"
    run docker build --file scripts/launch/Dockerfile --tag "$IMAGE" .
    run docker push "$IMAGE"
    ;;
train)
    need IMAGE "the image of the container"
    need BUCKET "a bucket of Cloud Storage that holds the runs"
    need ACCELERATOR "the kind of TPU, as tpu-v5-lite-podslice"
    need TOPOLOGY "the shape of a slice, as 4x4"
    need HOSTS "the number of machines of a slice"
    whole HOSTS CHIPS SLICES
    [[ "$ACCELERATOR" =~ ^tpu[a-z0-9-]+$ ]] || fail "ACCELERATOR is $ACCELERATOR; expected one as tpu-v5-lite-podslice"
    [[ "$TOPOLOGY" =~ ^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$ ]] || fail "TOPOLOGY is $TOPOLOGY; expected a shape, as 4x4"
    [ $((${TOPOLOGY//x/*})) = $((HOSTS * CHIPS)) ] ||
        fail "TOPOLOGY $TOPOLOGY has $((${TOPOLOGY//x/*})) chips, HOSTS=$HOSTS machines of CHIPS=$CHIPS have $((HOSTS * CHIPS))"
    TRAIN="$(train_command "$@")"
    TRAIN="${TRAIN//\\/\\\\}" # for a string of YAML
    TRAIN="${TRAIN//\"/\\\"}"
    # What was applied cannot be changed. Its pods save and end before others begin.
    run kubectl delete jobset "$NAME" --ignore-not-found --cascade=foreground --wait
    feed "$(manifest "exec $TRAIN")" kubectl apply -f -
    ;;
logs)
    run kubectl logs --follow --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --prefix \
        --max-log-requests=1000
    ;;
stop) run kubectl delete jobset "$NAME" --cascade=foreground --wait ;;
collect)
    need BUCKET "the bucket that holds the runs"
    run gcloud storage rsync --recursive "gs://$BUCKET/runs/$NAME" "runs/$NAME"
    ;;
*) fail "no verb $VERB; see $0 help" ;;
esac
