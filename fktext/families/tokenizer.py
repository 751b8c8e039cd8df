"""A model's tokenizer, from whatever its folder has of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fktext.errors import ModelError, one_line
from fktext.files import hub

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fktext.families.family import Family


def tokenizer_file(folder: Path, family: Family, offline: bool) -> Path | None:
    """Find the model's tokenizer.json, fetched if need be and allowed; None where the folder has a tokenizer in older files."""
    if (own := folder / "tokenizer.json").is_file():
        return own
    if not family.tokenizers:
        return None
    repo = family.tokenizers[-1]
    file = next((found for repo in family.tokenizers if (found := hub.cached(repo, "tokenizer.json"))), None)
    if file is None and (offline or hub.is_offline()):
        raise ModelError(
            f"{folder} has no tokenizer.json, that of {repo} is not in the local hub cache, and fktext is told to stay offline: "
            f"put {repo}'s tokenizer.json into the folder"
        )
    return file or hub.download(repo, ("tokenizer.json",)) / "tokenizer.json"


def load_tokenizer(folder: Path, family: Family, offline: bool) -> Tokenizer:
    """Load the model's tokenizer, without padding or truncation."""
    from tokenizers import Tokenizer

    file = tokenizer_file(folder, family, offline)
    try:
        if file is not None:
            tokenizer = Tokenizer.from_file(str(file))
        else:
            import transformers

            from fktext.files.pretrained import quiet

            kind = getattr(transformers, family.tokenizer_class)
            with quiet():
                tokenizer = kind.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exception, transformers many kinds
        raise ModelError(f"the tokenizer of {folder} cannot be loaded: {type(error).__name__}: {one_line(error, 200)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
