"""The oldest releases that pyproject.toml allows, as ``python -m tests.floors`` installs them."""

import pytest

from fastapi_websocket_stabilizer.uvicorn.protocol import OLDEST
from tests.floors import CLIENT, PROJECT, floors, project_of

EXTRAS = {"cli": ["typer>=0.16"], "dev": ["pytest>=8.3"], "benchmarks": ["channels_redis>=4.3"]}


def test_floors_are_the_lower_bounds_of_what_users_install() -> None:
    project = {"dependencies": ["redis>=6.0", "msgpack>=1.2.0"], "optional-dependencies": EXTRAS}
    assert floors(project) == ["msgpack==1.2.0", "redis==6.0", "typer==0.16"]


def test_extra_that_names_other_extras_adds_nothing() -> None:
    extras = {"demo": ["fastapi-websocket-stabilizer[cli]"], **EXTRAS}
    assert floors({"dependencies": [], "optional-dependencies": extras}) == ["typer==0.16"]


@pytest.mark.parametrize("requirement", ["redis", "redis<9", "redis>=6,<9"])
def test_requirement_without_a_plain_lower_bound_is_named(requirement: str) -> None:
    with pytest.raises(ValueError, match="has no lower bound"):
        floors({"dependencies": [requirement], "optional-dependencies": {}})


def test_protocol_class_requires_the_floors_of_pyproject() -> None:
    project = project_of(PROJECT)
    assert {f"{package}=={release}" for package, release in OLDEST.items()} <= set(floors(project))


def test_client_for_python_needs_websockets_only() -> None:
    assert [floor.partition("==")[0] for floor in floors(project_of(CLIENT))] == ["websockets"]
