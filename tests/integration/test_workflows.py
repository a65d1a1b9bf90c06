"""The workflows are valid, run the project's own scripts, and have no permission that they do not need."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CHECK = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]

each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


def jobs_of(name: str) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())["jobs"]
    return jobs


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


@each_workflow
def test_workflow_is_one_by_the_schema_of_github(file: Path) -> None:
    run = subprocess.run([*CHECK, str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@each_workflow
def test_every_action_is_pinned_to_a_commit(file: Path) -> None:
    used = re.findall(r"uses: (\S+)", file.read_text())
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}|\./\.github/workflows/\w+\.yml")
    assert [action for action in used if not pinned.fullmatch(action)] == []


@each_workflow
def test_no_secret_is_stored(file: Path) -> None:
    assert "secrets." not in file.read_text()


def test_steps_are_those_of_the_scripts_that_run_locally_too() -> None:
    assert ".ci/run" in commands(jobs_of("ci")["tests"])
    assert '.ci/release "$GITHUB_REF_NAME"' in commands(jobs_of("release")["build"])


def test_publication_waits_for_tests_and_build_and_alone_may_publish() -> None:
    jobs = jobs_of("release")
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("tests", "build")
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]


def test_hooks_before_a_commit_are_checks_of_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    checks = (ROOT / ".ci/run").read_text()
    assert entries
    assert [entry for entry in entries if entry not in checks] == []
