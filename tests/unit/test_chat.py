"""Chat templates: what an instruct model is asked, and what of its sequence is the answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from fktext import Template
from fktext.errors import ModelError, UsageError
from fktext.models import load
from fktext.settings import Settings
from fktext.texts.generate import Population, generate

SPECIAL = ["<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]
TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The golden LLaDA with a tokenizer whose last five tokens are special."""
    place = tiny.golden("llada", tmp_path / "chat", tiny.numbered(63, SPECIAL, 58))
    write(place, chat_template=TEMPLATE)
    return place


def write(folder: Path, **changes: object) -> None:
    tokens = {"bos_token": "<|bos|>", "eos_token": {"content": "<|endoftext|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | changes))


def test_a_prompt_is_asked_as_the_template_says(folder: Path) -> None:
    model = load(str(folder), chat=True)
    assert model.chat is not None
    assert model.template("w5 w6", 10).tolist() == [58, 59, 5, 6, 61, 60, 63, 63, 63, 63]
    assert load(str(folder)).template("w5 w6", 4).tolist() == [5, 6, 63, 63]


def test_a_template_file_comes_first(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("<|user|> {{ messages[0]['content'] }} <|assistant|>")
    assert load(str(folder), chat=True).template("w5", 5).tolist() == [59, 5, 60, 63, 63]
    (folder / "chat_template.jinja").unlink()
    write(folder, chat_template=[{"name": "tool", "template": "no"}, {"name": "default", "template": "<|user|> w1"}])
    assert load(str(folder), chat=True).template("w5", 3).tolist() == [59, 1, 63]


def test_the_answer_ends_where_the_turn_does(folder: Path) -> None:
    model = load(str(folder), chat=True)
    start = model.template("w5 w6", 7).tolist()[:6]
    rows = [[7, 8, 61, 9, 9], [7, 62, 62, 62, 62], [7, 8, 9, 10, 11], [61, 7, 7, 7, 7], [7, 59, 8, 62, 61]]
    texts = model.decode(torch.tensor([start + row for row in rows]), "w5 w6")
    assert texts == ["w7 w8", "w7", "w7 w8 w9 w10 w11", "", "w7 w8"]
    assert {text.prompt for text in texts} == {""}
    assert [text.continuation for text in texts] == list(texts)


def test_the_answer_ends_at_either_end_of_a_model_that_has_two(tmp_path: Path) -> None:
    """SDAR ends a turn with <|im_end|>, and fills up with <|endoftext|>; behind either no block is written."""
    place = tiny.golden("sdar", tmp_path / "sdar")
    ids = load(str(place)).tokenizer.get_vocab()
    end, fill = ids["<|im_end|>"], ids["<|endoftext|>"]
    (place / "chat_template.jinja").write_text("w1 {{ messages[0]['content'] }} <|fim|>")
    model = load(str(place), chat=True)
    start = model.template("w5", 8).tolist()[:3]
    rows = torch.tensor([[*start, 7, end, 9, 9, 9], [*start, 7, fill, 9, 9, 9], [*start, 7, 8, 9, 9, fill]])
    assert model.decode(rows, "w5") == ["w7", "w7", "w7 w8 w9 w9"]
    turns = (
        "{% for m in messages %}{{ m['content'] }} <|fim|>{% endfor %}"  # a turn of its own, which no text of the model ends with
    )
    (place / "chat_template.jinja").write_text(turns)
    model = load(str(place), chat=True)
    run = model.resolve(Settings(length=8, steps=1, method="base"))
    strides = model.process(["w5"], [model.template("w5", 8)], run, 64)
    assert ids["<|fim|>"] in strides._endings.tolist()  # type: ignore[attr-defined]


def test_answers_are_generated(folder: Path) -> None:
    model = load(str(folder), chat=True)
    run = generate(model, [], ["w5", "w6 w7 w8"], Settings(method="base", samples=2, length=20, steps=5))
    found = [item for item in run if isinstance(item, Population)]
    assert [population.prompt for population in found] == ["w5", "w5", "w6 w7 w8", "w6 w7 w8"]
    assert len({population.texts[0] for population in found}) == 4


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"has no chat template: looked in .*chat for chat_template\.jinja, and for chat_template in tokenizer_config\.json"),
        ("{% if %}", "cannot be rendered: TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", "cannot be rendered: TemplateError: never"),
        # a template is a text by strangers: it is rendered in a sandbox
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered: SecurityError"),
    ],
)
def test_a_template_that_is_missing_or_wrong(folder: Path, template: str | None, message: str) -> None:
    write(folder, chat_template=template)
    with pytest.raises(ModelError, match=message) as caught:
        load(str(folder), chat=True)
    assert "\n" not in str(caught.value)
    assert load(str(folder)).family == "llada"


def test_gaps_are_no_question(folder: Path) -> None:
    with pytest.raises(UsageError, match="a chat takes a question"):
        load(str(folder), chat=True).template(Template("w1 {3} w2"), 20)


def test_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    call: Callable[..., object] = CliRunner(env={"TERM": "dumb"}).invoke
    common = ["generate", "w5 w6", "--model", str(folder), "--method", "base", "--length", "14", "--steps", "4", "-f", "jsonl"]
    plain, chat = (call(app, [*common, *options]) for options in ([], ["--chat"]))
    rows = [json.loads(result.stdout) for result in (plain, chat)]  # type: ignore[attr-defined]
    assert rows[0]["text"].startswith("w5 w6")
    assert not rows[1]["text"].startswith("w5 w6")
    assert rows[1]["prompt"] == "w5 w6"
    assert [row["model"].get("chat") for row in rows] == [None, True]
