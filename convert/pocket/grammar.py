"""The little English grammar that the synthetic sentences need."""

from __future__ import annotations

import re

IRREGULAR_ING = {"lie down": "lying down", "have": "having"}
DOUBLING = frozenset(
    "cut chop grip run jog swim put scrub sit hug nap stop grab trip hit shut pet sip dig".split()
)
PARTICIPLES = dict(
    item.split("/")
    for item in (
        "eat/eaten have/had cut/cut ride/ridden drive/driven hold/held throw/thrown catch/caught read/read "
        "write/written make/made put/put feed/fed drink/drunk draw/drawn fight/fought"
    ).split()
)


def ing(verb: str) -> str:
    """Present participle of the first word of a verb phrase."""
    if verb in IRREGULAR_ING:
        return IRREGULAR_ING[verb]
    head, _, tail = verb.partition(" ")
    if head in DOUBLING:
        head += head[-1] + "ing"
    elif head.endswith("e") and not head.endswith("ee"):
        head = head[:-1] + "ing"
    else:
        head += "ing"
    return f"{head} {tail}".strip()


def third(verb: str) -> str:
    head, _, tail = verb.partition(" ")
    if head == "have":
        head = "has"
    elif head.endswith(("ch", "sh", "ss", "x", "o")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head} {tail}".strip()


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def phrase(*parts: str) -> str:
    text = " ".join(p for p in parts if p)
    return text[0].upper() + text[1:]


def typographic(text: str) -> str:
    """Curly quotes and real dashes, as printed text has them."""
    text = re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text).replace("'", "\u2019")
    return re.sub(r" --? ", " \u2014 ", re.sub(r"(\d)-(\d)", "\\1\u2013\\2", text))


def passive(verb: str) -> str:
    head, _, tail = verb.partition(" ")
    if head in PARTICIPLES:
        head = PARTICIPLES[head]
    elif head in DOUBLING:
        head += head[-1] + "ed"
    elif head.endswith("e"):
        head += "d"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ied"
    else:
        head += "ed"
    return f"{head} {tail}".strip()
