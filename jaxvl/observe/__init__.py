# SPDX-License-Identifier: Apache-2.0
"""What is seen of a run: its numbers, its speed, its page."""
