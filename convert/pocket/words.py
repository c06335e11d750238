"""Word lists for the synthetic captions, headlines and questions."""

from __future__ import annotations

import re


def split(text: str) -> list[str]:
    """The comma-separated items of a block of text."""
    return [item.strip() for item in " ".join(text.split()).split(",")]


def triples(text: str) -> list[tuple[str, str, str]]:
    """Items of the form `words/other words/kind`."""
    return [(a, b, kind) for a, b, kind in (item.split("/") for item in split(text))]


def lines(text: str) -> list[list[str]]:
    """One group of wordings a line, separated by bars; a line that ends with a bar goes on in the next."""
    joined = re.sub(r"\|\s*\n", "|", text.strip())
    return [[form.strip() for form in line.split("|")] for line in joined.splitlines()]


PEOPLE = split("""
    man, woman, boy, girl, child, kid, baby, toddler, teenager, lady, gentleman, guy, person, old man,
    elderly woman, young man, young woman, little boy, little girl, couple, tourist, student, teacher, chef,
    cook, farmer, fisherman, soldier, police officer, firefighter, doctor, nurse, dancer, singer, musician,
    guitarist, drummer, athlete, runner, cyclist, swimmer, skier, surfer, skateboarder, baseball player,
    football player, tennis player, golfer, cowboy, gardener, painter, carpenter, construction worker,
    waiter, street vendor, photographer, clown, bride, groom, mother, father, grandmother, monk, pilot,
    sailor, hiker, climber, performer, worker, customer, passenger, pedestrian
""")
GROUPS = split("""
    people, men, women, children, kids, boys, girls, teenagers, tourists, students, soldiers, friends,
    workers, players, dancers, musicians, hikers, cyclists, runners, protesters, dogs, cats, horses, birds,
    cows, sheep
""")
ANIMALS = split("""
    dog, cat, puppy, kitten, horse, cow, sheep, goat, pig, bird, parrot, duck, goose, chicken, rooster,
    rabbit, hamster, monkey, elephant, lion, tiger, bear, panda, giraffe, zebra, kangaroo, camel, donkey,
    deer, fox, wolf, squirrel, turtle, snake, frog, fish, dolphin, whale, seal, penguin, owl, eagle, swan,
    butterfly, bee, spider, lizard, crocodile, mouse, hedgehog, black dog, brown dog, white dog, small dog,
    large dog, brown horse, black cat, white cat
""")
COLOURS = split("""
    red, blue, green, yellow, black, white, brown, orange, purple, pink, grey, golden, dark blue, bright
""")
SIZES = split("""
    small, large, big, little, tiny, huge, old, new, long, tall, wooden, metal, broken, empty, colorful,
    shiny
""")
CLOTHES = split("""
    shirt, hat, jacket, dress, coat, cap, helmet, sweater, suit, uniform, scarf, skirt, T-shirt, apron,
    bathing suit, costume, vest, backpack, tie, mask, raincoat, hoodie, wetsuit, kimono, pair of jeans, pair
    of glasses
""")
PLACES = split("""
    in the park, on the beach, in the street, on the grass, in the snow, in the water, at the zoo, in a
    kitchen, on a stage, in a field, near a lake, by the river, in the garden, on the sidewalk, in a
    restaurant, at a market, in the woods, on a mountain, in front of a building, in a crowd, at night, on a
    sunny day, in the rain, on a bench, at the table, in a living room, in a classroom, at the airport, on a
    train, at a bus stop, on the roof, under a tree, next to a car, behind a fence, on a dirt road, near the
    ocean, at a party, in a gym, in an office, in a parking lot, in the desert, on a bridge, at a
    construction site, in a swimming pool, inside a church, at a stadium, on the floor, in the kitchen
""")
# what a verb of that kind takes
OBJECTS: dict[str, list[str]] = {
    "food": split("""
        an apple, a banana, a sandwich, a pizza, some bread, a cake, an ice cream cone, a carrot, rice,
        soup, noodles, a hamburger, a steak, some cheese, a cookie, a salad, grapes, chocolate, a hot dog,
        pasta, an orange, corn
    """),
    "cut": split("""
        an onion, a tomato, a potato, a carrot, a cucumber, some meat, an apple, a lemon, bread, a cake,
        garlic, a piece of paper, a rope, mushrooms, a watermelon, a pepper, a piece of wood, butter, a
        fish, an orange, broccoli
    """),
    "drink": split("""
        water, a beer, coffee, a cup of tea, milk, orange juice, a glass of wine, a soda, lemonade, from a
        bottle
    """),
    "instrument": split("""
        a guitar, the piano, the drums, a flute, a violin, the trumpet, a saxophone, an accordion, the harp,
        a         cello, the harmonica, a banjo, a keyboard, an electric guitar, the bagpipes, the tuba, a
        clarinet, a ukulele
    """),
    "game": split("""
        football, basketball, tennis, chess, cards, a video game, baseball, golf, soccer, volleyball,
        hockey, rugby, cricket, table tennis, hide and seek, a board game, pool, darts, badminton
    """),
    "ride": split("""
        a bicycle, a horse, a motorcycle, a skateboard, a bike, an elephant, a camel, a scooter, a wave, a
        bull, a         donkey, a roller coaster, an escalator, a unicycle, the subway, a bus, a mountain
        bike
    """),
    "drive": split("""
        a car, a truck, a bus, a tractor, a taxi, a van, a race car, a jeep, a boat, a golf cart, a train
    """),
    "hold": split("""
        a baby, an umbrella, a camera, a sign, a flag, a cup, a book, a phone, a ball, a gun, a microphone,
        flowers, a         balloon, a fish, a basket, a box, a bag, a stick, a kitten, a puppy, a torch, a
        knife, a map, a tray, a trophy
    """),
    "throw": split("""
        a ball, a frisbee, a rock, a stick, a baseball, a snowball, a football, a javelin, a net, a stone, a
        toy
    """),
    "read": split("""
        a book, a newspaper, a magazine, a letter, a map, a menu, a sign, a story, the news, a comic book, a
        poem
    """),
    "make": split("""
        a cake, a sandwich, a paper airplane, a salad, dinner, pancakes, a snowman, coffee, pottery, a
        sandcastle, a         basket, jewelry, a fire, soup, pizza dough, furniture, a quilt, a birdhouse,
        bread, a necklace
    """),
    "clean": split("""
        the floor, a window, a car, the dishes, a table, a bathtub, the kitchen, a bicycle, a boat, shoes, a
        dog
    """),
    "open": split("""
        a door, a box, a letter, a bottle, a window, a present, a package, a can, an umbrella, a gate, a
        suitcase
    """),
    "watch": split("""
        television, a movie, a football game, the sunset, a parade, birds, the fireworks, a concert,
        children, a         street performer, a race, the ocean, airplanes, a play
    """),
    "climb": split("""
        a rope, a tree, a ladder, a rock wall, a mountain, the stairs, a fence, a cliff, a pole, a hill, a
        wall
    """),
    "fix": split("""
        a car, a bicycle, a roof, a computer, a fence, a pipe, a shoe, a watch, a road, a tire, an engine, a
        lamp
    """),
    "draw": split("""
        a picture, a portrait, a face, a flower, a landscape, a wall, a house, a mural, a sign, a map, a
        horse
    """),
    "put": split("""
        some clothes into a suitcase, oil into a pan, books on a shelf, makeup on her face, sugar into a
        cup, water into         a pot, a letter in a mailbox, a baby in a stroller, eggs into a bowl, wood
        on the fire, salt in the soup
    """),
    "animal": split("""
        a dog, a cat, a horse, a bird, a cow, a goat, ducks, a fish, a monkey, a lion, a baby, a rabbit,
        chickens
    """),
    "person": split("""
        a man, a woman, a friend, a child, his son, her daughter, the crowd, a baby, an old man, a police
        officer
    """),
    "chase": split("""
        a ball, a cat, a dog, a bird, a rabbit, a stick, its tail, a squirrel, a frisbee, a mouse, a car, a
        butterfly
    """),
    "none": [""],
}
# verb/near paraphrase/kind of its objects
ACTIONS = triples("""
    eat/have/food, eat/chew on/food, cut/slice/cut, chop/cut up/cut, peel/take the skin off/cut,
    drink/sip/drink, play/perform on/instrument, play/practice/instrument, play/compete in/game,
    play/enjoy/game, ride/travel on/ride, drive/steer/drive, hold/carry/hold, hold/grip/hold,
    carry/bring/hold, throw/toss/throw, catch/grab/throw, kick/hit/throw, read/look at/read,
    write/compose/read, make/prepare/make, make/build/make, wash/clean/clean, clean/scrub/clean,
    open/unlock/open, close/shut/open, watch/look at/watch, film/record/watch, climb/go up/climb,
    fix/repair/fix, push/shove/fix, draw/sketch/draw, paint/decorate/draw, put/place/put, feed/give food
    to/animal, pet/stroke/animal, photograph/take a picture of/animal, talk to/speak with/person,
    hug/embrace/person, dance with/move to music with/person, argue with/yell at/person, help/assist/person,
    sit/rest/none, stand/wait/none, walk/stroll/none, run/jog/none, sleep/nap/none, jump/leap/none,
    dance/perform a dance/none, sing/perform a song/none, swim/float/none, laugh/smile/none, cry/weep/none,
    pose/pose for a picture/none, fall/trip/none, exercise/work out/none, cook/prepare a meal/none, lie
    down/rest/none, speak/give a speech/none, fish/try to catch fish/none, kneel/crouch/none
""")
ANIMAL_ACTIONS = triples("""
    run/race/none, jump/leap/none, sleep/lie asleep/none, eat/chew/food, chase/run after/chase, play
    with/bite/chase, swim/paddle/none, sit/rest/none, stand/stay/none, lick/sniff/person, climb/scramble
    up/climb, bark/howl/none, graze/eat grass/none, drink/lap up/drink, look at/stare at/person, roll
    over/lie down/none, catch/grab/throw, fly/glide/none, dig/scratch the ground/none, fight
    with/attack/animal
""")
THINGS = split("""
    car, bus, truck, train, airplane, boat, bicycle, motorcycle, chair, table, sofa, bed, lamp, desk, bench,
    clock, plate of food, bowl of fruit, vase of flowers, laptop, television, house, barn, bridge, tower,
    statue, fountain, sign, kite, umbrella, bottle, cup of coffee, cake, pile of books, ship, helicopter,
    fence, door, window, tree, toilet, sink, stove
""")
THING_STATES = split("""
    parked, standing, sitting, left, lying, on display, for sale, being repaired, shown, visible, placed
""")
ROLES = split("""
    president, prime minister, foreign minister, finance minister, central bank, parliament, supreme court,
    army, police, opposition, government, health ministry, king, stock market, national team, election
    commission, opposition leader, largest bank, biggest airline, state television, former president,
    defense minister, coast guard, oil minister
""")
# the same for headlines
LEAD_VERBS = triples("""
    rejects/turns down/plan, approves/backs/plan, announces/unveils/plan, warns of/fears/event,
    condemns/denounces/event, investigates/opens probe into/event, signs/agrees/deal, delays/postpones/deal,
    seeks/wants/deal, cancels/calls off/deal, visits/arrives in/place, criticizes/attacks/place, holds talks
    with/meets leaders of/place, denies/dismisses/claim, confirms/admits/claim, demands/calls for/change,
    promises/pledges/change, votes on/debates/plan, raises/increases/rate, cuts/lowers/rate
""")
LEAD_OBJECTS: dict[str, list[str]] = {
    "plan": split("""
        budget plan, tax reform, peace plan, new constitution, health care bill, pension reform, austerity
        measures, nuclear program, gun control bill, immigration law, climate plan, spending cuts, bailout,
        ceasefire proposal
    """),
    "event": split("""
        bomb attack, deadly train crash, flooding, protests, coup attempt, mass shooting, chemical attack,
        oil spill, factory fire, prison riot, plane crash, earthquake, kidnapping of journalists, cyber
        attack, drought, terror threat
    """),
    "deal": split("""
        trade deal, arms deal, gas agreement, peace treaty, debt deal, merger, summit, prisoner swap, loan,
        ceasefire
    """),
    "claim": split("""
        spying claims, corruption charges, report of talks, missile test, death toll, troop withdrawal,
        doping allegations
    """),
    "change": split("""
        early elections, release of prisoners, lower prices, sanctions, end to violence, new jobs, more aid,
        withdrawal of troops
    """),
    "rate": split("""
        interest rates, fuel prices, minimum wage, growth forecast, taxes, oil output, military spending,
        retirement age
    """),
}
DISASTERS = split("""
    bus crash, car bomb, suicide bombing, earthquake, landslide, ferry accident, plane crash, mine
    explosion, flood, hotel fire, stampede, avalanche, gas blast, air strike, train derailment, typhoon,
    shooting, clashes, heat wave, outbreak of cholera
""")
MARKETS = split("""
    oil prices, gold, stocks, shares, the dollar, the euro, consumer confidence, exports, house prices,
    profits, car sales
""")
SPORTS = split("""
    the final, the quarterfinals, the cup, a gold medal, the title, the opening match, the series, the
    championship, the race
""")
SKILLS = split("""
    learn to cook, fix a leaking tap, train a puppy, write a cover letter, save money, lose weight, sleep
    better, learn a language, grow tomatoes, clean a carpet, remove a stain, bake bread, install a printer,
    reset a password, change a tire, paint a room, plan a wedding, study for an exam, start a business,
    invest in stocks, buy a house, rent an apartment, apply for a visa, repair a bicycle, take better
    photographs, speak in public, learn to swim, quit smoking, get rid of ants, cook rice, sharpen a knife,
    freeze vegetables, make yogurt, poach an egg, store potatoes, thaw a chicken, brew coffee, connect to a
    wireless network, back up my files, delete an account, write a novel, cite a source, solve an equation,
    improve my writing, negotiate a salary, ask for a raise, prepare for an interview, build a shed,
    insulate an attic, unclog a drain, sell a car, travel cheaply, pack a suitcase, treat a sunburn, cure a
    cold, lower blood pressure
""")
# wordings of one question or remark, the nearest to each other first
QUESTION_FORMS = lines("""
    How do I {x}? | How can I {x}? | What is the best way to {x}? | Ways to {x} | How to {x}
    Should I {x} myself? | Is it a good idea to {x} on my own? | Can I {x} without help?
    How long does it take to {x}? | How much time do I need to {x}? | Is it quick to {x}?
    How much does it cost to {x}? | What is the price if I want to {x}? | Is it expensive to {x}?
    Why can't I {x}? | I am not able to {x}. | I have trouble when I try to {x}.
    Do I need a permit to {x}? | Is it legal to {x}? | What are the rules if I want to {x}?
    You can {x} in three easy steps. | It is not hard to {x}. | Nobody should try to {x} alone.
""")
REMARKS = lines("""
    I think {x} is a good idea. | In my opinion {x} is fine. | I don't like {x} at all. | I would avoid {x}.
    It depends on {x}. | That is a matter of {x}. | It has nothing to do with {x}.
    You should ask about {x}. | Maybe you should find out more about {x}. | Don't bother asking about {x}.
    The study found a link between {x} and {y}. | Researchers say {x} is related to {y}. |
        No link between {x} and {y}.
    The difference between {x} and {y} | How does {x} differ from {y}? | {x} versus {y} |
        {x} and {y} are the same thing.
    {x} causes {y}. | {y} is caused by {x}. | {x} prevents {y}. | {y} causes {x}.
    The {x} is bigger than the {y}. | The {y} is smaller than the {x}. | The {x} is smaller than the {y}.
    History of {x} | How {x} began | The origins of {x} | The future of {x} | An introduction to {x}
    {x} has increased in recent years. | In recent years {x} has risen. | {x} has fallen sharply. |
        {x} remained the same.
""")
