"""Readers of texts: every format, and mistakes named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mlx_jina.errors import InputError
from mlx_jina.files import inputs
from mlx_jina.files.inputs import Record


def read(path: Path, content: bytes | str, field: str | None = None) -> list[Record]:
    """Write a file and read its texts back."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    inputs.check([str(path)], field)
    return list(inputs.from_paths([str(path)], field))


def texts(records: list[Record]) -> list[str]:
    """Only the texts."""
    return [record.text for record in records]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\ntwo", ["one", "two"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("\ufeffone\n\n  two \n", ["one", "", "  two "]),
        ("a\u2028b\x0cc\x85d\re\nf", ["a\u2028b\x0cc\x85d\re", "f"]),
        ("", []),
        ("\n", [""]),
    ],
)
def test_every_line_is_a_text(tmp_path: Path, content: str, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    records = read(path, content)
    assert texts(records) == expected
    assert [record.origin for record in records] == [f"{path}, line {i + 1}" for i in range(len(expected))]
    assert inputs.count([str(path)]) == len(expected)


def test_json_lines(tmp_path: Path) -> None:
    content = (
        '\ufeff{"text": "a", "id": 7}\r\n\n{"id": "x", "text": "b\\nc"}\n{"id": null, "text": "\\ud83d\\ude00"}'
    )
    records = read(tmp_path / "a.jsonl", content)
    assert texts(records) == ["a", "b\nc", "😀"]
    assert [record.label for record in records] == [("id", 7), ("id", "x"), None]
    assert [record.line for record in records] == [1, 3, 4]
    assert texts(read(tmp_path / "b.ndjson", '{"body": "a"}', "body")) == ["a"]


def test_csv(tmp_path: Path) -> None:
    content = '\ufeffid,text\r\n1,"two\nlines, ""quoted"""\r\n\r\n2,plain\r\n'
    records = read(tmp_path / "a.csv", content)
    assert texts(records) == ['two\nlines, "quoted"', "plain"]
    assert [record.label for record in records] == [("id", "1"), ("id", "2")]
    assert [record.line for record in records] == [2, 5]
    assert texts(read(tmp_path / "b.csv", "a,body\nx,y\n", "body")) == ["y"]
    long = "word " * 50_000
    assert texts(read(tmp_path / "long.csv", f"text\n{long}\n")) == [long]


def test_folder_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", "a/B.MD", "c.txt", "c.json", ".obsidian/x.md", "d/.hidden.md", "é.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xef\xbb\xbf" + name.encode() + b"\r\nline\r\n")
    records = list(inputs.from_paths([str(tmp_path)], None))
    names = ["a/B.MD", "a/z.txt", "b.md", "c.txt", "é.md"]
    assert [record.label for record in records] == [("file", str(tmp_path / name)) for name in names]
    assert texts(records) == [f"{name}\nline\n" for name in names]
    assert inputs.count([str(tmp_path)]) == 5


def test_other_tables(tmp_path: Path) -> None:
    """A semicolon, as programs write it where the comma is decimal; tabs."""
    assert texts(read(tmp_path / "a.csv", "id;text\n1;a, b\n2;c\n")) == ["a, b", "c"]
    assert texts(read(tmp_path / "b.csv", "id\ttext\n1\ta, b\n")) == ["a, b"]
    assert texts(read(tmp_path / "c.csv", "id,text\n1,a; b\n")) == ["a; b"]
    # As Excel is told, and with columns at the end that have no name.
    assert texts(read(tmp_path / "f.csv", "sep=|\r\nid|text\r\n1|a, b\r\n")) == ["a, b"]
    assert texts(read(tmp_path / "g.csv", "text,id\na,1,,\n")) == ["a"]
    assert texts(read(tmp_path / "d.tsv", 'id\ttext\n1\ta, b; c\n2\t"x\ty"\n')) == ["a, b; c", "x\ty"]
    assert texts(read(tmp_path / "e.csv", "a;b,text\nx;y,z\n")) == ["z"]
    with pytest.raises(InputError, match=r"is empty; a \.tsv file needs a header row"):
        read(tmp_path / "f.tsv", "")
    with pytest.raises(InputError, match=r"line 1: no column 'body' \(it has: id, text\)"):
        read(tmp_path / "g.tsv", "id\ttext\n", "body")


def test_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    assert texts(read(path, '\ufeff["a", "b\\nc"]')) == ["a", "b\nc"]
    records = read(path, '[{"text": "a", "id": 7},\n {"text": "b"}]')
    assert [(record.text, record.label) for record in records] == [("a", ("id", 7)), ("b", None)]
    assert [record.origin for record in records] == [f"{path}, item 1", f"{path}, item 2"]
    assert texts(read(path, '[{"body": "x"}]', "body")) == ["x"]
    assert (read(path, "[]"), inputs.count([str(path)])) == ([], None)
    for content, words in (
        ('{"text": "a"}', "an array of texts or of objects is needed, this is an object"),
        ('["a", 5]', "item 2: a JSON object is needed, this is a number"),
        ('["a",\n"b"', "line 2: not valid JSON"),
        ("[" * 200_000, "JSON that cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read(path, content)
    monkeypatch.setattr(inputs, "LARGEST_ARRAY", 1 << 20)
    with pytest.raises(InputError, match=r"more than 1 MB; write it as \.jsonl"):
        read(path, '["' + "a" * (1 << 20) + '"]')


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text\ncafé\n".encode("utf-16"), "is UTF-16; convert it first: iconv -f utf-16 -t utf-8"),
        ("text\ncafé\n".encode("utf-16-be"), "is UTF-16; convert it first: iconv -f utf-16be -t utf-8"),
        ("text\ncafé\n".encode("utf-16-le"), "is UTF-16; convert it first: iconv -f utf-16le -t utf-8"),
        (gzip.compress(b"text\n", mtime=0), "is compressed by gzip; unpack it first: gunzip"),
        (b"PK\x03\x04rest", "is a ZIP archive, or a document of an office program"),
        (b"%PDF-1.7\n", "is a PDF"),
        ("{ö".encode("cp1252"), "is not valid UTF-8; convert the file first, as by iconv -f windows-1252"),
    ],
)
def test_what_is_not_utf8_gets_its_own_advice(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path / name, content)
    assert words in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_notes_that_cannot_be_read(tmp_path: Path) -> None:
    """They are left out by name, unless somebody wants to stop there."""
    for name, content in {"a.md": b"a", "b.md": b"caf\xe9", "c/d.markdown": b"d", "e.txt": b"\xff\xfex\0"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.md").symlink_to(tmp_path / "nowhere")
    skipped: list[tuple[str, str]] = []
    records = inputs.from_paths([str(tmp_path)], None, lambda *each: skipped.append(each))
    assert texts(list(records)) == ["a", "d"]
    assert [(Path(path).name, why.partition(";")[0]) for path, why in skipped] == [
        ("b.md", "line 1: byte 0xe9 is not valid UTF-8"),
        ("e.txt", "is UTF-16"),
    ]
    with pytest.raises(InputError, match=r"b\.md, line 1: byte 0xe9"):
        list(inputs.from_paths([str(tmp_path)], None))
    # A file that is named is meant.
    with pytest.raises(InputError, match=r"b\.md, line 1: byte 0xe9"):
        list(inputs.from_paths([str(tmp_path / "b.md")], None, lambda *each: skipped.append(each)))
    for name in ("a.md", "c/d.markdown"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"none of the 2 notes in .* can be read"):
        list(inputs.from_paths([str(tmp_path)], None, lambda *each: skipped.append(each)))


def test_one_document(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "a.md", "# A\n\ntext")) == ["# A\n\ntext"]


LINES_16 = '{"text": "fine"}\n' * 16


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\n" * 16 + b"caf\xe9\n", "line 17: byte 0xe9 is not valid UTF-8"),
        ("a.md", b"ok\n" * 16 + b"caf\xe9\n", "line 17: byte 0xe9 is not valid UTF-8"),
        ("a.csv", b"text\n" + b"ok\n" * 15 + b"caf\xe9\n", "line 17: byte 0xe9 is not valid UTF-8"),
        ("a.jsonl", LINES_16 + '{"text": "cut', "line 17: not valid JSON (Unterminated string"),
        ("a.jsonl", LINES_16 + '"text"', "line 17: a JSON object is needed, this is a string"),
        ("a.jsonl", LINES_16 + '{"body": "x"}', "line 17: no field 'text' (it has: body)"),
        ("a.jsonl", LINES_16 + '{"text": 5}', "line 17: field 'text' must be a string, this is a number"),
        ("a.jsonl", LINES_16 + '{"text": null}', "line 17: field 'text' must be a string, this is null"),
        ("a.jsonl", LINES_16 + '{"text": "x", "id": [1]}', 'line 17: "id" must be a string or a whole number'),
        ("a.jsonl", LINES_16 + "[" * 200_000, "line 17: JSON that cannot be read"),
        ("a.csv", "name,body\nx,y\n", "line 1: no column 'text' (it has: name, body)"),
        ("a.csv", "id,text\n1,x\n2\n", "line 3: 1 columns, but the header has 2"),
        ("a.csv", 'text\nx\n"open\nto the\nend', "line 3: not valid CSV"),
        ("a.csv", "", "is empty; a .csv file needs a header row"),
        ("a.csv", "text\rx\ry\r", "has lines that end in CR alone; convert it first: tr"),
        ("a.txt", "x\ry", "has lines that end in CR alone"),
        ("a.csv", "te\rxt,id\nx,1\n", "line 1: not valid CSV"),
        ("a.csv", "text,text\nx,y\n", "line 1: there are 2 columns 'text'"),
        ("a.csv", "text,id\nHello, world,1\n", "line 2: 3 columns, but the header has 2; a text with"),
        ("a.json", '{"text": "x"}\n{"text": "y"}\n', "if each line is an object, call it .jsonl"),
        ("a.txt", "x\n".encode("utf-32"), "is UTF-32; convert it first: iconv -f utf-32 -t utf-8"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError) as error:
        read(path, content)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.docx").touch()
    with pytest.raises(InputError, match="does not exist"):
        inputs.check([str(tmp_path / "a.txt")], None)
    with pytest.raises(InputError, match=r"a\.docx is none of the inputs"):
        inputs.check([str(tmp_path / "a.docx")], None)
    with pytest.raises(InputError, match="--field body needs"):
        inputs.check([str(tmp_path)], "body")
    with pytest.raises(InputError, match=r"holds no \.md or \.txt file"):
        list(inputs.from_paths([str(tmp_path)], None))
