# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other projects: Hugging Face directories, tensor names, adapters."""
