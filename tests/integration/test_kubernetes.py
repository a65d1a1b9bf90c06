"""The manifests in examples/kubernetes: valid for every release that has what they use, and right together."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from examples.kubernetes import app as application
from fastapi.testclient import TestClient
from ruamel.yaml import YAML

from fastapi_websocket_stabilizer import WebSocketConfig

PROJECT = Path(__file__).parents[2]
MANIFESTS = PROJECT / "examples" / "kubernetes"
FIRST_MINOR = 30
"""The first release with the sleep action of preStop switched on."""
MARGIN_S = 5.0
"""For a slow machine, between the last step of a stop and SIGKILL."""

Resource = dict[str, Any]


def load() -> list[Resource]:
    found = []
    for file in sorted(MANIFESTS.glob("*.yaml")):
        found += list(YAML(typ="safe").load_all(file))
    return found


RESOURCES = load()


def one(kind: str) -> Resource:
    (found,) = [resource for resource in RESOURCES if resource["kind"] == kind]
    return found


def releases() -> list[str]:
    return [v for v in kubernetes_validate.utils.all_versions() if int(v.split(".")[1]) >= FIRST_MINOR]


def pod() -> Resource:
    return dict(one("Deployment")["spec"]["template"]["spec"])


def container() -> Resource:
    (found,) = pod()["containers"]
    return dict(found)


def environment() -> dict[str, str]:
    return {**one("ConfigMap")["data"], **one("Secret")["stringData"]}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource["kind"])
def test_manifest_follows_the_schema_of_every_release(resource: Resource) -> None:
    assert len(releases()) > 3
    for release in releases():
        kubernetes_validate.validate(resource, release, strict=True)


def test_schema_check_finds_a_wrong_key() -> None:
    wrong = one("PodDisruptionBudget") | {"spec": {"maxUnavailible": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailible"):
        kubernetes_validate.validate(wrong, releases()[-1], strict=True)


def test_everything_is_about_the_same_pods() -> None:
    deployment = one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"]
    assert labels == one("Service")["spec"]["selector"]
    assert labels == one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    target = one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    sources = [next(iter(source.values()))["name"] for source in container()["envFrom"]]
    assert sources == [one("ConfigMap")["metadata"]["name"], one("Secret")["metadata"]["name"]]


def test_every_variable_is_a_setting_or_an_option_of_uvicorn() -> None:
    named = {variable["name"] for variable in container()["env"]}
    settings = {f"WS_{name.upper()}" for name in WebSocketConfig.__dataclass_fields__}
    unknown = {name for name in named | set(environment()) if name not in settings}
    assert unknown == {"UVICORN_APP", "UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"}
    config = WebSocketConfig.from_env(environment())
    assert config.redis_url is not None


def test_pod_is_stopped_before_it_is_killed() -> None:
    config = WebSocketConfig.from_env(environment())
    steps_s = {
        "preStop": container()["lifecycle"]["preStop"]["sleep"]["seconds"],
        "drain": config.drain_over_s,
        "uvicorn": int(environment()["UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"]),
        "leaving the registry": config.redis_timeout_s,
    }
    assert sum(steps_s.values()) + MARGIN_S < pod()["terminationGracePeriodSeconds"], steps_s


def test_probes_and_the_metric_are_what_the_application_serves() -> None:
    paths = {
        name: container()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    metric = one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    client = TestClient(application.app)
    assert [client.get(path).status_code for path in paths.values()] == [200, 200, 200]
    assert f"\n{metric} 0\n" in client.get("/metrics").text


def test_autoscaler_asks_for_less_than_a_pod_takes() -> None:
    target = one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    assert int(target) < int(environment()["WS_MAX_CONNECTIONS"])
