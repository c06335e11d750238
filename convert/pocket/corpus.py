"""The texts: groups of related ones, a JSON object per line, in the order of their sources."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convert.pocket import captions, readers, sources
from convert.pocket.edits import Synonyms, edit

PASSAGE_WORDS = (25, 50, 90, 160, 300)
# How often each source is cut into passages, each time at other places and with other queries.
CUTS = 2
NGRAM = 8
QUESTIONS = ("what is {}?", "{}?", "how does {} work?", "explain {}", "information about {}")
NO_TITLE = re.compile(
    r"^$|navigation|contents|index|^(see also|notes?|examples?|references?|parameters|returns)$", re.I
)
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z\"'(])")


def passages(paragraphs: Iterable[str], rng: random.Random) -> Iterator[str]:
    """Consecutive paragraphs joined up to a drawn length in words, and what is left."""
    held: list[str] = []
    size = rng.choice(PASSAGE_WORDS)
    for paragraph in paragraphs:
        held += paragraph.split()
        if len(held) >= size:
            yield " ".join(held[: 2 * size])
            held, size = [], rng.choice(PASSAGE_WORDS)
    if held:
        yield " ".join(held)


def family(title: str, passage: str, synonyms: Synonyms, rng: random.Random) -> list[str]:
    """A passage, queries that it answers, and one of its sentences, perhaps with a change."""
    sentences = [s for s in SENTENCE.split(passage) if 3 < len(s.split()) <= 60]
    texts = [passage]
    if not NO_TITLE.search(title):
        query = rng.choice(QUESTIONS).format(title) if rng.random() < 0.4 else title
        texts = [f"{title}. {passage}" if rng.random() < 0.3 else passage, query]
    if sentences:
        picked = rng.choice(sentences)
        texts += [picked, edit(picked, synonyms, rng)] if rng.random() < 0.4 else [picked]
    return texts


def of_source(source: sources.Source, root: Path, synonyms: Synonyms, rng: random.Random) -> Iterator[list[str]]:
    """Families of a source's prose; a paragraph that comes again is dropped."""
    seen: set[int] = set()
    sections: list[readers.Section] = []
    for title, paragraphs in source.sections(root):
        fresh = [p for p in paragraphs if readers.is_prose(p) and hash(p) not in seen]
        seen.update(map(hash, fresh))
        sections.append(readers.Section(title, fresh))
    for title, paragraphs in sections * CUTS:
        for passage in passages(paragraphs, rng):
            if rng.random() < source.share:
                yield family(title, passage, synonyms, rng)


def synonyms_of(sections: Iterable[readers.Section]) -> dict[str, list[str]]:
    """Words that share a synset of WordNet with a word."""
    found: dict[str, list[str]] = defaultdict(list)
    for title, _ in sections:
        words = title.split(", ")
        for word in words:
            found[word] += [other for other in words if other != word]
    return {word: others for word, others in found.items() if others}


def of_vocabulary(words: Sequence[str], rng: random.Random) -> Iterator[list[str]]:
    """Every word of the tokenizer a few times, so that no token goes untrained."""
    for word in words:
        other, third = rng.choice(words), rng.choice(words)
        yield [word, f"{word} and {other}", f"a story about {third} and {word}", f"what is {word}?"]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Overlap:
    """Finds texts that share `NGRAM` words in a row, or all of fewer words, with a test collection."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.known: dict[int, str] = {}
        for file in files:
            name = file.parent.name if file.name == "corpus.jsonl" else file.stem
            for text in _texts_of(file):
                self.known.update((gram, f"{name} ({file.name})") for gram in self._grams(text))

    @staticmethod
    def _grams(text: str) -> list[int]:
        words = words_of(text)
        return [hash(tuple(words[i : i + NGRAM])) for i in range(max(1, len(words) - NGRAM + 1))]

    def of(self, text: str) -> str | None:
        """The collection that the text has something from."""
        return next((self.known[gram] for gram in self._grams(text) if gram in self.known), None)


def _texts_of(file: Path) -> Iterator[str]:
    with open(file, encoding="utf-8", newline="") as lines:
        if file.suffix == ".csv":
            for row in csv.reader(lines):
                yield from row[:2]
        else:
            for entry in map(json.loads, lines):
                yield from (entry[key] for key in ("title", "text") if entry.get(key))


def collect(
    root: Path, words: Sequence[str], kept_out: Sequence[Path], captioned: int, seed: int
) -> dict[str, dict[str, int]]:
    """Write corpus.jsonl without what repeats or belongs to a test collection. Returns counts by source."""
    overlap = Overlap(kept_out)
    available = sources.load()
    wordnet = [source for source in available if source.name == "wordnet-base"]
    synonyms = synonyms_of(section for source in wordnet for section in source.sections(root))
    # A generator for each source, so that one of them can change and the others stay as they are.
    streams = [(s.name, of_source(s, root, synonyms, random.Random(f"{seed} {s.name}"))) for s in available]
    streams.append(("captions", captions.families(captioned, random.Random(f"{seed} captions"))))
    streams.append(("vocabulary", of_vocabulary(words, random.Random(f"{seed} vocabulary"))))
    seen: set[int] = set()
    counts: dict[str, Counter[str]] = {}
    with open(root / "corpus.part", "w", encoding="utf-8") as file:
        for name, families in streams:
            count = counts[name] = Counter(families=0, texts=0, characters=0)
            for texts in families:
                fresh = [t for t in dict.fromkeys(texts) if len(t) > 2 and hash(t.lower()) not in seen]
                taken_from = next((found for text in fresh if (found := overlap.of(text))), None)
                if taken_from is not None:
                    count[f"left out: {taken_from}"] += 1
                elif fresh:
                    seen.update(hash(t.lower()) for t in fresh)
                    count.update(families=1, texts=len(fresh), characters=sum(map(len, fresh)))
                    file.write(json.dumps({"source": name, "texts": fresh}) + "\n")
    (root / "corpus.part").replace(root / "corpus.jsonl")
    return {name: dict(count) for name, count in counts.items()}


def read(root: Path) -> list[list[str]]:
    """The families of corpus.jsonl."""
    with open(root / "corpus.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["texts"] for line in file]
