"""`json`: a text that is JSON, and valid against a JSON Schema where one is given."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import RewardError, UsageError
from fktext_plugins.texts import Penalty, shortened

if TYPE_CHECKING:  # these are imported when they are needed
    from referencing import Resource

    from fktext.rewards import RewardContext


class JsonTexts:
    """Give 0 to a text that is JSON and valid, and minus a penalty to any other.

    Args:
        penalty: inf makes a hard constraint of it.
        valid: whether a JSON value is valid; None where every one is.
        schema: where that was read, and `digest` of what; None without a schema.
        digest: first 16 hex digits of the schema's sha256.
    """

    def __init__(
        self,
        penalty: float,
        valid: Callable[[Any], bool] | None = None,
        schema: str | None = None,
        digest: str | None = None,
    ) -> None:
        self.penalty, self.valid, self.model, self.digest = penalty, valid, schema, digest
        self.goal = f"towards JSON that is valid against {schema}" if schema else "towards JSON"

    def score(self, samples: Sequence[str]) -> list[float]:
        """Return a value per sample.

        Raises:
            RewardError: the schema refers to something that is not there, and only now that shows.
        """
        return [0.0 if self._holds(text) else -self.penalty for text in samples]

    def _holds(self, text: str) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            value = parse(text)
            return self.valid is None or self.valid(value)
        except (ValueError, RecursionError, OverflowError):  # no JSON; or, as docs/rewards.md says, too deep or large for Python
            return False
        except Unresolvable as error:
            raise RewardError(f"schema {self.model} refers to {error.ref!r}, which is not in it (nothing is downloaded)") from error


def json_texts(context: RewardContext, *, schema: str | None = None, penalty: Penalty = math.inf) -> JsonTexts:
    """Make the reward `json`: 0 where the whole text, white space aside, is one JSON value, and valid; else minus a penalty.

    Args:
        context: not needed.
        schema: a file with a JSON Schema, of the draft that its `$schema` names or else 2020-12. Nothing is downloaded.
        penalty: by default infinite: any other text has weight zero.

    Raises:
        UsageError: the schema cannot be read, is no JSON or no schema, or refers to something that is not in it.
    """
    if schema is None:
        return JsonTexts(penalty)
    try:
        content = Path(schema).read_bytes()
        rules = parse(content)
    except (OSError, ValueError, RecursionError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"reward 'json' cannot read schema {schema!r} as JSON: {detail}") from error
    return JsonTexts(penalty, validator(rules, schema), schema, hashlib.sha256(content).hexdigest()[:16])


def parse(text: str | bytes) -> Any:
    """Read a JSON value as RFC 8259 has it, without Python's own NaN and Infinity.

    Raises:
        ValueError: the text is something else, or has a number of more digits than Python reads.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def validator(rules: Any, file: str) -> Callable[[Any], bool]:
    """Check a schema, and return the function that says whether a JSON value is valid against it.

    Args:
        rules: the schema.
        file: where it was read, for messages.

    Raises:
        UsageError: it is not a schema, or of no known draft, or refers to something that is not in it, or to itself without end.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    wrong = f"reward 'json' cannot use schema {file!r}: "
    draft = rules.get("$schema") if isinstance(rules, Mapping) else None
    kind = validator_for(rules, default=None) if isinstance(draft, str) else Draft202012Validator
    if kind is None:
        raise UsageError(f"{wrong}its $schema {draft!r} names no draft of JSON Schema; drafts 3 to 2020-12 are known")
    try:
        kind.check_schema(rules)
        root = DRAFT202012.detect(rules).create_resource(rules)  # 2020-12 is what it says of one without $schema
        _follow(root, REGISTRY.resolver_with_root(root))
        checked = kind(rules, registry=REGISTRY)  # which has the drafts themselves, and no way to download anything else
        checked.is_valid({})  # it may lead to itself by other ways than a chain of references
    except SchemaError as error:
        raise UsageError(f"{wrong}at {error.json_path}, {shortened(error.message)}") from error
    except Unresolvable as error:
        raise UsageError(f"{wrong}it refers to {error.ref!r}, which is not in it (nothing is downloaded)") from error
    except RecursionError as error:
        raise UsageError(f"{wrong}it is nested too deeply, or refers to itself without end") from error
    except (OverflowError, ValueError) as error:  # a pattern too large for Python, an address that is none
        raise UsageError(f"{wrong}{shortened(str(error))}") from error
    return lambda value: bool(checked.is_valid(value))


def _follow(schema: Resource[Any], resolver: Any) -> None:
    """Look up whatever a schema and its parts refer to.

    Raises:
        Unresolvable: it is not there; its `ref` is as the schema has it.
        RecursionError: a reference leads back to itself.
    """
    from referencing.exceptions import Unresolvable

    contents, here = schema.contents, resolver
    passed: list[Any] = []
    while isinstance(contents, Mapping) and isinstance(reference := contents.get("$ref", contents.get("$dynamicRef")), str):
        if any(contents is one for one in passed):
            raise RecursionError
        passed.append(contents)
        try:
            found = here.lookup(reference)
        except Unresolvable as error:
            raise Unresolvable(ref=reference) from error
        contents, here = found.contents, found.resolver
    for part in schema.subresources():
        _follow(part, resolver.in_subresource(part))
