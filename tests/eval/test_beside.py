# SPDX-License-Identifier: Apache-2.0
"""MOSSBench's published tables with ours on top, by what was asked."""

from tests.eval import mossbench_files as published
from tests.eval.test_mossbench import BENIGN, answered, command


def reported(tmp_path, protocol, refused=2):
    """The report with the papers' tables: by its title the rows of each published table."""
    items, _ = BENIGN.read(tmp_path / "set", protocol)
    ids = [item.id for item in items if not item.id.endswith(("caption", "intent"))]
    plain = [id for id in ids if not id.endswith("description")]
    no = {*plain[:refused], *(f"{id.partition('/')[0]}/description" for id in plain[:1])}
    out = tmp_path / protocol
    texts = {item.id: "I cannot help." if item.id in no else "A room." for item in items}
    answered(tmp_path, out, "mossbench", texts, protocol)
    command("score", out)
    command("report", out, "--paper")
    tables = {}
    for line in (out / "report.md").read_text().splitlines():
        if line.startswith("### "):
            rows = tables.setdefault(line.removeprefix("### "), [])
        elif line.startswith("| "):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {title: rows for title, rows in tables.items() if "Published" in title}, out


def test_ours_stand_in_the_tables_of_their_protocol_alone(tmp_path):
    published.repository(tmp_path / "set")

    def found(protocol):
        tables, out = reported(tmp_path, protocol)
        ours = {
            title.split(", ", 3)[3]: [row for row in rows if row[0].startswith("ours")]
            for title, rows in tables.items()
        }
        return ours, (out / "report.md").read_text()

    tables, _ = found("paper")
    assert [title.split(",")[0] for title in tables] == ["main results"] * 2 + ["system prompts"]
    (prompts,) = [rows for title, rows in tables.items() if title.startswith("system")]
    assert prompts[0] == ["ours, strict, none", "100.0", "0.0", "0.0", "33.3"]
    tables, _ = found("safety")
    ((title, rows),) = tables.items()
    assert title.startswith("system prompts") and rows[0][0] == "ours, strict, safety"
    tables, _ = found("stages")
    ((title, rows),) = tables.items()
    # Of the two that were refused plainly, one with the description still, none with the intent.
    assert title.startswith("stages") and rows == [
        [f"ours, {mode}, with description{more}", figure, "-", "-", figure]
        for more, figure in (("", "50.0"), (" and intent", "0.0"))
        for mode in ("strict", "lenient")
    ]
    tables, text = found("careful")
    assert tables == {}
    assert "mossbench: no published figure is known of what protocol careful asks" in text
