# SPDX-License-Identifier: Apache-2.0
"""The architecture of Qwen2-VL and Qwen2.5-VL, and its checkpoints."""
