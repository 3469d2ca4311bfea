# SPDX-License-Identifier: Apache-2.0
"""A state on the disk: saved, checked, restored, converted; and what a run starts from."""
