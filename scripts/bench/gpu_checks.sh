#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with an NVIDIA GPU: kernels against the reference, then the benches, in pieces of ten
# minutes at most, each of which writes what it found before the next begins.
#
#     scripts/bench/gpu_checks.sh OUT_DIR             every piece whose file is not there yet
#     scripts/bench/gpu_checks.sh OUT_DIR PIECE ..    these alone, anew
#     scripts/bench/gpu_checks.sh --merge OUT_DIR     the tables into docs/performance.md
#
# PYTHON is the interpreter (default: python3), PEER_PYTHON one that has TRL, without which jaxvl is
# timed alone. A piece that fails or runs out of time is told and the others go on; exit code 1 then.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if [ "${1:-}" = --merge ]; then
    exec "$python" scripts/bench/gpu_tables.py "${2:?the folder of the pieces}"
fi
pieces=(kernels decode64 decode512 generate64 generate512 slots
    update2 update4 update8 update16 products8 step)
[ $# -ge 1 ] || { sed -n 3,11p "$0"; echo "# pieces: ${pieces[*]}"; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
shift
export JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_PREALLOCATE=false
bench=scripts/bench

piece() { # the command of a piece; benches write its JSON
    local to="$out/$1.json" peer=(--peer-python "${PEER_PYTHON:-$python}")
    case $1 in
        kernels) "$python" -m pytest -q tests/models/test_kernels.py && echo '{"rows": []}' >"$to" ;;
        decode*) "$python" $bench/decode_roofline.py --gpu --slots "${1#decode}" --out "$to" ;;
        generate*)
            "$python" $bench/generate.py --gpu --completions "${1#generate}" "${peer[@]}" --out "$to" ;;
        slots) "$python" $bench/slots.py --gpu --out "$to" ;;
        update*) "$python" $bench/update.py --gpu --groups "${1#update}" --out "$to" ;;
        products8) "$python" $bench/update.py --gpu --remat products --groups 8 --out "$to" ;;
        step)
            "$python" $bench/grpo_step.py --gpu --prompts 8 --new-tokens 256 --micro-batches 8 \
                "${peer[@]}" --out "$to" ;;
        *) echo "no piece $1; there are: ${pieces[*]}"; return 2 ;;
    esac
}

failed=()
anew=$#
[ $# -gt 0 ] || set -- "${pieces[@]}"
for name in "$@"; do
    if [ "$anew" -eq 0 ] && [ -s "$out/$name.json" ]; then continue; fi
    rm -f "$out/$name.json"
    echo "== $name, at most ten minutes; what it prints is in $out/$name.log"
    export -f piece
    export out bench python
    timeout -k 10 "${LIMIT:-590}" bash -c "pieces=(${pieces[*]}); piece $name" >"$out/$name.log" 2>&1
    code=$?
    tail -n 3 "$out/$name.log"
    [ $code -eq 0 ] || { echo "$name: exit code $code"; failed+=("$name"); }
done
[ ${#failed[@]} -eq 0 ] || { echo "not done: ${failed[*]}"; exit 1; }
