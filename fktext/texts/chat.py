"""Prompts as a chat: what an instruct model expects around a question, taken from its folder.

The template is the Jinja text that comes with the tokenizer (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`),
rendered by transformers in a sandbox. No code of the model is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError, UsageError
from fktext.files.weights import read_json
from fktext.texts.model import Asked, Start, TextModel
from fktext.texts.templates import Template

if TYPE_CHECKING:
    from fktext.text import Text

Render = Callable[[list[dict[str, str]], bool], str]
_MARK = "\u241f"  # stands for an answer, to see what closes it


def chat_template(folder: Path, name: str) -> Render:
    """How the model of a folder writes a conversation: (messages, whether an answer is to begin) -> text.

    Args:
        folder: with the tokenizer's files.
        name: of the model, for errors.

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
            return str(holder.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=answer))
        except Exception as error:  # of Jinja, and whatever a template raises
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ModelError(f"the chat template of model {name!r} cannot be rendered: {line}") from error

    render([{"role": "user", "content": "x"}], True)  # fails now or never
    return render


def _content(token: Any) -> str | None:
    """A token as tokenizer_config.json writes it: a string, or an object that holds one."""
    return token.get("content") if isinstance(token, dict) else token


@dataclass(frozen=True, kw_only=True)
class ChatModel(TextModel):
    """A model whose prompts are questions, and whose texts are answers: the template is in neither.

    Attributes:
        chat: see `chat_template`.
    """

    chat: Render

    def start(self, prompt: Asked) -> Start:
        """The conversation; see `TextModel.start`.

        Raises:
            UsageError: beside the reasons there, a template with gaps, which is no question.
        """
        if isinstance(prompt, Template):
            raise UsageError("a chat takes a question: leave out --chat to fill the gaps of a template")
        return super().start(prompt)

    def _start(self, prompt: str) -> list[int]:
        """The whole conversation up to where the answer begins."""
        ids = super()._start(self.chat([{"role": "user", "content": prompt}], True))
        # A template may begin with the token that every sequence begins with.
        return ids[1:] if ids[:2] == [self.bos_id, self.bos_id] else ids

    def _texts(self, rows: list[list[int]], start: Start) -> list[Text]:
        from fktext.text import Text

        answers = []
        for row in rows:
            answer = row[len(start.ids) :]
            ends = [answer.index(token) for token in {self.end_id, self._closing} if token in answer]
            answers.append(answer[: min(ends, default=len(answer))])
        return [Text(text.strip(), prompt="") for text in self.tokenizer.decode_batch(answers)]

    @cached_property
    def _closing(self) -> int | None:
        """The special token that the template writes after an answer, such as `<|im_end|>`."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        rest = self.chat(messages, False).rpartition(_MARK)[2]
        ids = self.tokenizer.encode(rest.lstrip(), add_special_tokens=False).ids
        special = {index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        return ids[0] if ids and ids[0] in special else None
