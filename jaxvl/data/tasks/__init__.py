# SPDX-License-Identifier: Apache-2.0
"""Sources: one adapter a dataset, each a frozen dataclass whose `load()` gives examples."""
