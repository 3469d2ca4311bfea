# SPDX-License-Identifier: Apache-2.0
"""The kinds of answers that can be verified, a module each: `judge(answer, gold, choices)`.

`answer` is the content of an answer block and `gold` the right answer, both as text.
"""
