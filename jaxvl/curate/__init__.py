# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking's pipeline (arXiv 2504.11468): from (image, question, answer) rows through
caption, distillation, rewriting and verification to disjoint sets for SFT and for RL.

Host only. What needs a model takes a teacher (`teachers.py`) or a plain function.
"""
