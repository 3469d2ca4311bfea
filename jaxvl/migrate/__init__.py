# SPDX-License-Identifier: Apache-2.0
"""Settings of other trainers as a config of jaxvl, with what became of each."""

from jaxvl.migrate.read import Converted, convert

__all__ = ["Converted", "convert"]
