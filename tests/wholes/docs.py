# SPDX-License-Identifier: Apache-2.0
"""The commands and snippets of README and docs.

A block is fenced, or indented and begins with a command. What CI lacks for it stands before it in a
comment that is not rendered: `<!-- needs: download -->`, one or several of `NEEDS`.
"""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"cloud", "download", "gpu", "install", "minutes"}
COMMAND = re.compile(r"(jaxvl|bash|python|pip|export|for \w+ in|[A-Z_]+=\S*) ")


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line
    kind: str  # python, console, or text that nobody runs
    text: str
    needs: frozenset[str]

    @property
    def commands(self):
        """Its commands as words; without comments, and lines that end in a backslash joined."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(text: str, page: str = "page.md") -> list[Block]:
    lines, found, at = text.split("\n"), [], 0
    while at < len(lines):
        fence = re.match(r"( *)```+(\w*)", lines[at])
        first = at + 1 if fence else at
        if fence:
            end = first
            while end < len(lines) and not re.match(r" *```+\s*$", lines[end]):
                end += 1
            body, after = lines[first:end], end + 1
        elif re.match("    ", lines[at]) and COMMAND.match(lines[at].strip()):
            end = first
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            body, after = lines[first:end], end
        else:
            at += 1
            continue
        content = "\n".join(line.removeprefix(fence[1] if fence else "    ") for line in body)
        word = fence[2] if fence else ""
        if word != "python":
            runs = word in ("bash", "sh", "console", "shell") or any(
                COMMAND.match(line.strip() + " ") for line in body
            )
            word = "console" if runs else "text"
        found.append(
            Block(
                page,
                first + 1,
                word,
                content,
                _needs(lines[:at]),
            )
        )
        at = after
    return found


def _needs(before: list[str]) -> frozenset[str]:
    """What the comment says that stands right before a block, blank lines aside."""
    last = next((line for line in reversed(before) if line.strip()), "")
    marked = re.fullmatch(r"\s*<!-- needs: ([\w, ]+) -->\s*", last)
    return frozenset(re.split(r", *", marked[1])) if marked else frozenset()


def all_blocks() -> list[Block]:
    found = []
    for path in PAGES:
        found += blocks(path.read_text(), str(path.relative_to(ROOT)))
    return found
