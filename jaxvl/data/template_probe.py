# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint's chat template, which is a program, comes to an end: tried once when it is
loaded, on short messages, in a child process under limits of time, memory and length."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

from jaxvl.errors import UserError

LONGEST = 2**24  # characters that a template may make of messages
_LONGEST_TEMPLATE = 2**20
_SECONDS, _MEMORY = 2, 2**30  # of processor time; of address space
_WAIT = 120.0  # seconds for a child that gets no processor
_PARTS = [{"type": "image"}, {"type": "text", "text": "How many?"}]
SAMPLES = (
    [{"role": "user", "content": "How many?"}],
    [{"role": "user", "content": _PARTS}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": _PARTS},
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
        {"role": "user", "content": "And now?"},
    ],
    _PARTS,  # for the template of a base checkpoint
)


def check(where: Path, template: object) -> None:
    """UserError where a template is no text, or does not end within the limits."""
    if not isinstance(template, str):
        raise UserError(f"{where}: its chat template is {template!r:.80}; expected text")
    wrong = _trouble(template)
    if wrong:
        raise UserError(
            f"{where}: its chat template cannot be used: {wrong}; expected one that loops over "
            "messages alone; take the template (chat_template.jinja, chat_template.json or "
            "tokenizer_config.json) from the published checkpoint"
        )


@functools.lru_cache(maxsize=64)
def _trouble(template: str) -> str:
    """What is too much about a template, or ""."""
    if len(template) > _LONGEST_TEMPLATE:
        return f"it has {len(template)} characters, the limit is {_LONGEST_TEMPLATE}"
    request = {"template": template, "samples": SAMPLES, "longest": LONGEST}
    request |= {"memory": _MEMORY, "seconds": _SECONDS}
    program = Path(__file__).with_name("template_child.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(program)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it does not end within {_WAIT:.0f} seconds"
    if done.returncode < 0:
        return f"it takes more than {_SECONDS} s or {_MEMORY // 2**20} MiB for a short question"
    return done.stdout.decode().strip()
