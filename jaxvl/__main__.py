# SPDX-License-Identifier: Apache-2.0
"""python -m jaxvl"""

from jaxvl.cli.main import main

main()
