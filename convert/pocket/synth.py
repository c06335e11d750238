"""Synthetic sentences and near-duplicates: families of texts that belong in one batch."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from convert.pocket import words as w
from convert.pocket.grammar import article, ing, passive, phrase, third
from convert.pocket.lexicon import Lexicon

Family = list[str]


class Synthesiser:
    """Draws families of sentences; every method is one kind of text."""

    def __init__(self, lex: Lexicon, countries: list[str], rng: random.Random) -> None:
        self.lex, self.rng, self.countries = lex, rng, countries
        trades = [
            m for name in ("worker", "athlete", "musician", "leader", "artist") for m in lex.members(name, 2)
        ]
        self.people = w.PEOPLE * 4 + [t for t in trades if " " not in t]
        self.animals = w.ANIMALS * 3 + [m for name in ("mammal", "bird") for m in lex.members(name, 1)]
        things = [m for name in ("artifact", "food", "plant organ") for m in lex.members(name, 2)]
        self.things = w.THINGS * 8 + [t for t in things if len(t) > 2]
        roots = (
            "event",
            "psychological feature",
            "attribute",
            "substance",
            "group",
            "possession",
            "communication",
        )
        self.topics = [m for name in roots for m in lex.members(name, 2)] + things
        self.cities = lex.instances("city")
        self.names = [n for n in lex.instances("person") if " " not in n]

    def pick(self, options: list[str] | tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def maybe(self, text: str, chance: float) -> str:
        return text if self.rng.random() < chance else ""

    def subject(self, living: list[str]) -> str:
        noun = self.pick(living)
        roll = self.rng.random()
        if roll < 0.12:
            return f"{article(noun)} in {article(self.pick(w.COLOURS) + ' ' + self.pick(w.CLOTHES))}"
        if roll < 0.2:
            return article(f"{self.pick(['young', 'tall', 'old', 'small', 'smiling', 'tired'])} {noun}")
        if roll < 0.28:
            return f"the {noun}"
        return article(noun)

    def caption(self) -> Family:
        """Someone does something somewhere: paraphrases first, then changed details."""
        human = self.rng.random() < 0.75
        living = self.people if human else self.animals
        verb, other, kind = self.rng.choice(w.ACTIONS if human else w.ANIMAL_ACTIONS)
        who, what = self.subject(living), self.pick(w.OBJECTS[kind])
        where = self.maybe(self.pick(w.PLACES), 0.5)
        end = self.maybe(".", 0.8)
        base = phrase(who, "is", ing(verb), what, where) + end
        bare = who.split(" ", 1)[1]
        same = [
            phrase(who, "is", ing(other), what, where) + end,
            phrase(who, third(verb), what, where) + end,
            phrase("there is", who, ing(verb), what, where) + end,
            phrase(bare, ing(verb), what, where),
            phrase(who, "is", ing(verb), what) + end,
            phrase("someone" if human else "an animal", "is", ing(verb), what, where) + end,
        ]
        if what and not re.search(r" (into?|on|from) ", f" {what}"):
            same.append(phrase(what, "is being", passive(verb), "by", who, where) + end)
        verb2, other2, kind2 = self.rng.choice(w.ACTIONS if human else w.ANIMAL_ACTIONS)
        different = [
            phrase(self.subject(living), "is", ing(verb), what, where) + end,
            phrase(who, "is", ing(verb), self.pick(w.OBJECTS[kind]), self.pick(w.PLACES)) + end,
            phrase(who, "is not", ing(verb), what, where) + end,
            phrase(who, "is", ing(verb2), self.pick(w.OBJECTS[kind2]), where) + end,
            phrase(self.subject(self.animals if human else self.people), "is", ing(other2), where) + end,
            phrase(
                self.pick(["two", "three", "several", "a group of", "many"]),
                self.pick(w.GROUPS),
                "are",
                ing(verb),
                what,
                where,
            )
            + end,
            phrase(
                who,
                "is",
                ing(verb),
                what,
                self.pick(w.PLACES),
                "while",
                article(self.pick(w.ANIMALS)),
                "watches",
            )
            + end,
        ]
        return [base, self.pick(same), *self.rng.sample(different, 2)]

    def scene(self) -> Family:
        """Things in places."""
        thing, size, colour, place = (
            self.pick(self.things),
            self.pick(w.SIZES),
            self.pick(w.COLOURS),
            self.pick(w.PLACES),
        )
        state, other = self.pick(w.THING_STATES), self.pick(self.things)
        forms = [
            phrase(article(f"{size} {thing}"), "is", state, place) + ".",
            phrase(article(f"{colour} {thing}"), state, place) + ".",
            phrase("there is", article(thing), place) + ".",
            phrase(article(f"{size} {colour} {thing}"), "and", article(other)) + ".",
            phrase(article(f"{colour} {other}"), state, place) + ".",
            phrase("a close-up of", article(thing), "with", article(other)),
            phrase(article(thing), "next to", article(f"{size} {other}"), place) + ".",
        ]
        return self.rng.sample(forms, 3)

    def headline(self) -> Family:
        roll, place, other = self.rng.random(), self.pick(self.countries), self.pick(self.countries)
        count, less = self.rng.randint(2, 90), self.rng.randint(2, 60)
        if roll < 0.45:
            verb, same, kind = self.rng.choice(w.LEAD_VERBS)
            verb2, _, kind2 = self.rng.choice(w.LEAD_VERBS)
            targets = w.LEAD_OBJECTS.get(kind, self.countries)
            role, what = self.pick(w.ROLES), self.pick(targets)
            who = self.pick([f"{place}'s {role}", f"{place} {role}", place, f"{role} {self.pick(self.names)}"])
            return [
                phrase(who, verb, what),
                phrase(who, same, what) + self.maybe(f" in {self.pick(self.cities)}", 0.3),
                phrase(who, verb, self.pick(targets)),
                phrase(other, verb2, self.pick(w.LEAD_OBJECTS.get(kind2, self.countries))),
            ]
        if roll < 0.75:
            event, event2, city = self.pick(w.DISASTERS), self.pick(w.DISASTERS), self.pick(self.cities)
            return [
                f"{event.capitalize()} kills {count} in {place}",
                f"At least {count} dead in {place} {event}",
                f"{event.capitalize()} in {place} kills {less}, injures {count}",
                self.pick(
                    [
                        f"{count} hurt in {event2} near {city}",
                        f"{event2.capitalize()} hits {place}",
                        f"{place} {event} toll rises to {count}",
                    ]
                ),
            ]
        if roll < 0.88:
            market, rate = self.pick(w.MARKETS), self.rng.randint(1, 30)
            return [
                phrase(market, "rise", f"{rate} percent"),
                phrase(market, "up", f"{rate} pct on hopes for {place}"),
                phrase(market, "fall", f"{rate} percent as {self.pick(w.MARKETS)} drop"),
                f"{place}'s economy {self.pick(['grew', 'shrank'])} {rate}.{rate % 10} percent"
                f" in the {self.pick(['first', 'third'])} quarter.",
            ]
        prize = self.pick(w.SPORTS)
        return [
            f"{place} beats {other} to win {prize}",
            f"{other} lose {prize} to {place}",
            f"{other} beats {place} in {prize}",
            f"{self.pick(self.names)} wins {self.pick(w.SPORTS)} in {self.pick(self.cities)}",
        ]

    def question(self) -> Family:
        """Questions and remarks, in several wordings, about skills and topics."""
        if self.rng.random() < 0.5:
            forms, x, y = self.rng.choice(w.QUESTION_FORMS), self.pick(w.SKILLS), self.pick(w.SKILLS)
            if self.rng.random() < 0.6:
                verb, _, kind = self.rng.choice(w.ACTIONS)
                x = " ".join(
                    filter(None, [verb, self.pick(w.OBJECTS[kind]), self.maybe(self.pick(w.PLACES), 0.3)])
                )
            picked = self.rng.sample(forms, 2)
            return [phrase(f.format(x=x)) for f in picked] + [phrase(self.pick(forms).format(x=y))]
        forms, x, y, z = (
            self.rng.choice(w.REMARKS),
            self.pick(self.topics),
            self.pick(self.topics),
            self.pick(self.topics),
        )
        picked = self.rng.sample(forms, 3)
        return [phrase(f.format(x=x, y=y)) for f in picked] + [phrase(picked[0].format(x=z, y=y))]

    def entry(self, lemmas: list[str], definition: str, examples: list[str]) -> Family:
        """A dictionary entry as a title, a question and its definition."""
        name = lemmas[0]
        titles = [
            f"What is {article(name)}?",
            f"{name}: {definition}",
            name,
            " or ".join(lemmas[:3]),
            f"Define {name}",
            f"What does {name} mean?",
            f"{name} is {definition}",
        ]
        return [definition, self.pick(titles), *examples[:2]]

    def families(self, captions: int) -> Iterator[Family]:
        """`captions` caption families and proportionate numbers of the other kinds."""
        for _ in range(captions):
            yield self.caption()
        for _ in range(captions // 6):
            yield self.scene()
        for _ in range(captions // 2):
            yield self.headline()
        for _ in range(captions // 2):
            yield self.question()
