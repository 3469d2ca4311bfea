# SPDX-License-Identifier: Apache-2.0
"""Files of rows: every format gives the same rows, from any row on; what is broken is told."""

import bz2
import csv
import gzip
import json
import lzma

import numpy as np
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
    ("rows", "bad"),
    [
        ('1,"a" b,x\n', 1),  # closed within the cell
        ('1,"a,x\n', 1),  # never closed
        ('1,"a,x\n2,"b ""c""",x\n', 1),  # closed by the next row's
        ('1,a,"x\n2,b,y\n', 1),  # at the end of a row
        ('1,a,x"\n2,5" pipe,y\n', 0),  # within a text
        ('"1""2",a,"x"\n', 0),
        ('1,"two\nlines",x\n\n', 0),
        ('1,"a,x\n1,"a,x\n1,"a,x\n', 3),
        ("1,a\n1,a,x,y\n", 2),
        ('1,"a\n\n"b,x\n2,c,z\n', 2),  # the second of its lines is no row either
    ],
    ids=range(10),
)
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_stray_quote_costs_its_row_and_no_other(tmp_path, rows, bad, kind):
    path = tmp_path / f"a.{kind}"
    text = "\ufeffid,question,answer\n0,first,a\n" + rows + '8,"last, one",b\n9,end,c'
    if kind == "tsv":
        text = text.replace("last, one", "last; one").replace(",", "\t").replace(";", ",")
    path.write_text(text, encoding="utf-8", newline="")
    found = [row for _, _, row in read([path])]
    assert sum(isinstance(row, BadRow) for row in found) == bad
    assert found[0] == {"id": "0", "question": "first", "answer": "a"}
    assert found[-2] == {"id": "8", "question": "last, one", "answer": "b"}
    assert found[-1] == {"id": "9", "question": "end", "answer": "c"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id;question;answer\n1;a;b\n", r"has semicolons .*\(id, question, answer\)"),
        ("a.csv", "question\tanswer\na\tb\n", r"has tabs .*\(question, answer\); expected commas"),
        ("a.csv", "question|answer, gold|image\n", "has bars"),
        ("a.tsv", "question,answer,image\na,b,c\n", "has commas .*; expected tabs"),
        ("a.csv", "answer,question,answer\n1,b,2\n", r"'answer' stands more .*columns 1, 3 of 3"),
        ("a.csv", "answer,question, answer \n1,b,2\n", "'answer' stands more than once"),
        ("a.tsv", "a\ta\n1\t2\n", "'a' stands more than once"),
        ("a.csv", '"id,answer\n1,a\n', "cannot be read: its header"),
        ("a.csv", b"fr\xe9d,answer\n1,a\n", "its header .* is not UTF-8"),
        ("a.csv", "question,answer\na,b\n".encode("utf-16"), "UTF-16"),
        ("a.csv", "question,answer\na,b\n".encode("utf-16-le"), "UTF-16"),
        ("a.jsonl", '{"question": "a"}\n'.encode("utf-16"), "UTF-16.*iconv"),
        ("a.json", '[{"question": "a"}]'.encode("utf-32"), "UTF-32"),
        (
            "a.jsonl",
            gzip.compress(b'{"a": "b"}', mtime=0),
            r"compressed \(.*1f 8b\).*gunzip",
        ),
        ("a.csv", bz2.compress(b"question,answer"), "compressed .*bunzip2"),
        ("a.json", lzma.compress(b"[]"), "compressed .*unxz"),
        ("a.tsv", b"PK\3\4" + b"\0" * 40, "compressed .*unzip"),
        ("a.json", '[{"question": "a", "question": "b"}]', "'question' stands 2 times"),
        ("a.json", '{"r1": {"q": 1}, "r1": {"q": 2}}', "'r1' stands 2 times"),
    ],
)
def test_a_file_that_would_be_read_wrong_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as told:
        list(read([path]))
    assert name in str(told.value)


@pytest.mark.parametrize("deep", [64, 65, 900, 100_000])
@pytest.mark.parametrize("form", ["list", "object"])
def test_a_row_that_is_nested_too_deeply_is_bad_and_the_others_are_not(tmp_path, deep, form):
    """Whatever column it is in: what reads a row goes into it by calls, and has not many."""
    before, after = ("[", "]") if form == "list" else ('{"a":', "}")
    value = before * (deep - 1) + "1" + after * (deep - 1)  # the row itself is one more
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "a", "x": {value}}}\n{{"question": "b"}}\n')
    (_, _, first), (_, _, second) = read([path])
    assert isinstance(first, BadRow) == (deep > 64) and second == {"question": "b"}
    if 64 < deep < 1000:
        assert "more than 64 objects and lists in one another" in str(first)


def test_a_column_that_stands_twice_in_parquet_and_arrow(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["answer", "answer"])
    pq.write_table(table, tmp_path / "a.parquet")
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(UserError, match=f"{name}: the column 'answer' is there 2 times"):
            list(read([tmp_path / name]))


@pytest.mark.parametrize(
    "line",
    ['{"a": 1, "b": 2, "a": 3}', '{"a": {"b": 1, "b": 1}}', '{"a": [{"c": null, "c": {}}]}'],
)
def test_a_key_that_stands_twice_costs_its_row(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    one, bad, two = (row for _, _, row in read([path]))
    assert (one, two) == ({"a": 1}, {"a": 2})
    assert bad.reason == "key that stands twice" and "stands 2 times" in str(bad)


def test_names_of_columns_are_stripped_and_cells_that_are_no_utf8_cost_their_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b",question , answer,\r\n0,a,b,\r\n1,caf\xe9,c,\r\n2,d,e,\r\n")
    one, bad, two = (row for _, _, row in read([path]))
    assert one == {"question": "a", "answer": "b"} and two == {"question": "d", "answer": "e"}
    assert isinstance(bad, BadRow) and "not UTF-8" in str(bad)


def test_a_quote_that_is_left_open_is_cheap(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + '1,"x\n' * 3000)
    found = [row for _, _, row in read([path])]
    assert len(found) == 3000 and all(isinstance(row, BadRow) for row in found)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_lines_end_with_a_newline_alone(tmp_path, mark, name):
    path = tmp_path / name
    rows = [{"q": f"one{mark}two", "a": "1"}, {"q": "x", "a": "2"}]
    if name == "a.csv":
        text = "q,a\r\n" + "".join(f"{row['q']},{row['a']}\r\n" for row in rows)
    else:  # a control character has to be escaped in JSON, others need not be
        text = "".join(json.dumps(row, ensure_ascii=mark < " ") + "\r\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="")
    assert [row for _, _, row in read([path])] == rows


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


def test_an_arrow_file_whose_texts_lie_behind_its_end_is_a_message(tmp_path):
    """Read as it is, it would end the process or show other bytes of its memory."""
    table, path = pa.table({"question": ["what", "else"]}), tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    sound, broken = (np.array([0, 4, end], np.int32).tobytes() for end in (8, 400_000_000))
    assert path.read_bytes().count(sound) == 1
    path.write_bytes(path.read_bytes().replace(sound, broken))
    with pytest.raises(UserError, match="out of bounds"):
        list(read([path]))
