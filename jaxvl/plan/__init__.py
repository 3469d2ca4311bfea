# SPDX-License-Identifier: Apache-2.0
"""Whether a run fits chips that are not there, and how long a step of it takes at least."""
