# SPDX-License-Identifier: Apache-2.0
"""The figures and tables of the three papers, drawn from runs and results that are there."""
