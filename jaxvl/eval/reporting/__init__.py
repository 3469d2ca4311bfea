# SPDX-License-Identifier: Apache-2.0
"""Summaries, intervals, comparisons, tables and pages of what was scored."""
