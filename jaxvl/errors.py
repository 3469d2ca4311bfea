# SPDX-License-Identifier: Apache-2.0
"""The exceptions that end a run with one message."""


class UserError(ValueError):
    """A mistake in a config, a file or a call.

    The message says what was found, what was expected and what to do; the command line prints it
    without a traceback and exits with 2.
    """


class TrainingFailed(RuntimeError):
    """A run that cannot go on, though nothing is wrong with its config.

    The message says in which step, why, and what is saved; the command line prints it without a
    traceback and exits with 1. All processes of a run raise it together.
    """
