# SPDX-License-Identifier: Apache-2.0
"""Files of rows: every format gives the same rows, from any row on; what is broken is told."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxvl.data.example import BadRow
from jaxvl.data.files import read, sha256
from jaxvl.errors import UserError

ROWS = [{"id": f"r{n}", "question": f'q {n}\t"x"\né', "answer": str(n)} for n in range(7)]


def write(path):
    kind = path.suffix
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    elif kind == ".arrow":
        table = pa.Table.from_pylist(ROWS)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    elif kind in (".tsv", ".csv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ROWS[0], delimiter="\t" if kind == ".tsv" else ",")
            table.writeheader()
            table.writerows(ROWS)
    elif kind == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.tsv", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("start", [1, 2, 4, 7, 8])
def test_every_format_gives_the_rows_from_any_one_on(tmp_path, name, start):
    one, two = write(tmp_path / name), write(tmp_path / f"b{name}")
    found = list(read([one, two], start))
    whole = [(n, one if n < 8 else two, (ROWS * 2)[n - 1]) for n in range(1, 15)]
    assert found == whole[start - 1 :]
    assert list(read([one, two], 10)) == whole[9:]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "\n".join(json.dumps(row) for row in ROWS),
        json.dumps({row["id"]: {k: v for k, v in row.items() if k != "id"} for row in ROWS}),
        json.dumps({row["id"]: row for row in ROWS}, indent=1),
        "\ufeff" + json.dumps(ROWS),
    ],
    ids=["list", "indented", "lines", "object", "indented object", "byte order mark"],
)
def test_json_comes_in_several_forms(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    assert [row for _, _, row in read([path])] == ROWS
    assert [number for number, _, _ in read([path], 3)] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "text", "bad", "words"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n[2]\n{"a": 3}', [2, 3], "broken JSON"),
        ("a.jsonl", b'{"a": "\xff"}\n' + b"[" * 100_000, [1, 2], "broken JSON"),
        ("a.json", b'{"a": \n{"a": 1}\n', [1], "broken JSON"),
        ("a.json", b'[{"a": 1}, 2]', [2], "expected an object"),
        ("a.jsonl", b'{"a": "\\ud83d\\ude00"}\n{"a": "\\ud83d"}', [2], "half of a character"),
        ("a.json", b'[{"a": "x"}, {"a": {"b": ["\\uDC00"]}}]', [2], "half of a character"),
        ("a.tsv", b"a\tb\n1\t2\n1\n1\t2\t3\n", [2, 3], "does not fit the header"),
    ],
)
def test_a_broken_row_is_one_row(tmp_path, name, text, bad, words):
    path = tmp_path / name
    path.write_bytes(text)
    found = {number: row for number, _, row in read([path])}
    assert [number for number, row in found.items() if isinstance(row, BadRow)] == bad
    assert words in str(found[bad[0]])


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", b"3"), ("a.json", b"[1, "), ("a.parquet", b"PAR1"), ("a.arrow", b"x" * 9)],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(UserError, match=name):
        list(read([path]))


def test_a_checksum_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == expected  # FIPS 180-2, example B.1
