#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with an NVIDIA GPU: the kernels against the reference, then the update as a tree.
#
#     scripts/bench/gpu_checks.sh [OUT_DIR]
set -euo pipefail
out=$(realpath "${1:-.}")
cd "$(dirname "$0")/../.."
export JAX_PLATFORMS=cuda
python -m pytest tests/models/test_kernels.py
python scripts/bench/update.py --gpu --remat block --out "$out/update_block.json"
python scripts/bench/update.py --gpu --remat products --groups 8 --out "$out/update_products.json"
