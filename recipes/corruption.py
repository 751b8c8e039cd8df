"""Sentences made worse: what the acceptability judges learn to tell from the sentences themselves.

Each corruption takes a list of lower-case words and punctuation marks and says which words of its result give it away, so that a
network can be taught token by token (as ELECTRA's discriminator is, Clark et al. 2020, arXiv 2003.10555), not only by the sentence.
None of them is made after BLiMP's paradigms, which are kept for evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import ClassVar

Words = list[str]
Corrupted = tuple[Words, set[int]]  # the new words, and the positions that give the corruption away

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+(?=[\"'A-Z])")

# Words that take the place of one another in a well-formed sentence only by chance.
FUNCTION = [
    group.split()
    for group in (
        "the a an this that these those some any every each no",
        "in on at of to for with from by about into over under through between without",
        "and or but because if when while although that whether",
        "is are was were be been being am",
        "has have had having",
        "do does did done doing",
        "can could will would shall should may might must",
        "i you he she it we they",
        "me him her us them",
        "my your his its our their mine yours hers ours theirs",
        "myself yourself himself herself itself ourselves themselves",
        "who whom which what where why how",
        "not never very too so as than more most much many few little",
        "there here then now",
    )
]
# One word for another that breaks agreement, case or form.
PAIRS = [
    "is are,was were,has have,does do,am is,am are,is be,are be,was been,were been,a an,this these,that those,doesn't don't",
    "isn't aren't,wasn't weren't,hasn't haven't,he him,she her,they them,we us,i me,who whom,their there,his him",
    "himself themselves,herself themselves",
    "itself themselves,myself himself,yourself myself,much many,less fewer,good well,more most,has had,have had",
    "did done,does did,to for,in at,can to,will would,its it,your you,my i,our we,than then,them themselves,him himself,me myself",
]
SWAPS: dict[str, list[str]] = {}
for _pair in ",".join(PAIRS).split(","):
    _left, _right = _pair.split()
    SWAPS.setdefault(_left, []).append(_right)
    SWAPS.setdefault(_right, []).append(_left)
GROUP = {word: index for index, group in enumerate(FUNCTION) for word in group}
ALL_FUNCTION = list(GROUP)
_DETERMINERS = FUNCTION[0][:3] + FUNCTION[9][:6]
DANGLING = {*_DETERMINERS, "of", "to", "and", "or", "with", "is", "was", "very", "every"}


def split_words(text: str) -> Words:
    """Lower-case words and punctuation marks."""
    return WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a snippet, by a rule of thumb."""
    return [part for part in _SENTENCE_END.split(text) if part]


class Corruptor:
    """Draws corruptions.

    Args:
        texts: clean sentences as words; their word frequencies say what is inserted, and which forms of a word exist.
        rng: where all randomness comes from.
        kinds: names of the methods to draw from and their weights.
    """

    KINDS: ClassVar[dict[str, float]] = {
        "swap": 2.0,
        "move": 1.5,
        "drop": 3.0,
        "insert": 2.0,
        "repeat": 0.7,
        "pair": 3.0,
        "inflect": 4.0,
        "function": 2.0,
        "other": 1.0,
        "shuffle": 1.0,
        "dangle": 0.7,
        "splice": 1.5,
    }

    def __init__(self, texts: Sequence[Words], rng: Random, kinds: dict[str, float] | None = None) -> None:
        self.texts, self.rng = texts, rng
        self.next: dict[str, Words] = {}
        counts = Counter(word for words in texts for word in words if word.isalpha())
        self.words, self.weights = list(counts), [count**0.75 for count in counts.values()]
        self.pool: list[str] = []
        self.verbs: dict[str, str] = {}
        self.same: dict[str, list[str]] = {}
        self.forms = families({word for word, count in counts.items() if count >= 3})
        chosen = kinds or self.KINDS
        self.makers: list[Callable[[Words], Corrupted | None]] = [getattr(self, f"_{name}") for name in chosen]
        self.shares = list(chosen.values())

    def __call__(self, words: Words) -> Corrupted:
        """One corruption (three times in ten a second, one in ten a third) of the words; positions of all of them."""
        for _ in range(200):
            wanted, made = self.rng.choices((1, 2, 3), (6, 3, 1))[0], 0
            out, touched = list(words), set[int]()
            while made < wanted:
                found = self.rng.choices(self.makers, self.shares)[0](list(out))
                if found is None:
                    break  # not applicable
                made += 1
                # Positions of an earlier corruption may move by a word; the later one's are exact.
                out, touched = found[0], {index for index in touched if index < len(found[0])} | found[1]
            if made and out != words:
                return out, touched
        raise ValueError(f"no corruption applies to {words}")

    def _common(self) -> str:
        if not self.pool:
            self.pool = self.rng.choices(self.words, self.weights, k=10_000)
        return self.pool.pop()

    def _index(self, words: Words, good: Callable[[str], bool]) -> int | None:
        places = [index for index, word in enumerate(words) if good(word)]
        return self.rng.choice(places) if places else None

    def _swap(self, words: Words) -> Corrupted | None:
        places = [i for i, (one, two) in enumerate(pairwise(words)) if one[0].isalpha() and two[0].isalpha() and one != two]
        if not places:
            return None
        i = self.rng.choice(places)
        words[i], words[i + 1] = words[i + 1], words[i]
        return words, {i, i + 1}

    def _move(self, words: Words) -> Corrupted | None:
        i = self._index(words, str.isalpha)
        if i is None or len(words) < 5:
            return None
        word = words.pop(i)
        j = self.rng.choice([j for j in range(len(words)) if 2 <= abs(j - i) <= 6] or [0])
        words.insert(j, word)
        return words, {j, min(i + (j < i), len(words) - 1)}

    def _drop(self, words: Words) -> Corrupted | None:
        # Without an adjective or an adverb a sentence is often as good, so mostly function words go.
        some = self.rng.random() < 0.75
        i = self._index(words, GROUP.__contains__ if some else str.isalpha)
        if i is None or len(words) < 4:
            return None
        del words[i]
        return words, {min(i, len(words) - 1)}

    def _insert(self, words: Words) -> Corrupted | None:
        i = self.rng.randrange(len(words))
        words.insert(i, self.rng.choice(ALL_FUNCTION) if self.rng.random() < 0.6 else self._common())
        return words, {i}

    def _repeat(self, words: Words) -> Corrupted | None:
        i = self._index(words, lambda word: word.isalpha() and word not in ("very", "so", "had", "that", "ha", "no"))
        if i is None:
            return None
        length = self.rng.choice((1, 1, 2))
        words[i:i] = words[i : i + length]
        return words, {i + length}

    def _pair(self, words: Words) -> Corrupted | None:
        i = self._index(words, SWAPS.__contains__)
        if i is None:
            return None
        words[i] = self.rng.choice(SWAPS[words[i]])
        return words, {i}

    def _inflect(self, words: Words) -> Corrupted | None:
        i = self._index(words, self.forms.__contains__)
        if i is None:
            return None
        words[i] = self.rng.choice(self.forms[words[i]])
        return words, {i}

    def _function(self, words: Words) -> Corrupted | None:
        i = self._index(words, GROUP.__contains__)
        if i is None:
            return None
        inside = self.rng.random() < 0.5  # on/at, he/she: sometimes as good; of another kind: seldom
        others = FUNCTION[GROUP[words[i]]] if inside and GROUP[words[i]] in (1, 3, 4, 5, 12) else ALL_FUNCTION
        words[i] = self.rng.choice([word for word in others if word != words[i]])
        return words, {i}

    def _other(self, words: Words) -> Corrupted | None:
        i = self._index(words, lambda word: word.isalpha() and word not in GROUP)
        if i is None:
            return None
        words[i] = self._common()
        return words, {i}

    def _shuffle(self, words: Words) -> Corrupted | None:
        if len(words) < 6:
            return None
        size = self.rng.randint(4, min(8, len(words) - 1))
        i = self.rng.randrange(len(words) - size)
        part = words[i : i + size]
        self.rng.shuffle(part)
        touched = {i + k for k in range(size) if part[k] != words[i + k]}
        words[i : i + size] = part
        return words, touched

    def _dangle(self, words: Words) -> Corrupted | None:
        places = [i for i, word in enumerate(words) if word in DANGLING and i >= 2]
        if not places:
            return None
        i = self.rng.choice(places)
        cut = words[: i + 1] + ([words[-1]] if not words[-1][0].isalpha() else [])
        return (cut, {i}) if len(cut) < len(words) else None

    def _splice(self, words: Words) -> Corrupted | None:
        other = self.rng.choice(self.texts)
        if len(words) < 5 or len(other) < 5:
            return None
        i, j = self.rng.randint(2, len(words) - 2), self.rng.randint(2, len(other) - 2)
        return words[:i] + other[j:], {i}

    def _phrase(self, words: Words) -> Corrupted | None:
        """Two neighbouring runs of one to three words, not both of one, trade places."""
        sizes = self.rng.choice(((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2)))
        last = len(words) - (not words[-1][0].isalpha())  # a final mark stays
        if last < sum(sizes) + 1:
            return None
        i = self.rng.randint(0, last - sum(sizes))
        one, other = words[i : i + sizes[0]], words[i + sizes[0] : i + sum(sizes)]
        if one == other or not all(word[0].isalpha() for word in one + other):
            return None
        return words[:i] + other + one + words[i + sum(sizes) :], set(range(i, i + sum(sizes)))

    def _verb(self, words: Words) -> Corrupted | None:
        """Another verb in the same form, which often takes other complements."""
        if not self.verbs:
            self.verbs = verbs({word for word, share in zip(self.words, self.weights, strict=True) if share >= 3**0.75})
            for form, ending in self.verbs.items():
                self.same.setdefault(ending, []).append(form)
        i = self._index(words, self.verbs.__contains__)
        if i is None:
            return None
        words[i] = self.rng.choice([form for form in self.same[self.verbs[words[i]]] if form != words[i]])
        return words, {i}

    def _chain(self, words: Words) -> Corrupted | None:
        """Some words are followed by what follows each of them in other texts: every pair is likely, the whole is not."""
        if len(words) < 5:
            return None
        if not self.next:
            for text in self.texts[:60_000]:
                for left, right in pairwise(text):
                    self.next.setdefault(left, []).append(right)
        i, size = self.rng.randrange(1, len(words) - 2), self.rng.randint(2, 8)
        fresh = [words[i - 1]]
        while len(fresh) <= size and fresh[-1] in self.next:
            fresh.append(self.rng.choice(self.next[fresh[-1]]))
        fresh = [word for word in fresh[1:] if word[0].isalpha()]
        return (words[:i] + fresh + words[i + size :] + words[-1:] * (i + size >= len(words)), set(range(i, i + len(fresh))))


def families(vocabulary: set[str]) -> dict[str, list[str]]:
    """For each word its other forms (walk, walks, walked, walking) that seldom can stand in its place.

    Regular forms only, by their endings, where base and form are both in the vocabulary. Present and past often can take each
    other's place, so walks and walked are not paired.
    """
    forms: dict[str, list[str]] = {}
    for base in sorted(vocabulary):
        if not base.isalpha() or len(base) < 3 or base in GROUP:
            continue
        stem = base[:-1] if base.endswith("e") else base
        y = base[:-1] + "i" if base.endswith("y") else base
        plural = next((form for form in (y + "es", base + "s", base + "es") if form in vocabulary), None)
        past = next((form for form in (stem + "ed", y + "ed", base + base[-1] + "ed") if form in vocabulary), None)
        ing = next((form for form in (stem + "ing", base + base[-1] + "ing") if form in vocabulary), None)
        for left, right in ((base, plural), (base, past), (base, ing), (plural, ing), (past, ing)):
            if left is not None and right is not None:
                forms.setdefault(left, []).append(right)
                forms.setdefault(right, []).append(left)
    return forms


def verbs(vocabulary: set[str]) -> dict[str, str]:
    """The form ("", "s", "ed" or "ing") of each regular verb of the vocabulary: those whose last two forms are in it."""
    found: dict[str, str] = {}
    for base in sorted(vocabulary):
        if not base.isalpha() or len(base) < 3 or base in GROUP:
            continue
        stem = base[:-1] if base.endswith("e") else base
        past = next((form for form in (stem + "ed", base + base[-1] + "ed") if form in vocabulary), None)
        ing = next((form for form in (stem + "ing", base + base[-1] + "ing") if form in vocabulary), None)
        if past is not None and ing is not None:
            found |= {base: "", past: "ed", ing: "ing"}
            if base + "s" in vocabulary:
                found[base + "s"] = "s"
    return found
