"""Families of related texts for distillation, one JSON list per line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from convert.pocket import lexicon, texts
from convert.pocket.edits import edit
from convert.pocket.grammar import typographic
from convert.pocket.synth import Family, Synthesiser

SENTENCE_SHARE = 0.65  # of the sentences that a source contributes
PASSAGE_WORDS = (30, 60, 120, 240, 350)
LONG_WORDS = (700, 1500, 3000)


def passages(paragraphs: list[str], rng: random.Random) -> Iterator[str]:
    """Consecutive paragraphs joined up to a drawn length: now and then one of many windows."""
    held: list[str] = []
    size = rng.choice(PASSAGE_WORDS)
    for paragraph in paragraphs:
        held.append(paragraph)
        if sum(len(p.split()) for p in held) >= size:
            yield " ".join(" ".join(held).split()[: size * 2])
            held, size = [], rng.choice(LONG_WORDS if rng.random() < 0.02 else PASSAGE_WORDS)


def of_documents(root: Path, synth: Synthesiser, rng: random.Random) -> Iterator[Family]:
    for share, paragraphs in texts.documents(root):
        for paragraph in paragraphs:
            found = [s for s in texts.sentences(paragraph) if len(s) > 7 and len(s.split()) <= 60]
            for i, sentence in enumerate(found):
                if rng.random() < share * SENTENCE_SHARE:
                    family = [sentence]
                    if rng.random() < 0.5 and len(sentence) > 20:
                        family.append(edit(sentence, synth.lex, rng))
                    if rng.random() < 0.06:
                        family[0] = typographic(sentence)
                    if rng.random() < 0.3 and i + 1 < len(found):
                        family.append(found[i + 1])
                    yield family
        for passage in passages(paragraphs, rng):
            if rng.random() < share * SENTENCE_SHARE:
                yield [passage, edit(texts.sentences(passage)[0], synth.lex, rng)]


def of_wordnet(lex: lexicon.Lexicon, synth: Synthesiser, rng: random.Random) -> Iterator[Family]:
    for synset in lex.synsets.values():
        family = synth.entry(synset.lemmas, synset.definition, synset.examples)
        if rng.random() < 0.35:
            family.append(edit(family[-1], lex, rng))
        yield family


def of_vocabulary(words: list[str], synth: Synthesiser, rng: random.Random) -> Iterator[Family]:
    """Every word of the tokenizer at least twice, so that no kept token goes untrained."""
    for word in words:
        a, b = rng.choice(words), rng.choice(words)
        yield [word, f"{word} and {a}", f"a story about {a} and {word}"]
        forms = (
            f"the {word} of {b}",
            f"{word} in {synth.pick(synth.cities)}",
            f"what is {word}?",
            f"{word} {b}",
            f"news about {word} from {synth.pick(synth.countries)}",
            f"{synth.pick(synth.names)} talks about {word}",
        )
        yield rng.sample(forms, 2)


def collect(root: Path, out: Path, vocabulary: list[str], seed: int, captions: int) -> None:
    """Write the corpus without texts that repeat another text of their family."""
    rng = random.Random(seed)
    lex = lexicon.load(root / "tree/usr/share/wordnet")
    synth = Synthesiser(lex, texts.countries(root), rng)
    seen: set[str] = set()
    families = []
    for source in (
        synth.families(captions),
        of_wordnet(lex, synth, rng),
        of_vocabulary(vocabulary, synth, rng),
        of_documents(root, synth, rng),
    ):
        for family in source:
            kept = []
            for text in family:
                key = text.lower()
                if len(text) > 2 and key not in seen:
                    seen.add(key)
                    kept.append(text)
            if kept:
                families.append(kept)
        print(f"{len(families)} families, {len(seen)} texts")
    # Shuffled, so that any part of the corpus resembles the whole.
    rng.shuffle(families)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(family) + "\n" for family in families)
