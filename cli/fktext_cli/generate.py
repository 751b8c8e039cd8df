"""`fktext generate`: steered texts for prompts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fktext.errors import UsageError
from fktext.texts.prompts import Prompt, read_prompts
from fktext_cli import output, ranks, tracing
from fktext_cli.common import (
    asked,
    check_rewards,
    create_rewards,
    go_offline,
    parse_batch_size,
    provenance,
    resolve_device,
    steering,
)
from fktext_cli.options import (
    MOST_GUESSES,
    MOST_SAMPLES,
    MOST_STEPS,
    MOST_TOKENS,
    OUT,
    RUN,
    SAMPLE,
    STEER,
    EssThreshold,
    Lambda,
    MethodName,
    Particles,
    PotentialName,
    PseudoCount,
    ResampleEvery,
    ResamplerName,
    RewardSpecs,
    Threads,
    Verbose,
    use_threads,
)
from fktext_cli.progress import follow

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Weighted
    from fktext.runs import Population
    from fktext.settings import TextRun
    from fktext.texts.model import TextModel


app = typer.Typer(add_completion=False)


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Texts to continue; none for texts from scratch.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="An embedded model, a folder, an alias or a hub id.", rich_help_panel=SAMPLE)
    ] = "tiny-mdlm",
    prompts: Annotated[
        Path | None, typer.Option(help="A file of prompts: .txt, .jsonl or .csv.", show_default=False, rich_help_panel=SAMPLE)
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='A text to fill, {n} for n tokens: "The {5} sat on the {3}."; repeatable.',
            show_default=False,
            rich_help_panel=SAMPLE,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="Populations per prompt.", rich_help_panel=SAMPLE)] = 1,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TOKENS,
            help="Tokens per text, prompt included.",
            show_default="the model's",
            rich_help_panel=SAMPLE,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TOKENS,
            help="How far the window moves in texts longer than the model.",
            show_default="half the model's length",
            rich_help_panel=SAMPLE,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STEPS, help="Reverse diffusion steps.", show_default="the model's", rich_help_panel=SAMPLE),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the model's p(x0).", show_default="the model's", rich_help_panel=SAMPLE)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Nucleus of the model's p(x0).", show_default="the model's", rich_help_panel=SAMPLE)
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(help="Reverse process, such as ancestral or remdm-cap.", show_default="the model's", rich_help_panel=SAMPLE),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put prompts into the model's chat template; texts are answers.", rich_help_panel=SAMPLE)
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed, the same texts.", rich_help_panel=SAMPLE)] = 0,
    reward: RewardSpecs = None,
    particles: Particles = 16,
    method: MethodName = "fk",
    lam: Lambda = 10.0,
    potential: PotentialName = "difference",
    resample_every: ResampleEvery = None,
    ess_threshold: EssThreshold = 0.5,
    resampler: ResamplerName = "systematic",
    x0_samples: Annotated[
        int, typer.Option(min=1, max=MOST_GUESSES, help="Finished texts guessed per weighing.", rich_help_panel=STEER)
    ] = 4,
    x0_average: Annotated[
        Literal["tilt", "reward"],
        typer.Option(help="Of these guesses, average exp(lambda reward), or exp(reward).", rich_help_panel=STEER),
    ] = "tilt",
    pseudo_count: PseudoCount = 0.1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...", rich_help_panel=RUN)] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the model's network.", rich_help_panel=RUN)
    ] = "float32",
    device_map: Annotated[
        Literal["auto"] | None,
        typer.Option(
            help="Spread LLaDA or Dream over all GPUs and memory, by accelerate.", show_default=False, rich_help_panel=RUN
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Let torch compile the network: minutes first, faster then.", rich_help_panel=RUN),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="auto|N",
            parser=parse_batch_size,
            help="Particles computed at once; changes no result. auto: 64 on a CPU, else 1024, halved until memory holds them.",
            show_default="auto",
            rich_help_panel=RUN,
        ),
    ] = None,
    threads: Threads = None,
    spread: Annotated[
        bool,
        typer.Option("--spread", help="Under torchrun: share each population's particles between GPUs.", rich_help_panel=RUN),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Touch no network.", rich_help_panel=RUN)
    ] = False,
    verbose: Verbose = False,
    which: Annotated[
        output.Return,
        typer.Option("--return", help="Of each population: the best, one drawn by weight, or all.", rich_help_panel=OUT),
    ] = "best",
    path: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here.", show_default="stdout", rich_help_panel=OUT)
    ] = None,
    form: Annotated[
        output.Format | None,
        typer.Option("--format", "-f", show_default="jsonl if --output ends so, else text", rich_help_panel=OUT),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --output file.", rich_help_panel=OUT)] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the --output file of an interrupted run.", rich_help_panel=OUT)
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write which particles descend from which: .html to look at, .json as data.",
            show_default=False,
            rich_help_panel=OUT,
        ),
    ] = None,
) -> None:
    """Generate texts that score high.

    Draws from the tilted law p(text) exp(lambda reward(text)) with a population of particles per text.

    Example: fktext generate --reward toxicity:target=nontoxic "The book"
    """
    stdout, leads = sys.stdout, ranks.leads(spread)
    form = form or ("jsonl" if path is not None and path.suffix == ".jsonl" else "text")
    _check_files(path, trace, form, overwrite=overwrite, resume=resume)
    check_rewards(reward, method)
    texts = _prompts(prompt or [], prompts, template or [])
    if all(text.is_template for text in texts) and (length or stride):
        raise UsageError(f"--{'length' if length else 'stride'} has no use here: a template says itself how long its text is")
    if device_map and (compiled or spread):
        raise UsageError(f"--device-map does not go with --{'compile' if compiled else 'spread'}")
    go_offline(offline)
    use_threads(threads, verbose)
    with (
        ranks.together(spread, resolve_device(device)) as device,
        contextlib.redirect_stdout(sys.stderr),
    ):  # what models, rewards and plugins may print is no result
        from fktext.models import load
        from fktext.texts.generate import generate as texts_of

        wanted = asked(locals())
        terms = create_rewards(reward or [], device, offline, batch_size)
        text_model = load(model, device=device, dtype=dtype, offline=offline, device_map=device_map, chat=chat)
        text_model = text_model.compiled() if compiled else text_model
        settings = text_model.resolve(wanted)
        _check_prompts(text_model, texts, settings)
        _announce(text_model, terms, settings)
        named = {"name": text_model.name, "digest": text_model.digest, **({"chat": True} if chat else {})}
        run = provenance(named, terms, settings, {"dtype": dtype, "return": which, "rewards": reward or []})
        skip: set[tuple[int, int]] = set()
        keep = None
        if leads and resume and path is not None and path.exists():
            size = settings.particles if which == "all" else 1
            skip, keep = output.resume_point(path, run, [prompt.request for prompt in texts], size)
            print(f"resuming: {len(skip)} populations are in {path}", file=sys.stderr)
        skip = ranks.agree(spread, skip)
        path, trace = (path, trace) if leads else (None, None)
        with tracing.Trace(trace, run, which) as kept, output.Sink(path, stdout, overwrite=overwrite, keep=keep) as sink:

            def write(found: Population) -> Population:
                if leads:
                    sink.write(_render(found, form, which, run))
                    kept.add(found)
                if found.dead:
                    print(f"dead: {found.obituary()}", file=sys.stderr)
                return found

            requests = [prompt.request for prompt in texts]
            options: dict[str, Any] = {"batch_size": batch_size, "skip": skip, "guesses": trace is not None, "spread": spread}
            populations = texts_of(text_model, terms, requests, settings, **options)
            tally = follow(populations, write, len(requests) * settings.samples - len(skip), "written")
            size = settings.particles
            print(f"{tally.size(size)}: {tally.cost(size, decimals=1)}", file=sys.stderr)
            if tally.dead:
                raise output.the_dead(tally.dead, tally.done)


def _check_files(path: Path | None, trace: Path | None, form: output.Format, *, overwrite: bool, resume: bool) -> None:
    """Refuse what cannot or should not be written, before anything is computed."""
    if resume and (path is None or form != "jsonl" or overwrite):
        raise UsageError("--resume needs --output FILE and --format jsonl, and no --overwrite")
    if path is not None:
        output.check_output(path, overwrite=overwrite, resume=resume)
    if trace is not None:
        tracing.check(trace, overwrite=overwrite, resume=resume)


def _announce(model: TextModel, terms: Sequence[Weighted], settings: TextRun) -> None:
    """Say on stderr what is steered by, and whether texts are written in windows."""
    for line in steering(terms, settings):
        print(line, file=sys.stderr)
    if settings.stride:
        most, each = model.denoiser.max_length, f"each {settings.stride} tokens on, {settings.steps} steps each"
        print(f"length {settings.length} is beyond the model's {most} tokens: written in windows, {each}", file=sys.stderr)


def _prompts(arguments: list[str], path: Path | None, templates: list[str]) -> list[Prompt]:
    if (arguments or templates) and path is not None:
        raise UsageError(f"give {'prompts as arguments' if arguments else '--template'} or --prompts, not both")
    if arguments and templates:
        raise UsageError("give prompts or --template, not both; a .jsonl file of --prompts may hold both")
    if path is not None:
        return read_prompts(path, templates=True)
    found = [Prompt(text, is_template=True) for text in templates] or [Prompt(text) for text in arguments or [""]]
    for prompt in found:
        _ = prompt.request  # a malformed template is an error before a model is loaded
    return found


def _check_prompts(model: TextModel, prompts: Sequence[Prompt], settings: TextRun) -> None:
    """Every prompt against the model, so that the error can name its line."""
    for prompt in prompts:
        try:
            prompt.text.encode()
            model.template(prompt.request, settings.length)
        except UnicodeEncodeError as error:
            raise UsageError(f"{prompt.where or 'prompt'}: {prompt.text!r} is not valid Unicode") from error
        except UsageError as error:
            raise UsageError(f"{prompt.where}: {error}" if prompt.where else str(error)) from error


def _render(population: Population, form: output.Format, which: output.Return, run: dict[str, Any]) -> str:
    if form == "jsonl":
        return output.as_jsonl(output.rows(population, which, run))
    return output.as_text([population.texts[index] for index in output.chosen(population, which)])
