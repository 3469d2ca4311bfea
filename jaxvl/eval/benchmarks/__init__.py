# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, one a file: each module has a constant BENCHMARK, whose name is the module's."""
