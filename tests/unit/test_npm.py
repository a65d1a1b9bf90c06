"""What the check of the JavaScript client lacks is told, and fails in CI."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import npm

each_environment = pytest.mark.parametrize(("ci", "code"), [(None, 0), ("true", 1), ("false", 0)])


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the programs on PATH."""
    found: set[str] = set()
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in found else None)
    return found


def in_environment(monkeypatch: pytest.MonkeyPatch, ci: str | None) -> None:
    if ci is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", ci)


@each_environment
def test_missing_npm_fails_in_ci_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    programs: set[str],
    ci: str | None,
    code: int,
) -> None:
    in_environment(monkeypatch, ci)
    assert programs == set()
    assert npm.main() == code
    assert capsys.readouterr().out == "not run: npm is not on PATH (apt-get install npm)\n"


@each_environment
def test_missing_browser_fails_in_ci_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    programs: set[str],
    ci: str | None,
    code: int,
) -> None:
    in_environment(monkeypatch, ci)
    programs.add("npm")
    monkeypatch.setattr(npm, "check_package", lambda *_: Path("client.tgz"))
    monkeypatch.setattr(npm, "check_vite_project", lambda *_: None)
    assert npm.main() == code
    assert "not run: the page, since no Chromium is on PATH" in capsys.readouterr().out


@each_environment
def test_registry_that_does_not_answer_fails_in_ci_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    programs: set[str],
    ci: str | None,
    code: int,
) -> None:
    in_environment(monkeypatch, ci)
    programs.add("npm")

    def check_package(*_: Any) -> Path:
        raise npm.FailedError("registry: npm view ended with 1\nnpm error code EAI_AGAIN")

    monkeypatch.setattr(npm, "check_package", check_package)
    assert npm.main() == code
    assert "not run: the registry of npm does not answer (EAI_AGAIN)" in capsys.readouterr().out


def test_step_that_fails_fails_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], programs: set[str]
) -> None:
    in_environment(monkeypatch, None)
    programs.add("npm")

    def check_package(*_: Any) -> Path:
        raise npm.FailedError("test: npm run test ended with 1\nECONNREFUSED in a test")

    monkeypatch.setattr(npm, "check_package", check_package)
    assert npm.main() == 1
    assert "ECONNREFUSED in a test" in capsys.readouterr().out


def test_tarball_without_the_licence_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "client.tgz"
    for left_out in (None, "package/LICENSE"):
        with tarfile.open(tarball, "w:gz") as archive:
            for name in npm.IN_TARBALL - {left_out}:
                archive.addfile(tarfile.TarInfo(name))
        if left_out is None:
            npm.check_tarball(tarball)
    with pytest.raises(npm.FailedError, match=r"client\.tgz has no package/LICENSE"):
        npm.check_tarball(tarball)
