"""Read and write a reward on one line: `NAME[:option=value,...][=weight]`.

The grammar, in EBNF::

    spec    = reward [ ":" options ] [ "=" weight ]
            | distribution ":" reward [ ":" options [ "=" weight ] | ":=" weight ]
    options = option { "," option }
    option  = key "=" value
    value   = bare | '"' { any character but '"', or '""' for one '"' } '"'
    bare    = chunk { "," chunk }         (what stands between "," and "=" is a key, never a chunk)
    chunk   = one or more characters other than '"' "," "="            (":" is allowed)
    key     = a Python identifier in ASCII
    distribution, reward = a letter or digit, then letters, digits, ".", "_", "-"
    weight  = a finite number, not 0

A value with an equals sign or a double quote in it (or an empty one, or one with a comma and then a weight) is written in double
quotes: `model="a=b,c"`, `words="sun,sea"=2`. A comma needs none where no `key=` follows it: `words=sun,sea,penalty=2`.
Every spec reads in one way, whatever is installed: `a:b=2` gives the reward `a` an option `b`, and `a:b:=2` gives the reward `b`
of the distribution `a` a weight.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fktext.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_CHUNK = re.compile(r'[^",=]+')
_BARE = re.compile(rf"{_CHUNK.pattern}(?:,{_CHUNK.pattern}(?=,|\Z))*")


@dataclass(frozen=True)
class Spec:
    """A reward by name, its options as text, and its weight in the sum.

    Attributes:
        name: `reward`, or `distribution:reward`.
        options: (key, value) pairs in the order given, keys distinct.
        weight: finite, not 0.

    Example:
        >>> str(Spec("toxicity", (("model", "a,b"),), 2.0))
        'toxicity:model="a,b"=2.0'
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0

    @property
    def label(self) -> str:
        """The spec without its weight: what tells this term of a sum from another."""
        if not self.options:
            return self.name
        return self.name + ":" + ",".join(f"{key}={_quote(value)}" for key, value in self.options)

    def __str__(self) -> str:
        if self.weight == 1.0:
            return self.label
        # `dist:reward=2` would be an option
        gap = ":" if ":" in self.name and not self.options else ""
        return f"{self.label}{gap}={self.weight!r}"


def _quote(value: str) -> str:
    return value if _CHUNK.fullmatch(value) else '"' + value.replace('"', '""') + '"'


def parse_spec(text: str) -> Spec:
    """Read one reward as the command line writes it; the module's docstring has the grammar.

    Args:
        text: such as `cola=0.5` or `toxicity:target=nontoxic=2`.

    Raises:
        UsageError: the text does not follow the grammar; says at which character and what was expected there.

    Example:
        >>> parse_spec("toxicity:model=a/b,target=toxic=2")
        Spec(name='toxicity', options=(('model', 'a/b'), ('target', 'toxic')), weight=2.0)
    """

    def fail(at: int, expected: str) -> UsageError:
        came = f"{text[at:]!r}" if at < len(text) else "the end"
        return UsageError(f"cannot read reward {text!r}: at character {at + 1} came {came}, expected {expected}")

    if not (found := NAME.match(text)):
        raise fail(0, "a reward name")
    name, at, hint = found[0], found.end(), ""
    if second := NAME.match(text, at + 1) if text[at : at + 1] == ":" else None:
        if text[second.end() : second.end() + 1] in ("", ":"):
            name, at = f"{name}:{second[0]}", second.end()
        else:
            hint = f" (a weight of the reward {second[0]!r} of {name!r} is written {name}:{second[0]}:=2)"

    options: list[tuple[str, str]] = []
    if text[at : at + 1] == ":":
        at += 1
        while text[at : at + 1] != "=" or options or ":" not in name:
            if not (key := _KEY.match(text, at)):
                raise fail(at, f"option=value{hint if not options else ''}")
            value = _QUOTED.match(text, key.end()) or _BARE.match(text, key.end())
            if not value:
                raise fail(key.end(), f'a value of option {key[1]!r} (an empty one is written "")')
            if key[1] in dict(options):
                raise UsageError(f"cannot read reward {text!r}: option {key[1]!r} is given twice")
            options.append((key[1], value[1].replace('""', '"') if value.re is _QUOTED else value[0]))
            at = value.end()
            if text[at : at + 1] != ",":
                break
            at += 1

    weight = 1.0
    if text[at : at + 1] == "=":
        at += 1
        try:
            weight = float(text[at:])
        except ValueError:
            hint = " (a value with '=' or ',' in it is written in double quotes)" if options else ""
            raise fail(at, f"a number, the weight{hint}") from None
        if weight == 0 or not math.isfinite(weight):
            raise fail(at, "a weight that is finite and not 0")
    elif at < len(text):
        raise fail(at, "',' or '=' or the end" if options else "':' or '=' or the end")
    return Spec(name, tuple(options), weight)
