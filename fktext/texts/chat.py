"""Ask prompts as a chat: what an instruct model expects around a question, taken from its folder.

The template is the Jinja text that comes with the tokenizer (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`),
rendered by transformers in a sandbox. No code of the model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError, one_line
from fktext.files.weights import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Render = Callable[[list[dict[str, str]], bool], str]
_MARK = "\u241f"  # stands for an answer, to see what closes it


def chat_template(folder: Path, name: str, told: Mapping[str, Any] | None = None) -> Render:
    """Read how the model of a folder writes a conversation: (messages, whether an answer is to begin) -> text.

    Args:
        folder: with the tokenizer's files.
        name: of the model, for errors.
        told: what the template gets beside the conversation.

    Raises:
        ModelError: there is no template, or it cannot be rendered.
    """
    config = read_json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    template: Any = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}.get("default")
    if not isinstance(template, str):
        raise ModelError(
            f"model {name!r} has no chat template: looked in {folder} for chat_template.jinja, and for chat_template in "
            "tokenizer_config.json. Leave out --chat"
        )
    tokens = {key: _content(config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}

    def render(messages: list[dict[str, str]], answer: bool) -> str:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        # transformers' renderer, and nothing else of its tokenizer.
        holder = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({})), **{key: token for key, token in tokens.items() if token}
        )
        try:
            asked = {"chat_template": template, "tokenize": False, "add_generation_prompt": answer}
            return str(holder.apply_chat_template(messages, **asked, **(told or {})))
        except Exception as error:  # of Jinja, and whatever a template raises
            line = f"{type(error).__name__}: {one_line(error, 200)}"
            raise ModelError(f"the chat template of model {name!r} cannot be rendered: {line}") from error

    render([{"role": "user", "content": "x"}], True)  # fails now or never
    return render


def _content(token: Any) -> str | None:
    """Read a token as tokenizer_config.json writes it: a string, or an object that holds one."""
    return token.get("content") if isinstance(token, dict) else token


@dataclass(frozen=True)
class Chat:
    """A chat template around prompts, so that texts are answers; the template is in neither.

    Attributes:
        render: see `chat_template`.
        closing_id: the special token that the template writes after an answer, such as `<|im_end|>`, or None.
    """

    render: Render
    closing_id: int | None

    @classmethod
    def read(cls, folder: Path, name: str, tokenizer: Tokenizer, told: Mapping[str, Any] | None = None) -> Chat:
        """Take the template from a model's folder; see `chat_template`."""
        render = chat_template(folder, name, told)
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        _, mark, rest = render(messages, False).rpartition(_MARK)
        ids = tokenizer.encode(rest.lstrip(), add_special_tokens=False).ids if mark else []  # a template may show no answers
        special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        return cls(render, ids[0] if ids and ids[0] in special else None)

    def ask(self, prompt: str) -> str:
        """Write the conversation up to where the answer begins."""
        return self.render([{"role": "user", "content": prompt}], True)
