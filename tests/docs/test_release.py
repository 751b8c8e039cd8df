"""What CI, commits and releases are told agrees with what is there."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import fktext

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def environments():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    return {"py"} | {name.removeprefix("testenv:") for name in tox.sections() if name.startswith("testenv:")}


def values(matrix, key):
    """What a key of a job's matrix may be."""
    return list(matrix.get(key, [])) + [case[key] for case in matrix.get("include", []) if key in case]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_runs_environments_of_tox_that_there_are(file):
    workflow = yaml.safe_load(file.read_text())
    assert {"name", True, "jobs"} <= set(workflow)  # YAML reads the key `on` as true
    ran = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            for name in re.findall(r"tox -e (.+)", step.get("run", "")):
                ran += values(matrix, "env") if "matrix.env" in name else [name]
    assert ran
    assert not set(ran) - environments()


def test_ci_covers_the_versions_of_python_that_are_claimed():
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    claimed = [name.rsplit(" ", 1)[1] for name in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", name)]
    assert matrix["python"] == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"


def test_hooks_before_a_commit_have_the_tested_versions():
    tested = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {version for hook in hooks for version in hook.get("additional_dependencies", [])} <= tested


def test_the_version_is_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "fktext/__init__.py"
    assert re.search(rf"^## \[(Unreleased|{fktext.__version__})\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_changelog_keeps_to_its_sections():
    headings = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_oldest_versions_are_the_bounds():
    bounds = {requirement.split("  ")[0].replace(">=", "==") for requirement in PROJECT["project"]["dependencies"]}
    pinned = [line for line in (ROOT / "constraints-oldest.txt").read_text().splitlines() if "==" in line]
    assert pinned
    assert {line.removesuffix(".0") for line in pinned} <= bounds
