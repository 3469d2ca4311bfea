# SPDX-License-Identifier: Apache-2.0
"""Why an answer got its reward. The first two say how a comparison ended, the others why there was
none, or no result."""

MATCH, MISMATCH = "match", "mismatch"
NO_ANSWER = "no_answer"  # no valid answer block, or an empty one
SEVERAL = "several"  # blocks that disagree, two letters, two numbers: hedging earns nothing
UNREAD = "unread"  # not an answer of this kind
TOO_LONG = "too_long"
REFUSED = "refused"  # mathematics that is too costly to look at, or not mathematics
TIMEOUT, CRASH = "timeout", "crash"  # of the symbolic comparison
BAD_GOLD = "bad_gold"  # the right answer is not one of this kind: the row is at fault
