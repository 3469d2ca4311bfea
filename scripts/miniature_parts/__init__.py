# SPDX-License-Identifier: Apache-2.0
"""What scripts/miniature.py is made of: arms, their runs, what is measured, tables."""
