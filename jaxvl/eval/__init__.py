# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: engines that reply, scoring, reporting."""
