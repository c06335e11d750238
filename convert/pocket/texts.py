"""Prose out of unpacked Debian packages: paragraphs grouped by document."""

from __future__ import annotations

import gzip
import html
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

# Debian package -> licence of its text, as its copyright file states it.
SOURCES: dict[str, str] = {
    "wordnet-base": "WordNet 3.0 licence",
    "dict-gcide": "GPL-2+",
    "dict-foldoc": "GFDL-1.1+",
    "dict-jargon": "public domain",
    "dict-devil": "public domain",
    "dict-elements": "public domain",
    "dict-vera": "GFDL-1.1+",
    "fortunes": "BSD, as a collection",
    "fortunes-min": "BSD, as a collection",
    "fortunes-debian-hints": "BSD-3-clause",
    "manpages": "several free licences",
    "manpages-dev": "several free licences",
    "python3.11-doc": "PSF-2",
    "perl-doc": "GPL-1+ or Artistic",
    "postgresql-doc-15": "PostgreSQL licence",
    "debian-handbook": "CC-BY-SA-3.0 or GPL-2+",
    "debian-faq": "verbatim and same-licence copying",
    "debian-reference-en": "GPL-2+",
    "debian-policy": "GPL-2+",
    "developers-reference": "GPL-2",
    "harden-doc": "GPL-2",
    "doc-debian": "GPL and public domain",
    "libreoffice-help-en-us": "MPL-2.0",
    "gimp-help-en": "GFDL-1.2+",
    "gnome-user-docs": "CC-BY-SA-3.0",
    "anarchism": "GPL-2",
    "calendar": "BSD",
    "endless-sky-data": "GPL-3+",
    "crawl-common": "GPL-2+",
    "wesnoth-1.16-httt": "GPL-2+",
    "wesnoth-1.16-trow": "GPL-2+",
    "wesnoth-1.16-sof": "GPL-2+",
    "wesnoth-1.16-nr": "GPL-2+",
    "wesnoth-1.16-utbs": "GPL-2+",
    "wesnoth-1.16-did": "GPL-2+",
    "wesnoth-1.16-dm": "GPL-2+",
    "wesnoth-1.16-ei": "GPL-2+",
    "wesnoth-1.16-l": "GPL-2+",
    "wesnoth-1.16-low": "GPL-2+",
    "wesnoth-1.16-thot": "GPL-2+",
    "wesnoth-1.16-tsg": "GPL-2+",
    "wesnoth-1.16-dw": "GPL-2+",
    "wesnoth-1.16-sotbe": "GPL-2+",
    "git-doc": "GPL-2",
    "shotwell-common": "LGPL-2.1",
    "gnumed-doc": "GPL-2+",
    "iso-codes": "LGPL-2.1+",
}

STOP = frozenset("the of and to a in is it that for with as be on by this are or from an at not you can".split())
TAG = re.compile(r"<[^>]+>")
BLOCK = re.compile(
    r"<(p|li|dd|dt|h1|h2|h3|title|td|item|div)\b[^>]*>(.*?)(?=</\1>|<(?:p|li|dd|dt|h[1-6]|ul|ol|table|pre|div)\b)",
    re.S | re.I,
)
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z\"'(])")


def fetch(root: Path) -> None:
    """Download every source package with apt-get and unpack it (nothing is installed)."""
    debs, tree = root / "debs", root / "tree"
    debs.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        if not list(debs.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", name], cwd=debs, check=True)
        for deb in debs.glob(f"{name}_*.deb"):
            subprocess.run(["dpkg", "-x", str(deb), str(tree)], check=True)


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def is_prose(text: str) -> bool:
    """Mostly letters, mostly ASCII, and for longer texts some English function words."""
    letters = sum(c.isalpha() or c == " " for c in text)
    if len(text) < 8 or letters < 0.8 * len(text) or not text.isascii():
        return False
    words = text.lower().split()
    return len(words) < 7 or sum(w in STOP for w in words) >= 0.12 * len(words)


def sentences(text: str) -> list[str]:
    return [s.strip() for s in SENTENCE.split(text) if s.strip()]


def read(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix in (".gz", ".dz") else path.read_bytes()
    return data.decode("utf-8", "replace")


def of_html(text: str) -> list[str]:
    text = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", text, flags=re.S | re.I)
    return [squeeze(html.unescape(TAG.sub("", m.group(2)))) for m in BLOCK.finditer(text)]


def of_plain(text: str) -> list[str]:
    return [squeeze(p) for p in re.split(r"\n\s*\n|\n%%%%\n", text)]


def of_man(text: str) -> list[str]:
    """Paragraphs of a manual page; requests and font escapes are dropped."""
    out: list[str] = []
    for block in re.split(r"\n\.(?:PP|P|LP|TP|IP|SH|SS|sp|RS|RE|nf|fi|EX|EE)\b[^\n]*\n", text):
        lines = [re.sub(r"^\.(?:BR|IR|B|I|RB|RI|BI|IB)\s+", "", li) for li in block.split("\n")]
        kept = " ".join(li.replace('"', "") for li in lines if not li.startswith((".", "'")))
        out.append(squeeze(re.sub(r"\\f.|\\&|\\\((.)q|\\", "", kept.replace("\\-", "-"))))
    return out


def of_pod(text: str) -> list[str]:
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if not p.startswith((" ", "\t", "=cut", "=over", "=back"))]
    paragraphs = [re.sub(r"^=\w+\s*", "", p) for p in paragraphs]
    return [squeeze(re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", p)) for p in paragraphs]


def of_dict(text: str) -> list[str]:
    """A dictd file: entries of indented paragraphs; source notes, braces and labels removed."""
    text = re.sub(r"\[[^\]]*\]|\\[^\\\n]*\\|\{|\}|<[^>]*>|\(\d{4}-\d\d-\d\d\)", "", text)
    paragraphs = (squeeze(p) for p in re.split(r"\n\s*\n", text))
    return [re.sub(r"^(\d+\.|\([a-z]\))\s*|\s*--\s?[A-Z][\w. ]*$", "", p) for p in paragraphs]


def of_fortune(text: str) -> list[str]:
    return [squeeze(re.sub(r"\s+--\s.*", "", p, flags=re.S)) for p in text.split("\n%\n")]


def of_strings(text: str) -> list[str]:
    """Quoted strings of game data files: dialogue, stories and descriptions."""
    text = re.sub(r"^\s*(#|//).*$", "", text, flags=re.M)
    found = [m.group(1) or m.group(2) for m in re.finditer(r'_ ?"((?:[^"]|"")*)"|`([^`]*)`', text)]
    cleaned = (re.sub(r"<[^>\s]*>|\^.*", "", f.replace('""', '"')) for f in found)
    return [squeeze(f) for f in cleaned]


def of_calendar(text: str) -> list[str]:
    text = re.sub(r"\n\t+", " ", text)
    return [squeeze(m.group(1)) for m in re.finditer(r"^\d\d/\d\d\*?\t(.*)$", text, re.M)]


# where, how to read it, and the share of its sentences to keep (technical prose would swamp the rest)
READERS: list[tuple[str, Callable[[str], list[str]], float]] = [
    ("usr/share/doc/python3.11/html/**/*.html", of_html, 0.25),
    ("usr/share/doc/postgresql-doc-15/html/*.html", of_html, 0.25),
    ("usr/share/doc/debian-handbook/html/en-US/*.html", of_html, 1.0),
    ("usr/share/doc/anarchism/html/*.html", of_html, 0.6),
    ("usr/share/doc/git-doc/**/*.html", of_html, 0.3),
    ("usr/share/doc/gnumed/user-manual/**/*.html", of_html, 1.0),
    ("usr/share/debian-reference/*.en.html", of_html, 0.5),
    ("usr/share/developers-reference/*.html", of_html, 0.4),
    ("usr/share/doc/harden-doc/**/*.html", of_html, 0.4),
    ("usr/share/gimp/2.0/help/en/*.html", of_html, 0.6),
    ("usr/share/libreoffice/help/en-US/**/*.html", of_html, 0.35),
    ("usr/share/help/C/**/*.page", of_html, 1.0),
    ("usr/share/doc/debian/FAQ/debian-faq.en.txt.gz", of_plain, 0.6),
    ("usr/share/doc/debian-policy/policy.txt.gz", of_plain, 0.3),
    ("usr/share/doc/debian/*.txt.gz", of_plain, 0.3),
    ("usr/share/crawl/dat/descript/*.txt", of_plain, 1.0),
    ("usr/share/crawl/docs/*.txt", of_plain, 0.4),
    ("usr/share/man/man?/*.gz", of_man, 0.12),
    ("usr/share/perl/**/*.pod", of_pod, 0.25),
    ("usr/share/dictd/*.dict.dz", of_dict, 0.3),
    ("usr/share/games/fortunes/*.u8", of_fortune, 1.0),
    ("usr/share/games/endless-sky/data/*.txt", of_strings, 1.0),
    ("usr/share/games/wesnoth/1.16/data/campaigns/**/*.cfg", of_strings, 1.0),
    ("usr/share/calendar/calendar.*", of_calendar, 1.0),
]

DESCRIPTION_SHARE = 0.35


def descriptions(avail: str) -> Iterator[list[str]]:
    """Synopsis and paragraphs of every package in `apt-cache dumpavail`."""
    for match in re.finditer(r"^Description(?:-en)?: (.*)\n((?: .*\n)*)", avail, re.M):
        body = re.sub(r"^ ", "", match.group(2), flags=re.M)
        yield [match.group(1), *(squeeze(p) for p in re.split(r"^\.$", body, flags=re.M))]


def documents(root: Path) -> Iterator[tuple[float, list[str]]]:
    """(share, English paragraphs in reading order) of every document, without repeats."""
    seen: set[str] = set()

    def fresh(paragraphs: list[str]) -> list[str]:
        out = []
        for text in paragraphs:
            if is_prose(text) and text.lower() not in seen:
                seen.add(text.lower())
                out.append(text)
        return out

    for pattern, reader, share in READERS:
        for path in sorted((root / "tree").glob(pattern)):
            if path.is_file() and (found := fresh(reader(read(path)))):
                yield share, found
    avail = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    for entry in descriptions(avail):
        if found := fresh(entry):
            yield DESCRIPTION_SHARE, found


def countries(root: Path) -> list[str]:
    path = root / "tree/usr/share/iso-codes/json/iso_3166-1.json"
    rows = json.loads(path.read_text())["3166-1"]
    names = (row.get("common_name", row["name"]) for row in rows)
    return sorted(n for n in names if n.isascii() and "," not in n and len(n.split()) <= 3)
