# SPDX-License-Identifier: Apache-2.0
"""Images, prompts and tokens, in numpy."""
