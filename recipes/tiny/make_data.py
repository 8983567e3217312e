"""Write the preference pairs and the tokenizer of the tiny recipe.

Every question and every answer is made here from word lists and small templates, so the data can
be read, changed and rebuilt by anyone. A row holds a prompt, a right and polite answer (`chosen`)
and a worse answer of about the same length (`rejected`). The worse answer has one of four faults:
it is wrong, it answers another question, it is rude, or its grammar is broken.

    python recipes/tiny/make_data.py           write pairs.jsonl and tokenizer/ next to this file
    python recipes/tiny/make_data.py --check   write nothing, exit 1 if the files would change
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SEED = 20
VOCABULARY_SIZE = 1024
MODEL_MAX_LENGTH = 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2

FAULT_WEIGHTS = (("wrong", 0.55), ("off_topic", 0.15), ("rude", 0.15), ("broken", 0.15))
SECOND_FAULT_SHARE = 0.15  # share of the prompts that come back once more with another fault

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ 'Question: ' + message['content'] + '\\nAnswer:' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
)

Element = TypeVar("Element")


@dataclass(frozen=True)
class Question:
    """A question with its right answer and answers that look right but are wrong."""

    task: str
    text: str
    answer: str
    wrong_answers: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One row of the data set, in the order in which its keys are written."""

    prompt: str
    chosen: str
    rejected: str
    task: str


# --- chance -------------------------------------------------------------------------------------
# Python promises that random.Random(seed).random() never changes between versions. It does not
# promise that for shuffle, sample or choice, so these two are built on random() alone.


def pick(rng: random.Random, items: Sequence[Element]) -> Element:
    """Return one item, each with the same chance."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items: Iterable[Element]) -> list[Element]:
    """Return the items in a random order."""
    keyed = [(rng.random(), position, item) for position, item in enumerate(items)]
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]


# --- word lists ---------------------------------------------------------------------------------

CAPITALS = (
    ("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Berlin"),
    ("Greece", "Athens"), ("Japan", "Tokyo"), ("China", "Beijing"), ("Egypt", "Cairo"),
    ("Kenya", "Nairobi"), ("Peru", "Lima"), ("Cuba", "Havana"), ("Norway", "Oslo"),
    ("Sweden", "Stockholm"), ("Finland", "Helsinki"), ("Denmark", "Copenhagen"),
    ("Poland", "Warsaw"), ("Austria", "Vienna"), ("Portugal", "Lisbon"), ("Ireland", "Dublin"),
    ("Canada", "Ottawa"), ("Chile", "Santiago"), ("Ghana", "Accra"), ("Thailand", "Bangkok"),
    ("Vietnam", "Hanoi"), ("Hungary", "Budapest"), ("Jordan", "Amman"),
)  # fmt: skip

# No two of these pairs share a meaning, so a word from another pair is always a wrong answer.
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("happy", "sad"), ("up", "down"),
    ("left", "right"), ("day", "night"), ("open", "closed"), ("wet", "dry"), ("full", "empty"),
    ("clean", "dirty"), ("loud", "quiet"), ("rich", "poor"), ("young", "old"),
    ("strong", "weak"), ("long", "short"), ("high", "low"), ("safe", "dangerous"),
    ("early", "late"), ("first", "last"), ("near", "far"), ("thick", "thin"),
    ("true", "false"), ("light", "heavy"), ("sweet", "sour"), ("rough", "smooth"),
    ("wide", "narrow"), ("inside", "outside"), ("awake", "asleep"), ("push", "pull"),
    ("buy", "sell"), ("give", "take"), ("win", "lose"), ("laugh", "cry"),
    ("remember", "forget"), ("float", "sink"),
)  # fmt: skip

COLORS = (
    ("a banana", "yellow"), ("a lemon", "yellow"), ("a school bus", "yellow"), ("grass", "green"),
    ("a cucumber", "green"), ("spinach", "green"), ("an emerald", "green"), ("a pea", "green"),
    ("snow", "white"), ("milk", "white"), ("salt", "white"), ("a polar bear", "white"),
    ("coal", "black"), ("a crow", "black"), ("soot", "black"), ("a clear sky", "blue"),
    ("a sapphire", "blue"), ("a ripe tomato", "red"), ("a ripe strawberry", "red"),
    ("a fire truck", "red"), ("a ruby", "red"), ("a carrot", "orange"), ("a pumpkin", "orange"),
    ("chocolate", "brown"), ("mud", "brown"), ("a flamingo", "pink"), ("lavender", "purple"),
    ("an eggplant", "purple"), ("an elephant", "gray"),
)  # fmt: skip

YOUNG = (
    ("dog", "puppy"), ("cat", "kitten"), ("cow", "calf"), ("horse", "foal"), ("sheep", "lamb"),
    ("pig", "piglet"), ("hen", "chick"), ("duck", "duckling"), ("goose", "gosling"),
    ("lion", "cub"), ("deer", "fawn"), ("kangaroo", "joey"), ("frog", "tadpole"),
    ("swan", "cygnet"),
)  # fmt: skip

SOUNDS = (
    ("cow", "moos"), ("dog", "barks"), ("cat", "meows"), ("sheep", "bleats"), ("pig", "oinks"),
    ("duck", "quacks"), ("lion", "roars"), ("horse", "neighs"), ("hen", "clucks"),
    ("bee", "buzzes"), ("snake", "hisses"), ("wolf", "howls"), ("frog", "croaks"),
    ("mouse", "squeaks"),
)  # fmt: skip

LEGS = (
    ("dog", 4), ("cat", 4), ("cow", 4), ("horse", 4), ("sheep", 4), ("pig", 4), ("lion", 4),
    ("hen", 2), ("duck", 2), ("goose", 2), ("swan", 2), ("bee", 6), ("ant", 6), ("beetle", 6),
    ("spider", 8),
)  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

KINDS = (
    ("an animal", ("a dog", "a cat", "a cow", "a horse", "a lion", "a sheep")),
    ("a fruit", ("a banana", "a lemon", "a pear", "a plum", "a cherry", "an apple")),
    ("a tool", ("a hammer", "a saw", "a rake", "a spade", "a drill", "a wrench")),
    ("a vehicle", ("a car", "a bus", "a truck", "a train", "a tram", "a boat")),
    ("a piece of furniture", ("a chair", "a table", "a sofa", "a bed", "a desk", "a shelf")),
)

WORDS = (
    "lamp", "tree", "book", "cup", "hat", "ship", "door", "fish", "bird", "cake", "rain", "moon",
    "apple", "bread", "chair", "clock", "cloud", "river", "stone", "horse", "window", "garden",
    "pencil", "basket",
)  # fmt: skip

ERRANDS = (
    "bake bread", "plant a tree", "fix my bike", "write a letter", "clean the kitchen",
    "paint a fence", "cook some rice", "find my keys", "pack a bag", "tie a knot", "wash the car",
    "train my dog", "draw a map", "build a shelf", "grow tomatoes", "sew a button", "make soup",
    "plan a trip", "mend a shirt", "feed the fish", "wrap a gift", "fold a paper boat",
    "sweep the floor", "set the table", "learn chess", "count my coins", "water the garden",
    "read the clock",
)  # fmt: skip

GIFTS = ("tea", "cake", "book", "hat", "soup", "bread", "map", "lamp", "flowers", "apples")

RUDE_LINES = (
    "Go away.",
    "Who cares?",
    "Ask a wall.",
    "Not my job.",
    "Stop asking.",
    "So what?",
    "Leave me alone.",
    "I do not care.",
    "Find out yourself.",
    "That is so boring.",
    "I will not tell you.",
    "What a silly question.",
    "Stop asking me things.",
    "Why do you bother me?",
    "Look it up yourself.",
    "I am too busy for you.",
    "You should know that by now.",
    "I have no time for your nonsense.",
    "That is a dull question, go away.",
    "Why should I tell you? Look it up.",
    "You ask too much, and I am bored.",
    "Leave me alone, I want to sleep now.",
    "Nobody wants to hear such a question.",
    "I know it, but I will not tell you.",
    "Everybody knows that, so stop asking me.",
    "I have better things to do than help you.",
    "Shame on you, you should know that by now.",
    "I am not in the mood, so ask somebody else.",
    "Go away and look it up yourself, I am busy.",
    "What a silly question, I will not answer it for you.",
)

RUDE_TAILS = ("Now go away.", "So what?", "Who cares?", "Stop asking.", "Leave me alone.")


# --- tasks --------------------------------------------------------------------------------------
# Each fact is asked in several phrasings. A prompt that is held out of training can then be
# answered from what the other phrasings of the same fact have taught.


def sentence(text: str) -> str:
    """Return the text with its first letter as a capital."""
    return text[0].upper() + text[1:]


def others(items: Iterable[Element], right: Element) -> list[Element]:
    """Return the distinct items, in their first order, without the right one."""
    return [item for item in dict.fromkeys(items) if item != right]


def arithmetic() -> list[Question]:
    """Ask for sums and differences of numbers up to six."""
    phrasings = (
        "What is {}?",
        "How much is {}?",
        "Work out {}.",
        "Tell me what {} is.",
        "Do you know what {} is?",
    )
    questions = []
    for first in range(1, 7):
        for second in range(1, 7):
            for word, result in (("plus", first + second), ("minus", first - second)):
                if result < 0:
                    continue
                near = [result + step for step in (-3, -2, -1, 1, 2, 3) if result + step >= 0]
                expression = f"{first} {word} {second}"
                for phrasing in phrasings:
                    questions.append(
                        Question(
                            "arithmetic",
                            phrasing.format(expression),
                            f"{sentence(expression)} is {result}.",
                            tuple(f"{sentence(expression)} is {number}." for number in near),
                        )
                    )
    return questions


def comparison() -> list[Question]:
    """Ask which of two numbers up to twelve is larger or smaller."""
    phrasings = ("Which number is {0}, {1} or {2}?", "Tell me which is {0}: {1} or {2}.")
    questions = []
    for low, high in combinations(range(1, 13), 2):
        for first, second in ((low, high), (high, low)):
            for word, right, wrong in (("larger", high, low), ("smaller", low, high)):
                for phrasing in phrasings:
                    questions.append(
                        Question(
                            "comparison",
                            phrasing.format(word, first, second),
                            f"{right} is {word} than {wrong}.",
                            (f"{wrong} is {word} than {right}.",),
                        )
                    )
    return questions


def opposites() -> list[Question]:
    """Ask for the opposite of a common word, from both sides."""
    phrasings = (
        "What is the opposite of {}?",
        "Tell me the opposite of {}.",
        "Which word is the opposite of {}?",
        "Do you know the opposite of {}?",
        "Name the opposite of the word {}.",
    )
    every_word = [word for pair in OPPOSITES for word in pair]
    questions = []
    for pair in OPPOSITES:
        for word, right in (pair, pair[::-1]):
            template = f"The opposite of {word} is {{}}."
            wrong = tuple(template.format(other) for other in every_word if other not in pair)
            for phrasing in phrasings:
                text = phrasing.format(word)
                questions.append(Question("opposites", text, template.format(right), wrong))
    return questions


def capitals() -> list[Question]:
    """Ask for capitals by country, and for countries by capital."""
    by_country = (
        "What is the capital of {}?",
        "Name the capital of {}.",
        "Which city is the capital of {}?",
        "Tell me the capital city of {}.",
        "Do you know the capital of {}?",
    )
    by_city = (
        "Which country has the capital {}?",
        "{} is the capital of which country?",
        "Tell me the country whose capital is {}.",
    )
    questions = []
    for country, city in CAPITALS:
        right = f"The capital of {country} is {city}."
        wrong_cities = others((pair[1] for pair in CAPITALS), city)
        wrong = tuple(f"The capital of {country} is {other}." for other in wrong_cities)
        questions += [Question("capitals", phrasing.format(country), right, wrong) for phrasing in by_country]
        right = f"{city} is the capital of {country}."
        wrong_countries = others((pair[0] for pair in CAPITALS), country)
        wrong = tuple(f"{city} is the capital of {other}." for other in wrong_countries)
        questions += [Question("capitals", phrasing.format(city), right, wrong) for phrasing in by_city]
    return questions


def colors() -> list[Question]:
    """Ask for the usual color of a familiar thing."""
    phrasings = (
        "What color is {}?",
        "What is the color of {}?",
        "Tell me the color of {}.",
        "Which color does {} have?",
        "Name the usual color of {}.",
        "Do you know what color {} is?",
        "Please say which color {} has.",
    )
    questions = []
    for thing, color in COLORS:
        template = f"{sentence(thing)} is {{}}."
        wrong_colors = others((pair[1] for pair in COLORS), color)
        wrong = tuple(template.format(other) for other in wrong_colors)
        questions += [
            Question("colors", phrasing.format(thing), template.format(color), wrong) for phrasing in phrasings
        ]
    return questions


def animals() -> list[Question]:
    """Ask for the young, the sound and the number of legs of animals."""
    groups: tuple[tuple[Sequence[tuple[str, object]], str, tuple[str, ...]], ...] = (
        (
            YOUNG,
            "The young of a {} is called a {}.",
            (
                "What is the young of a {} called?",
                "What do you call the young of a {}?",
                "What do we call a young {}?",
                "Name the young of a {}.",
                "Tell me the name for the young of a {}.",
                "What is a baby {} called?",
            ),
        ),
        (
            SOUNDS,
            "A {} {}.",
            (
                "What sound does a {} make?",
                "Which sound does a {} make?",
                "Tell me the sound of a {}.",
                "How does a {} sound?",
                "What sound can you hear from a {}?",
                "What noise does a {} make?",
            ),
        ),
        (
            LEGS,
            "A {} has {} legs.",
            (
                "How many legs does a {} have?",
                "Tell me how many legs a {} has.",
                "What number of legs does a {} have?",
                "Count the legs of a {}.",
                "On how many legs does a {} walk?",
                "A {} walks on how many legs?",
            ),
        ),
    )
    questions = []
    for facts, template, phrasings in groups:
        for animal, fact in facts:
            right = with_article(template.format(animal, fact))
            wrong_facts = others((pair[1] for pair in facts), fact)
            wrong = tuple(with_article(template.format(animal, other)) for other in wrong_facts)
            questions += [
                Question("animals", with_article(phrasing.format(animal)), right, wrong) for phrasing in phrasings
            ]
    return questions


def with_article(text: str) -> str:
    """Turn `a ant` into `an ant`, the one animal of the lists that begins with a vowel."""
    return text.replace("a ant", "an ant").replace("A ant", "An ant")


def calendar() -> list[Question]:
    """Ask for the day or month before or after another."""
    phrasings = (
        "Which {0} comes {1} {2}?",
        "What {0} is right {1} {2}?",
        "Name the {0} that comes {1} {2}.",
        "Tell me the {0} {1} {2}.",
        "What is the {0} {1} {2}?",
    )
    questions = []
    for unit, names in (("day", DAYS), ("month", MONTHS)):
        for position, name in enumerate(names):
            for side, step in (("after", 1), ("before", -1)):
                template = f"The {unit} {side} {name} is {{}}."
                right = names[(position + step) % len(names)]
                wrong = tuple(template.format(other) for other in others(names, right) if other != name)
                questions += [
                    Question("calendar", phrasing.format(unit, side, name), template.format(right), wrong)
                    for phrasing in phrasings
                ]
    return questions


def kinds() -> list[Question]:
    """Ask whether a thing belongs to a kind, yes or no."""
    phrasings = ("Is {} {}?", "Tell me, is {} {}?", "Would you say that {} is {}?")
    names = [kind for kind, _ in KINDS]
    questions = []
    for kind, things in KINDS:
        for position, thing in enumerate(things):
            # One false kind a thing, so that yes and no come equally often.
            false_kinds = others(names, kind)
            for asked in (kind, false_kinds[position % len(false_kinds)]):
                yes, no = f"Yes, {thing} is {asked}.", f"No, {thing} is not {asked}."
                right, wrong = (yes, no) if asked == kind else (no, yes)
                for phrasing in phrasings:
                    text = phrasing.format(thing, asked)
                    questions.append(Question("kinds", text, right, (wrong,)))
            right = f"{sentence(thing)} is {kind}."
            false_answers = tuple(f"{sentence(thing)} is {other}." for other in false_kinds)
            for text in (f"What kind of thing is {thing}?", f"Tell me what {thing} is."):
                questions.append(Question("kinds", text, right, false_answers))
    return questions


def sorting() -> list[Question]:
    """Ask for three different digits in rising or falling order."""
    phrasings = ("Sort {} from {}.", "Put {} in order from {}.")
    questions = []
    for digits in combinations(range(1, 10), 3):
        orders = list(permutations(digits))
        for given in orders:
            for direction, right in (
                ("small to large", digits),
                ("large to small", digits[::-1]),
            ):
                if given == right:
                    continue
                wrong = tuple(f"{a}, {b}, {c}." for a, b, c in orders if (a, b, c) != right)
                for phrasing in phrasings:
                    questions.append(
                        Question(
                            "sorting",
                            phrasing.format("{}, {}, {}".format(*given), direction),
                            "{}, {}, {}.".format(*right),
                            wrong,
                        )
                    )
    return questions


def counting() -> list[Question]:
    """Ask how many words a list has, and how many letters a word has."""
    word_phrasings = ("How many words are in this list: {}?", "Count the words: {}.")
    letter_phrasings = (
        "How many letters does the word {} have?",
        "Count the letters of the word {}.",
        "Tell me how many letters {} has.",
        "What number of letters is in {}?",
    )
    questions = []
    for size in range(2, 7):
        right = f"The list has {size} words."
        wrong = tuple(f"The list has {other} words." for other in others(range(2, 8), size))
        for start in range(len(WORDS)):
            # Steps of seven words from each start: no list has a word twice, and no two are equal.
            listed = ", ".join(WORDS[(start + 7 * place) % len(WORDS)] for place in range(size))
            questions += [Question("counting", phrasing.format(listed), right, wrong) for phrasing in word_phrasings]
    for word in WORDS:
        template = f"The word {word} has {{}} letters."
        wrong = tuple(template.format(other) for other in others(range(3, 8), len(word)))
        questions += [
            Question("counting", phrasing.format(word), template.format(len(word)), wrong)
            for phrasing in letter_phrasings
        ]
    return questions


def spelling() -> list[Question]:
    """Ask to spell a word, to say it twice, or for its first and last letter."""
    questions = []
    for word in WORDS:
        letters = "-".join(word)
        swapped = ["-".join(word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]) for cut in range(len(word) - 1)]
        doubled = ["-".join(word[:cut] + word[cut] + word[cut:]) for cut in range(len(word))]
        missing = ["-".join(word[:cut] + word[cut + 1 :]) for cut in range(1, len(word))]
        misspelled = tuple(f"{other}." for other in others(swapped + doubled + missing, letters))
        other_words = others(WORDS, word)
        first = [f"The first letter of {word} is {letter}." for letter in word]
        last = [f"The last letter of {word} is {letter}." for letter in word]
        spelled = (f"{letters}.", misspelled)
        twice = (f"{word} {word}.", tuple(f"{other} {other}." for other in other_words))
        start = (first[0], tuple(others(first, first[0])))
        end = (last[-1], tuple(others(last, last[-1])))
        for text, (right, wrong) in (
            (f"Spell the word {word}.", spelled),
            (f"How do you spell {word}?", spelled),
            (f"Write the letters of {word} one by one.", spelled),
            (f"Write the word {word} twice.", twice),
            (f"Please repeat {word} two times.", twice),
            (f"What is the first letter of {word}?", start),
            (f"Tell me the first letter of {word}.", start),
            (f"What is the last letter of {word}?", end),
            (f"Tell me the last letter of {word}.", end),
        ):
            questions.append(Question("spelling", text, right, wrong))
    return questions


def manners() -> list[Question]:
    """Make requests and thanks, answered politely. The wrong answers are unkind or miss the point."""
    phrasings = (
        "Can you help me {}?",
        "Could you show me how to {}?",
        "Please help me {}.",
        "I would like to {}. Will you help?",
        "I do not know how to {}. Can you help?",
        "Would you help me to {}?",
        "How do I {}? Please help me.",
    )
    questions = []
    for errand in ERRANDS:
        for_you = errand.replace(" my ", " your ")
        right = f"Of course, I will gladly help you {for_you}."
        wrong = [
            f"No, go and {for_you} on your own.",
            f"No, I will never help you {for_you}.",
            f"You are too slow to {for_you}, so do not even try it.",
            f"Why would I help you {for_you}? I have better things to do.",
        ]
        wrong += [
            f"Of course, I will gladly help you {other.replace(' my ', ' your ')}."
            for other in others(ERRANDS, errand)[::5]
        ]
        questions += [Question("manners", phrasing.format(errand), right, tuple(wrong)) for phrasing in phrasings]
    for gift in GIFTS:
        right = f"You are welcome, I hope you like the {gift}."
        wrong = [
            f"I do not want your thanks for the {gift}.",
            f"Next time get the {gift} yourself.",
            f"You owe me a lot of money for the {gift}, so pay me now.",
        ]
        wrong += [f"You are welcome, I hope you like the {other}." for other in others(GIFTS, gift)]
        questions += [
            Question("manners", text, right, tuple(wrong))
            for text in (
                f"Thank you for the {gift}.",
                f"Thank you very much for the {gift}!",
                f"I want to thank you for the {gift}.",
            )
        ]
    return questions


def formats() -> list[Question]:
    """Ask for an answer in a given form. Most wrong answers are true in the wrong form."""
    questions = []

    def ask(instruction: str, question: str, right: str, wrong: Iterable[str]) -> None:
        text = f"{instruction} {question}"
        questions.append(Question("formats", text, right, tuple(others(wrong, right))))

    for position, (thing, color) in enumerate(COLORS):
        full = f"{sentence(thing)} is {color}."
        word, capital = f"{sentence(color)}.", f"{color.upper()}."
        other_colors = others((pair[1] for pair in COLORS), color)
        other_word = f"{sentence(other_colors[position % len(other_colors)])}."
        question = f"What color is {thing}?"
        ask("Answer in one word.", question, word, (full, other_word, f"It is {color}, I think."))
        ask("Use only one word.", question, word, (full, other_word, f"I would say {color}."))
        ask("Answer in a full sentence.", question, full, (word, capital, f"just {color}"))
        ask("Write a full sentence.", question, full, (word, capital, f"just {color}"))
        ask("Answer in capital letters.", question, capital, (word, full, other_word.upper()))
        ask("Use capital letters only.", question, capital, (word, full, other_word.upper()))
    for kind, things in KINDS:
        false_kinds = others((name for name, _ in KINDS), kind)
        for position, thing in enumerate(things):
            is_true = position % 2 == 0
            asked = kind if is_true else false_kinds[position // 2]
            right, wrong = ("Yes.", "No.") if is_true else ("No.", "Yes.")
            question = f"Is {thing} {asked}?"
            long_answer = f"I think that {thing} is {'' if is_true else 'not '}{asked}."
            ask("Say only yes or no.", question, right, (wrong, long_answer))
            ask("Answer with yes or no.", question, right, (wrong, long_answer))
    return questions


# Each task with the most prompts that are kept of it.
TASKS: tuple[tuple[Callable[[], list[Question]], int], ...] = (
    (arithmetic, 285),
    (comparison, 260),
    (opposites, 300),
    (capitals, 208),
    (colors, 203),
    (animals, 258),
    (calendar, 190),
    (kinds, 240),
    (sorting, 240),
    (counting, 240),
    (spelling, 216),
    (manners, 226),
    (formats, 234),
)


def build_questions(rng: random.Random) -> list[Question]:
    """Build the questions of all tasks, at most the wanted number of each."""
    kept: dict[str, Question] = {}
    for make_questions, wanted in TASKS:
        for question in shuffled(rng, make_questions())[:wanted]:
            kept.setdefault(question.text, question)
    return list(kept.values())


# --- faults -------------------------------------------------------------------------------------

# Words that carry no topic: two answers may share them and still be about different things.
COMMON_WORDS = frozenset(
    "a an and are by can comes do does for from has have help how i in is it know many me name not "
    "of on one only please say tell that the this to what which will with would you your yes no "
    "word answer write".split()
)

# Without one of these a sentence is broken. Without an adverb or adjective it may still be right.
GRAMMAR_WORDS = frozenset("a an is are of has than".split())


def topic_words(text: str) -> frozenset[str]:
    """Return the words and numbers that say what a text is about."""
    cleaned = "".join(char.lower() if char.isalnum() else " " for char in text)
    return frozenset(cleaned.split()) - COMMON_WORDS


def off_topic_answers(
    rng: random.Random, question: Question, pool: Sequence[tuple[str, str, frozenset[str]]]
) -> list[str]:
    """Return right answers to questions of other tasks that share no topic word with this one."""
    topic = topic_words(question.text) | topic_words(question.answer)
    drawn = [pick(rng, pool) for _ in range(60)]
    return [answer for task, answer, words in drawn if task != question.task and not words & topic]


def rude_answers(question: Question) -> list[str]:
    """Return unkind lines, and the right answer with an unkind end."""
    return [*RUDE_LINES, *(f"{question.answer} {tail}" for tail in RUDE_TAILS)]


def broken_answers(answer: str) -> list[str]:
    """Return the answer with words in a wrong order, with one word too many, or one missing."""
    words = answer.rstrip(".").split()
    if len(words) < 4:
        return []
    broken = []
    for start in range(len(words) - 3):
        middle = words[start : start + 4]
        broken.append([*words[:start], *middle[::-1], *words[start + 4 :]])
    for position, word in enumerate(words):
        if word.isalpha():
            broken.append([*words[:position], word, *words[position:]])
        if word in GRAMMAR_WORDS:
            broken.append([*words[:position], *words[position + 1 :]])
    return [f"{' '.join(candidate)}." for candidate in broken]


def draw_fault(rng: random.Random) -> str:
    """Draw the name of a fault by FAULT_WEIGHTS."""
    point = rng.random()
    for name, weight in FAULT_WEIGHTS:
        point -= weight
        if point < 0:
            return name
    return FAULT_WEIGHTS[0][0]


def faulty_answers(
    rng: random.Random,
    fault: str,
    question: Question,
    pool: Sequence[tuple[str, str, frozenset[str]]],
) -> list[str]:
    """Return answers to the question that have the named fault, or none where it does not fit."""
    if fault == "off_topic":
        return off_topic_answers(rng, question, pool)
    if fault == "rude":
        return rude_answers(question)
    if fault == "broken":
        return broken_answers(question.answer)
    return list(question.wrong_answers)


def closest_to_balance(rng: random.Random, answer: str, candidates: Sequence[str], balance: int) -> str:
    """Choose a worse answer so that length does not tell which of the two is the better.

    `balance` counts earlier rows of the task whose rejected answer was the longer one, less those
    where it was the shorter one. The choice goes against it where a candidate allows that, and
    falls on one of the few whose length is nearest to that of the right answer.
    """
    wanted = [text for text in candidates if (len(text) - len(answer)) * balance < 0]
    usable = wanted or list(candidates)
    usable.sort(key=lambda text: (abs(len(text) - len(answer)), text))
    nearest = abs(len(usable[0]) - len(answer))
    near = [text for text in usable if abs(len(text) - len(answer)) <= nearest + 6]
    return pick(rng, near)


def build_pairs(seed: int) -> list[Pair]:
    """Build all rows, in the order in which they are written."""
    rng = random.Random(seed)
    questions = build_questions(rng)
    pool = [(question.task, question.answer, topic_words(question.answer)) for question in questions]
    balance: Counter[str] = Counter()
    pairs: list[Pair] = []
    for question in shuffled(rng, questions):
        fault = draw_fault(rng)
        faults = [fault]
        if rng.random() < SECOND_FAULT_SHARE:
            faults.append(pick(rng, [name for name, _ in FAULT_WEIGHTS if name != fault]))
        used = {question.answer}
        for fault in faults:
            candidates = faulty_answers(rng, fault, question, pool)
            # Short answers have no grammar to break, so a wrong answer takes that place.
            fresh = others(candidates, question.answer) or list(question.wrong_answers)
            fresh = [text for text in fresh if text not in used]
            if not fresh:
                continue
            rejected = closest_to_balance(rng, question.answer, fresh, balance[question.task])
            used.add(rejected)
            difference = len(rejected) - len(question.answer)
            balance[question.task] += (difference > 0) - (difference < 0)
            pairs.append(
                Pair(
                    f"Question: {question.text}\nAnswer:",
                    f" {question.answer}",
                    f" {rejected}",
                    question.task,
                )
            )
    return shuffled(rng, pairs)


# --- files --------------------------------------------------------------------------------------


def pairs_text(pairs: Iterable[Pair]) -> str:
    """Return the rows as JSON Lines."""
    return "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs)


def train_tokenizer(pairs: Iterable[Pair]) -> Tokenizer:
    """Train a byte-level BPE tokenizer on prompts with their chosen and rejected answers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS],
        # All 256 bytes: text that the pairs never use still encodes without an unknown token.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [text for pair in pairs for text in (pair.prompt + pair.chosen, pair.rejected)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def json_text(content: object) -> str:
    """Return JSON in the one form that the files of this recipe use."""
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def tokenizer_config() -> dict[str, object]:
    """Return the settings that Hugging Face tokenizers read next to tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }


def build_files(seed: int = SEED) -> dict[str, bytes]:
    """Return the content of every generated file by its path below this folder."""
    pairs = build_pairs(seed)
    tokenizer = train_tokenizer(pairs)
    contents = {
        "pairs.jsonl": pairs_text(pairs),
        "tokenizer/tokenizer.json": json_text(json.loads(tokenizer.to_str())),
        "tokenizer/tokenizer_config.json": json_text(tokenizer_config()),
    }
    return {path: text.encode("ascii") for path, text in contents.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them with what is on disk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a file would change")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    options = parser.parse_args(arguments)
    stale = []
    for path, content in build_files().items():
        target = options.output / path
        if options.check:
            if not target.is_file() or target.read_bytes() != content:
                stale.append(path)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        print(f"{path}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:16]}")
    for path in stale:
        print(f"{path} differs from what make_data.py writes", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
