# SPDX-License-Identifier: Apache-2.0
"""Batches of other trainers, which count completions a device, as rows and micro-batches here."""

from __future__ import annotations

from jaxvl.errors import UserError

_MOST = 1_000_000  # above it a number is a slip, and ways to deal so many out are not tried


def cut(
    prompts: int, group: int, mini_batches: int, micro_batches: int, devices: int
) -> tuple[int, int]:
    """(group_per_row, micro_batches) whose rows can be dealt out: micro-batches as near below those
    that are asked for as is possible, then rows as long as possible. Neither changes the result."""
    for micro in range(max(min(micro_batches, prompts * group), 1), 0, -1):
        for per_row in range(group, 0, -1):
            rows = prompts * (group // per_row)
            if group % per_row == 0 and rows % (mini_batches * micro * devices) == 0:
                return 0 if per_row == group else per_row, micro
    raise UserError(
        f"{prompts} prompts with {group} completions each are {prompts * group}, which cannot be "
        f"dealt out to {devices} devices in {mini_batches} updates: give other --devices"
    )


def whole(value: float, what: str) -> int:
    """`value` as an int from 1 to a million; UserError where it is none."""
    if not 1 <= value <= _MOST or value != int(value):
        raise UserError(f"{what} is {value:g}, expected a whole number of 1 to {_MOST:,}")
    return int(value)
