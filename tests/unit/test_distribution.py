"""The rules for the files of a release; ``.ci/release`` applies them to real ones."""

import pytest

from tests.distribution import (
    CLIENT,
    FOR_PACKAGERS,
    PROJECT,
    TOP_LEVEL,
    package_files,
    problems_of_release,
    problems_of_sdist,
    problems_of_wheel,
)

PACKAGE = {"fastapi_websocket_stabilizer/__init__.py", "fastapi_websocket_stabilizer/py.typed"}
INFO = "fastapi_websocket_stabilizer-2.0.0.dist-info"
METADATA = [f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")]
WHEEL = [*PACKAGE, *METADATA]
SDIST = [f"fastapi_websocket_stabilizer-2.0.0/{name}" for name in (*FOR_PACKAGERS, "PKG-INFO", "README.md")]
CHANGELOG = "# Changelog\n\n## 2.0.0\n\n### Added\n\n## 1.1.0\n"


def test_package_of_this_tree_has_its_marker_its_scripts_and_no_cache() -> None:
    files = package_files()
    assert files >= PACKAGE
    assert any(name.endswith(".lua") for name in files)
    assert not [name for name in files if name.endswith(".pyc")]


def test_wheel_of_the_client_has_another_package() -> None:
    files = package_files(CLIENT)
    names = [*files, *(name.replace("stabilizer-", "stabilizer_client-") for name in METADATA)]
    assert problems_of_wheel(names, files, CLIENT) == []
    assert not files & package_files()
    assert f"{CLIENT}/py.typed" in files


def test_wheel_with_the_package_and_its_metadata_has_no_problem() -> None:
    assert problems_of_wheel(WHEEL, PACKAGE) == []


@pytest.mark.parametrize(
    "stranger", ["tests/unit/test_names.py", "benchmarks/report.py", f"{INFO}/secrets.txt", "top.py"]
)
def test_wheel_with_anything_else_names_it(stranger: str) -> None:
    assert problems_of_wheel([*WHEEL, stranger], PACKAGE) == [
        f"{stranger} is in the wheel and not in the package"
    ]


def test_wheel_without_the_marker_of_types_names_it() -> None:
    found = problems_of_wheel([name for name in WHEEL if "py.typed" not in name], PACKAGE)
    assert found == ["fastapi_websocket_stabilizer/py.typed is in the package and not in the wheel"]


def test_source_distribution_for_packagers_has_no_problem() -> None:
    assert problems_of_sdist(SDIST) == []


def test_source_distribution_names_what_does_not_belong_and_what_is_missing() -> None:
    names = [name for name in SDIST if "tests/unit" not in name]
    assert problems_of_sdist([*names, "fastapi_websocket_stabilizer-2.0.0/notes.txt"]) == [
        "notes.txt is not meant for the source distribution",
        "tests/unit is missing in the source distribution",
    ]


def test_what_packagers_need_is_at_allowed_places_of_this_tree() -> None:
    assert [name for name in FOR_PACKAGERS if not (PROJECT / name).exists()] == []
    assert {name.partition("/")[0] for name in FOR_PACKAGERS} <= TOP_LEVEL


def test_release_whose_tag_version_and_changelog_agree_has_no_problem() -> None:
    assert problems_of_release("v2.0.0", "2.0.0", CHANGELOG, "pip install it") == []


@pytest.mark.parametrize(
    ("tag", "changelog", "readme", "problem"),
    [
        ("v2.0.1", CHANGELOG, "", "the tag must be v2.0.0, as the version in pyproject.toml, got v2.0.1"),
        ("2.0.0", CHANGELOG, "", "the tag must be v2.0.0, as the version in pyproject.toml, got 2.0.0"),
        (
            "v2.0.0",
            CHANGELOG.replace("## 2.0.0", "## 2.0.0 (unreleased)"),
            "",
            "the first section of CHANGELOG.md must be 2.0.0, got 2.0.0 (unreleased)",
        ),
        ("v2.0.0", "", "", "the first section of CHANGELOG.md must be 2.0.0, got nothing"),
        (
            "v2.0.0",
            CHANGELOG,
            "As long as 2.0.0 is not on PyPI, …",
            "README.md says that the release is not published",
        ),
    ],
)
def test_release_that_is_not_ready_names_the_reason(
    tag: str, changelog: str, readme: str, problem: str
) -> None:
    assert problems_of_release(tag, "2.0.0", changelog, readme) == [problem]
