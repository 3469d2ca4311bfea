# SPDX-License-Identifier: Apache-2.0
"""The one exception for mistakes a user can fix."""


class UserError(ValueError):
    """A mistake in a config, a file or a call.

    The message says what was found, what was expected and what to do; the command line prints it
    without a traceback and exits with 2.
    """
