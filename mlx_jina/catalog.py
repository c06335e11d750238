"""The models mlx-jina knows by name: frozen rows, no logic beyond looking one up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One published model.

    `repo` is its Hugging Face id; `truncate_dims` are the Matryoshka sizes it was trained for.
    """

    repo: str
    aliases: tuple[str, ...]
    dimension: int
    max_length: int
    license: str
    languages: str
    truncate_dims: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)


def _v2(name: str, dimension: int, languages: str) -> Entry:
    return Entry(
        repo=f"jinaai/jina-embeddings-v2-{name}",
        aliases=(f"v2-{name}", f"jina-embeddings-v2-{name}"),
        dimension=dimension,
        max_length=8192,
        license="apache-2.0",
        languages=languages,
    )


ENTRIES = (
    Entry("pocket", (), 256, 8192, "apache-2.0", "English", truncate_dims=(64, 128, 256)),
    _v2("small-en", 512, "English"),
    _v2("base-en", 768, "English"),
    _v2("base-de", 768, "German, English"),
    _v2("base-es", 768, "Spanish, English"),
    _v2("base-zh", 768, "Chinese, English"),
    _v2("base-code", 768, "English, 30 programming languages"),
)

_BY_NAME = {name.lower(): entry for entry in ENTRIES for name in (entry.repo, *entry.aliases)}


def find(name: str) -> Entry | None:
    """The row for a repository id or alias, in any letter case."""
    return _BY_NAME.get(name.lower())


def short_names() -> list[str]:
    """The shortest name of every known model, for messages."""
    return [min((entry.repo, *entry.aliases), key=len) for entry in ENTRIES]
