"""WordNet's files as the few tables that text synthesis needs."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

POS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
KEY_POS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}


@dataclass
class Synset:
    pos: str
    lemmas: list[str]
    hypernyms: list[str]
    instance_of: list[str]
    antonyms: list[str]
    definition: str
    examples: list[str]


@dataclass
class Lexicon:
    synsets: dict[str, Synset] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)  # "dog.n" -> its most frequent sense
    count: dict[str, int] = field(default_factory=dict)  # "dog.n" -> times tagged in SemCor
    children: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def members(self, lemma: str, least: int = 1) -> list[str]:
        """Nouns below the first sense of `lemma` whose own first sense is there, tagged `least` times."""
        out, todo, seen = [], [self.first[f"{lemma}.n"]], set()
        while todo:
            key = todo.pop()
            if key in seen:
                continue
            seen.add(key)
            todo.extend(self.children[key])
            for word in self.synsets[key].lemmas:
                name = f"{word}.n"
                if word.islower() and self.first.get(name) == key and self.count.get(name, 0) >= least:
                    out.append(word)
        return sorted(set(out))

    def instances(self, lexical: str) -> list[str]:
        """Proper names that are instances of `lexical` or of something below it."""
        root, out, seen = self.first[f"{lexical}.n"], [], set()
        todo = [root]
        while todo:
            key = todo.pop()
            if key in seen:
                continue
            seen.add(key)
            todo.extend(self.children[key])
            if self.synsets[key].instance_of:
                out.append(self.synsets[key].lemmas[0])
        return sorted(w for w in set(out) if w.isascii() and len(w.split()) <= 3)

    def synonyms(self, word: str, pos: str) -> list[str]:
        key = self.first.get(f"{word}.{pos}")
        return [w for w in self.synsets[key].lemmas if w.lower() != word] if key else []

    def sisters(self, word: str) -> list[str]:
        """Frequent nouns or verbs that share the hypernym of the word's first sense."""
        out = []
        for pos in "nv":
            if key := self.first.get(f"{word}.{pos}"):
                parents = self.synsets[key].hypernyms
                keys = [c for p in parents for c in self.children[p] if c != key]
                out += [w for c in keys for w in self.synsets[c].lemmas if self.count.get(f"{w}.{pos}", 0) > 1]
                if out:
                    break
        return out

    def antonyms(self, word: str) -> list[str]:
        for pos in "anvr":
            if (key := self.first.get(f"{word}.{pos}")) and self.synsets[key].antonyms:
                return [self.synsets[k].lemmas[0] for k in self.synsets[key].antonyms]
        return []


def parse(line: str, pos: str) -> tuple[str, Synset]:
    head, _, gloss = line.partition(" | ")
    cells = head.split(" ")
    number = int(cells[3], 16)
    lemmas = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in cells[4 : 4 + 2 * number : 2]]
    at = 4 + 2 * number
    links: dict[str, list[str]] = defaultdict(list)
    for i in range(int(cells[at])):
        symbol, offset, target = cells[at + 1 + 4 * i : at + 4 + 4 * i]
        links[symbol].append(("a" if target == "s" else target) + offset)
    examples = re.findall(r'"([^"]{8,})"', gloss)
    definition = re.split(r';\s*"', gloss)[0].strip(" ;")
    return pos + cells[0], Synset(
        pos, lemmas, links["@"] + links["@i"], links["@i"], links["!"], definition, examples
    )


def load(folder: Path) -> Lexicon:
    lex = Lexicon()
    for pos, name in POS.items():
        for line in (folder / f"data.{name}").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                key, synset = parse(line, pos)
                lex.synsets[key] = synset
        for line in (folder / f"index.{name}").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                cells = line.split()
                lex.first[f"{cells[0].replace('_', ' ')}.{pos}"] = pos + cells[-int(cells[2])]
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        sense, _, times = line.split()
        lemma, _, rest = sense.partition("%")
        name = f"{lemma.replace('_', ' ')}.{KEY_POS[rest[0]]}"
        lex.count[name] = lex.count.get(name, 0) + int(times)
    for key, synset in lex.synsets.items():
        for parent in synset.hypernyms:
            lex.children[parent].append(key)
    return lex
