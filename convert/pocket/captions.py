"""Sentences made of word lists: what pictures show, what headlines say, what people ask."""

from __future__ import annotations

import random
from collections.abc import Iterator


def _list(text: str) -> list[str]:
    return [" ".join(item.split()) for item in text.split(",")]


def _rows(text: str) -> list[tuple[str, str, list[str]]]:
    """Lines of "verb/the same in other words: what it is done to"."""
    rows = []
    for line in text.strip().splitlines():
        verbs, _, objects = line.strip().partition(": ")
        verb, same = verbs.split("/")
        rows.append((verb, same, _list(objects)))
    return rows


WHO = _list("""a man, a woman, a boy, a girl, a child, a baby, two people, a group of men, three children, a chef,
    a soldier, a dancer, a cyclist, a musician, a farmer, an old man, a young woman, a police officer, a surfer,
    a dog, a brown horse, a black cat, two dogs, a monkey, a bird, an elephant, the players, a crowd, a teacher""")
ACTIONS = _rows("""
    playing/performing on: a guitar, the piano, a flute, the drums, a violin
    playing/enjoying a game of: football, chess, basketball, cards, tennis
    eating/having: an apple, a sandwich, some bread, a slice of cake, noodles
    cutting/slicing: an onion, a tomato, some meat, a piece of paper, bread
    riding/travelling on: a bicycle, a horse, a motorcycle, a skateboard, a camel
    driving/steering: a car, a truck, a tractor, a bus, a boat
    holding/carrying: a baby, an umbrella, a camera, a sign, a box
    throwing/tossing: a ball, a stick, a frisbee, a stone, a net
    reading/looking at: a book, a newspaper, a map, a letter, the menu
    making/preparing: a salad, dinner, coffee, a necklace, a fire
    cleaning/washing: the floor, a window, a car, the dishes, a table
    opening/unlocking: a door, a bottle, a present, a suitcase, a gate
    watching/looking at: television, the sunset, a parade, a race, the ocean
    climbing/going up: a rope, a tree, a ladder, the stairs, a hill
    fixing/repairing: a roof, a computer, a bicycle, a pipe, an engine
    drawing/sketching: a portrait, a flower, a house, a map, a picture
    chasing/running after: a cat, a ball, a squirrel, a rabbit, a car
    talking to/speaking with: a friend, a child, the crowd, an old man, a nurse
    jumping over/leaping across: a fence, a stream, a log, a wall, a puddle
    walking along/strolling down: the beach, a road, the river, a path, the street
""")
WHERE = _list("""in the park, on the beach, in the snow, in a kitchen, on a stage, in a field, near a lake,
    at night, in the garden, in a restaurant, at a market, in the woods, on a mountain, in front of a building,
    on a bench, in a classroom, at the airport, on a train, under a tree, in a crowd, on a sunny day, , , , ,""")
THINGS = _list("""car, bus, train, airplane, boat, bicycle, chair, table, sofa, bed, lamp, clock, bowl of fruit,
    laptop, house, bridge, statue, kite, cup of coffee, ship, fence, door, kitchen, bathroom, tree, sign""")
KINDS = _list("""red, blue, green, yellow, black, white, small, large, old, new, wooden, broken, empty""")
PLACES = _list("""Egypt, China, Syria, Iran, Russia, India, Israel, Ukraine, Pakistan, Nigeria, France, Brazil,
    Turkey, Mexico, Japan, Iraq, Kenya, Spain, Germany, Greece, Libya, Thailand, Australia, Canada, Chile""")
ROLES = _list("""president, prime minister, foreign minister, central bank, parliament, supreme court, army,
    police, opposition, government, former president, largest bank, national team""")
NEWS = _rows("""
    rejects/turns down: budget plan, peace plan, new constitution, bailout, ceasefire proposal
    approves/backs: tax reform, climate plan, spending cuts, immigration law, arms deal
    condemns/denounces: bomb attack, coup attempt, missile test, air strike, kidnapping of journalists
    seeks/wants: trade deal, early elections, gas agreement, more aid, release of prisoners
    raises/increases: interest rates, fuel prices, growth forecast, minimum wage, oil output
    delays/postpones: summit, election, rocket launch, trial, merger
""")
EVENTS = _list("""bus crash, car bomb, earthquake, landslide, ferry accident, plane crash, flood, hotel fire,
    typhoon, shooting, train derailment, avalanche, mine explosion, stampede, outbreak of cholera""")
MARKETS = _list(
    "oil prices, gold, stocks, shares, the dollar, consumer confidence, exports, house prices, profits"
)
# Wordings of one question, the nearest to each other first.
ASKED = [
    line.strip().split(" | ")
    for line in """
    How do I {x}? | How can I {x}? | What is the best way to {x}? | Ways to {x} | How to {x}
    Should I {x} myself? | Is it a good idea to {x} on my own? | Can I {x} without help?
    How long does it take to {x}? | How much time do I need to {x}? | Is it quick to {x}?
    Why can't I {x}? | I am not able to {x}. | I have trouble when I try to {x}.
    You can {x} in three easy steps. | It is not hard to {x}. | Nobody should try to {x} alone.
    """.strip().splitlines()
]
SKILLS = _list("""learn to cook, fix a leaking tap, train a puppy, write a cover letter, save money, lose weight,
    learn a language, grow tomatoes, remove a stain, bake bread, reset a password, change a tire, plan a wedding,
    study for an exam, start a business, buy a house, apply for a visa, quit smoking, sharpen a knife, brew coffee,
    back up my files, write a novel, solve an equation, ask for a raise, unclog a drain, treat a sunburn""")


def sentence(*parts: str) -> str:
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:]


def picture(rng: random.Random) -> list[str]:
    """A caption, a paraphrase, and captions that differ in one respect."""
    who, other, where = rng.choice(WHO), rng.choice(WHO), rng.choice(WHERE)
    doing, same, objects = rng.choice(ACTIONS)
    doing2, _, objects2 = rng.choice(ACTIONS)
    what = rng.choice(objects)
    be = "are" if who.startswith(("two", "three", "the ")) else "is"
    paraphrases = [
        sentence(who, be, same, what, where) + ".",
        sentence("there", be, who, doing, what, where) + ".",
        sentence(what, "is at hand while", who, be, doing, where) + ".",
        sentence(who, doing, what, where),
    ]
    different = [
        sentence(other, "is", doing, what, where) + ".",
        sentence(who, be, doing, rng.choice(objects), rng.choice(WHERE)) + ".",
        sentence(who, be, "not", doing, what, where) + ".",
        sentence(who, be, doing2, rng.choice(objects2), where) + ".",
        sentence("a", rng.choice(KINDS), rng.choice(THINGS), where) + ".",
        sentence("a", rng.choice(KINDS), rng.choice(THINGS), "next to a", rng.choice(THINGS), where) + ".",
    ]
    return [sentence(who, be, doing, what, where) + ".", rng.choice(paraphrases), *rng.sample(different, 2)]


def headline(rng: random.Random) -> list[str]:
    place, other = rng.sample(PLACES, 2)
    count = rng.randint(2, 90)
    kind = rng.random()
    if kind < 0.5:
        verb, same, objects = rng.choice(NEWS)
        who, what = f"{place}'s {rng.choice(ROLES)}", rng.choice(objects)
        return [f"{who} {verb} {what}", f"{place} {same} {what}", f"{other} {verb} {rng.choice(objects)}"]
    if kind < 0.8:
        event, event2 = rng.sample(EVENTS, 2)
        return [
            f"{event.capitalize()} kills {count} in {place}",
            f"At least {count} dead in {place} {event}",
            f"{count} hurt in {event2} in {other}",
        ]
    market = rng.choice(MARKETS)
    return [
        sentence(market, f"rise {count} percent"),
        sentence(market, f"up {count} pct on hopes for {place}"),
        sentence(market, f"fall {count} percent"),
    ]


def question(rng: random.Random) -> list[str]:
    forms, skill, other = rng.choice(ASKED), *rng.sample(SKILLS, 2)
    first, second = rng.sample(forms, 2)
    return [first.format(x=skill), second.format(x=skill), first.format(x=other)]


def families(count: int, rng: random.Random) -> Iterator[list[str]]:
    """Related sentences, `count` times."""
    for kind in rng.choices((picture, headline, question), weights=(4, 2, 1), k=count):
        yield kind(rng)
