"""What a person gets who installs the wheel and nothing else. Run by `tox -e smoke`, outside the checkout."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path

LIMITS = {"fktext": 1.5e6, "fktext-weights": 98e6}  # bytes of each wheel; the package index takes 100 MB


def run(*command: str, **environment: str) -> str:
    """Run, echo, and return stdout; a failure ends the script."""
    print("$", *command, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    print(done.stdout, done.stderr, sep="", flush=True)
    assert done.returncode == 0, f"exit code {done.returncode}"
    return done.stdout


def main() -> None:
    """Check the installed distributions."""
    site = Path(sysconfig.get_paths()["purelib"])
    for name, limit in LIMITS.items():
        files = [site / str(file) for file in importlib.metadata.distribution(name).files or []]
        shipped = [file for file in files if file.is_file() and file.suffix != ".pyc"]
        size = sum(len(zlib.compress(file.read_bytes())) for file in shipped)
        print(f"{name}: {len(shipped)} files, a wheel of about {size / 1e6:.1f} MB")
        assert size < limit
        data = [file for file in files if file.suffix in (".gz", ".jsonl", ".tsv", ".csv") and file.name != "training.jsonl"]
        assert not data, f"training data in the wheel: {data}"
    files = [site / str(file) for file in importlib.metadata.distribution("fktext").files or []]
    assert all(site in file.resolve().parents for file in files if file.suffix == ".py"), "not installed from a wheel"
    for package in ("fktext", "fktext_cli", "fktext_evals", "fktext_plugins"):
        assert site / package / "py.typed" in files, package

    fktext = shutil.which("fktext", path=str(Path(sys.executable).parent))
    assert fktext
    run(fktext, "--version")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path("empty-home").absolute())}
    text = run(fktext, "generate", "The movie", "--reward", "toxicity", "--particles", "16", **offline)
    assert text.lower().startswith("the movie")
    rows = run(
        fktext,
        "generate",
        "The lake",
        "-r",
        "toxicity:target=nontoxic",
        "--particles",
        "4",
        "--return",
        "all",
        "--format",
        "jsonl",
        **offline,
    )
    assert len([json.loads(line) for line in rows.splitlines()]) == 4
    assert "toxicity" in run(fktext, "rewards", **offline)
    assert "toxicity" in run(fktext, "eval", "ls", **offline)

    # a third party's distribution, beside the wheel: built, installed, found, and steered with
    example = Path(__file__).parents[1] / "plugins" / "examples" / "fktext-readability"
    run(sys.executable, "-m", "pip", "install", "-q", str(example))
    assert "readability" in run(fktext, "rewards", **offline)
    short = ("--particles", "4", "--length", "16", "--steps", "32")
    assert run(fktext, "generate", "The road", "-r", "readability", *short, **offline).startswith("the road")

    # a package of one's own, from nothing to steering, by the five commands of the guide
    page = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text()
    commands = "".join(re.findall(r"^```sh.*?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2])
    assert len(re.findall(r"^(?!#)", commands.strip(), re.MULTILINE)) == 5, commands
    shutil.rmtree("fktext-politeness", ignore_errors=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    output = run("bash", "-ec", commands, PATH=path, **offline)
    assert " passed" in output
    assert output.splitlines()[-1].startswith("the")


if __name__ == "__main__":
    main()
