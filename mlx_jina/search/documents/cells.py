"""Files of JSON that hold texts: Jupyter notebooks by their cells, Obsidian canvases by their cards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mlx_jina.search.documents import markdown
from mlx_jina.search.documents.base import Block, Document, Lines, Link, UnreadableError, valid


def read_notebook(text: str) -> Document:
    """Markdown and code of a notebook, without its outputs. Lines count cells, from 1."""
    cells = _listed(_parsed(text, "a notebook"), "cells")
    kinds = {"markdown": "text", "code": "code", "raw": "text"}
    return _joined(
        (number, "".join(_strings(cell.get("source"))), kinds.get(str(cell.get("cell_type")), "text"))
        for number, cell in enumerate(cells, 1)
    )


def read_canvas(text: str) -> Document:
    """Texts of the cards on a canvas, labels of its groups, and links to its notes. Lines count cards, from 1."""
    # An empty canvas is an empty file.
    nodes = list(enumerate(_listed(_parsed(text or "{}", "a canvas"), "nodes"), 1))
    document = _joined(
        (number, str(node.get("text") or node.get("label") or ""), "text") for number, node in nodes
    )
    files = [Link(valid(str(node["file"])), number) for number, node in nodes if isinstance(node.get("file"), str)]
    return replace(document, links=[*document.links, *files])


def _joined(cells: Iterable[tuple[int, str, str]]) -> Document:
    """One document of many small ones."""
    parts: list[str] = []
    blocks: list[Block] = []
    starts, numbers = [], []
    tags: list[str] = []
    links: list[Link] = []
    hidden: list[tuple[int, int]] = []
    here = 0
    for number, source, kind in cells:
        if not source.strip():
            continue
        text = valid(source).rstrip() + "\n\n"
        starts.append(here)
        numbers.append(number)
        if kind == "code":
            blocks.append(Block(here, here + len(text), "code"))
        else:
            lines = Lines.of(text)
            own = list(markdown.body_blocks(text, 0, lines))
            blocks += [replace(block, start=block.start + here, stop=block.stop + here) for block in own]
            prose = [block for block in own if block.kind != "code"]
            unseen = list(markdown.hidden(text, prose))
            tags += markdown.inline_tags(text, prose, unseen)
            links += [replace(link, line=number) for link in markdown.links(text, prose, lines)]
            hidden += [(start + here, stop + here) for start, stop in unseen]
        parts.append(text)
        here += len(text)
    return Document(
        "".join(parts),
        blocks,
        Lines(starts or [0], numbers or [1]),
        title=next((block.title for block in blocks if block.level == 1), None),
        tags=list(dict.fromkeys(tags)),
        links=links,
        hidden=hidden,
    )


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not {what}: {error}") from None
    if not isinstance(found, dict):
        raise UnreadableError(f"not {what}: it holds no JSON object")
    return found


def _listed(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = found.get(key)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(each) for each in value] if isinstance(value, list) else []
