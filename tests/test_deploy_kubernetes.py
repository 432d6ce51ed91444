"""The manifests in deploy/kubernetes: schemas, what the operator makes of them, pods, probes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from deploying import DEPLOY, SECRET, changed, documents, tool
from distributed import Client
from distributed.system import MEMORY_LIMIT

from gcdask._version import __version__
from gcdask.errors import InputError, LockError

FOLDER = DEPLOY / "kubernetes"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.29", "1.37")  # oldest and newest Kubernetes that the manifests are for


# -- schemas ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def custom():
    """JSON schemas of the operator's kinds, which refuse keys that are not theirs."""
    found = find_spec("dask_kubernetes")
    if found is None:
        pytest.skip("dask-kubernetes, which has the operator's schemas, is not installed")
    charts = Path(found.submodule_search_locations[0], "operator", "deployment", "helm")
    schemas = {}
    for path in charts.glob("*/crds/*.yaml"):
        for crd in documents(path):
            schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            schema["properties"].update(
                {"apiVersion": {"const": "kubernetes.dask.org/v1"}, "kind": {}, "metadata": {}}
            )
            schemas[crd["spec"]["names"]["kind"]] = _strict(schema)
    return schemas


def _strict(schema):
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        out.setdefault("additionalProperties", False)
    return out


def check(document, custom=None, version=VERSIONS[-1]):
    """Raise if a document is not of its schema."""
    if custom and document["kind"] in custom:
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(document, custom[document["kind"]])
    elif document["kind"] != "Kustomization":
        pytest.importorskip("kubernetes_validate").validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_of_their_schemas(path, version, custom):
    for document in documents(path):
        check(document, custom, version)


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("cronjob.yaml", "spec/concurrencyPolicy", 5),
        ("cronjob.yaml", "spec/jobTemplate/spec/backofLimit", 3),
        ("cronjob.yaml", "spec/schedule", None),
        ("daskcluster.yaml", "spec/worker/spec/containers/0/comand", ["dask"]),
        ("daskcluster.yaml", "spec/worker/replicas", "two"),
        ("daskcluster.yaml", "spec/scheduler/service", None),
        ("daskjob.yaml", "spec/job/spec/containers/0/name", None),
    ],
)
def test_schemas_refuse_a_broken_manifest(name, keys, value, custom):
    document = documents(FOLDER / name)[0]
    with pytest.raises(Exception, match=keys.split("/")[-1]):
        check(changed(document, keys, value), custom)


def made_by_the_operator(document):
    """What the operator's own code makes of a DaskCluster or DaskJob."""
    name = "dask_kubernetes.operator.controller.controller"
    operator = pytest.importorskip(name, reason="dask-kubernetes is not installed")
    meta, spec = document["metadata"], document["spec"]
    common = {"annotations": {}, "labels": meta["labels"]}
    made = []
    if document["kind"] == "DaskJob":
        made.append(
            operator.build_job_pod_spec(
                meta["name"], meta["name"], meta["namespace"], spec["job"]["spec"], **common
            )
        )
        spec = spec["cluster"]["spec"]
    scheduler, worker = spec["scheduler"], spec["worker"]
    names = (f"{meta['name']}-default", meta["namespace"], meta["name"])
    return [
        *made,
        operator.build_scheduler_deployment_spec(meta["name"], scheduler["spec"], **common),
        operator.build_scheduler_service_spec(meta["name"], scheduler["service"], **common),
        operator.build_worker_deployment_spec(*names, "0a1b", worker["spec"], **common),
    ]


@pytest.mark.parametrize("name", ["daskcluster.yaml", "daskjob.yaml"])
def test_what_the_operator_makes_of_our_clusters_is_valid_too(name):
    made = made_by_the_operator(documents(FOLDER / name)[0])
    service = next(d for d in made if d["kind"] == "Service")
    for document in made:
        for version in VERSIONS:
            check(document, version=version)
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "gcdask"
        if labels["dask.org/component"] == "scheduler":
            assert service["spec"]["selector"].items() <= labels.items()
    runner = next((d for d in made if d["kind"] == "Pod"), None)
    if runner is not None:  # $(NAME) in its arguments is a variable that it has
        container = runner["spec"]["containers"][0]
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert used == {"DASK_SCHEDULER_ADDRESS"}
        assert used <= {e["name"] for e in container["env"]}


def test_kustomize_puts_one_image_and_namespace_everywhere(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "kustomization.yaml"
    path.write_text(path.read_text().replace("newName: gcdask ", "newName: ours/gcdask "))
    done = tool("kubectl", "kustomize", tmp_path)
    assert done.returncode == 0, done.stderr
    rendered = [d for d in yaml.safe_load_all(done.stdout) if d]
    assert {d["kind"] for d in rendered} == {
        "Namespace", "ConfigMap", "NetworkPolicy", "DaskCluster", "DaskAutoscaler", "CronJob",
    }  # fmt: skip
    assert {d["metadata"].get("namespace", "gcdask") for d in rendered} == {"gcdask"}
    images = {c["image"] for d in rendered for pod in pods(d) for c in containers(pod)}
    assert images == {f"ours/gcdask:{__version__}"}


# -- pods -------------------------------------------------------------------------------------
def pods(value):
    """Every pod specification in a document."""
    if isinstance(value, list):
        return [pod for item in value for pod in pods(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if "containers" in value else []
    return own + [pod for item in value.values() for pod in pods(item)]


def containers(pod):
    return [*pod.get("initContainers", ()), *pod["containers"]]


def pod_faults(pod):
    """What is wrong with a pod by the restricted pod security standard and our own rules."""
    security = pod.get("securityContext", {})
    rules = {
        "is not root": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
        "has a seccomp profile": security.get("seccompProfile") == {"type": "RuntimeDefault"},
        "has no token": pod.get("automountServiceAccountToken") is False,
        "is apart from its host": not {"hostNetwork", "hostPID", "hostIPC"} & set(pod),
        "mounts no folder of its host": {k for v in pod.get("volumes", ()) for k in v}
        <= {"name", "emptyDir", "configMap", "secret", "persistentVolumeClaim"},
        "limits its scratch": all(
            v["emptyDir"].get("sizeLimit") for v in pod.get("volumes", ()) if "emptyDir" in v
        ),
        "mounts what it has": {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
        == {v["name"] for v in pod.get("volumes", ())},
    }
    for container in containers(pod):
        name, own = container["name"], container.get("securityContext", {})
        size = container.get("resources", {})
        environment = container.get("env", [])
        serves = "ports" in container
        rules |= {
            f"{name} gains no privileges": own.get("allowPrivilegeEscalation") is False,
            f"{name} has a read-only root": own.get("readOnlyRootFilesystem") is True,
            f"{name} drops all capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            f"{name} is not privileged": "privileged" not in own,
            f"{name} has requests and limits": {"cpu", "memory"}
            <= size.get("requests", {}).keys() & size.get("limits", {}).keys(),
            f"{name} is pinned": bool(re.search(r":\d+\.\d+\.\d+$", container["image"])),
            f"{name} holds no secret": not any(
                "value" in e and SECRET.search(e["name"]) for e in environment
            ),
            f"{name} is probed": not serves
            or {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container),
        }
    return [rule for rule, holds in rules.items() if not holds]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_are_restricted_and_sized(path):
    found = [pod for document in documents(path) for pod in pods(document)]
    assert [fault for pod in found for fault in pod_faults(pod)] == []
    assert len(found) == {"cronjob.yaml": 2, "daskcluster.yaml": 2, "daskjob.yaml": 3}.get(
        path.name, 0
    )


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("securityContext/runAsNonRoot", None),
        ("securityContext/runAsUser", 0),
        ("securityContext/seccompProfile", None),
        ("automountServiceAccountToken", None),
        ("hostNetwork", True),
        ("volumes/0", {"name": "config", "hostPath": {"path": "/"}}),
        ("volumes/2/emptyDir", {}),
        ("volumes/3", None),
        ("containers/0/securityContext/readOnlyRootFilesystem", False),
        ("containers/0/securityContext/capabilities", None),
        ("containers/0/securityContext/privileged", True),
        ("containers/0/resources/limits/memory", None),
        ("containers/0/image", "gcdask:latest"),
        ("containers/0/env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}]),
        ("containers/0/ports", [{"containerPort": 1}]),
        ("initContainers/0/securityContext/allowPrivilegeEscalation", None),
    ],
)
def test_a_worse_pod_is_refused(keys, value):
    pod = pods(documents(FOLDER / "cronjob.yaml")[0])[0]
    assert len(pod_faults(changed(pod, keys, value))) == 1


def test_only_the_namespace_and_the_operator_reach_the_cluster():
    (policy,) = documents(FOLDER / "networkpolicy.yaml")
    spec = policy["spec"]
    assert spec["podSelector"] == {}  # all pods of the namespace
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    ours, operator = spec["ingress"]
    assert ours == {"from": [{"podSelector": {}}]}
    assert "namespaceSelector" in operator["from"][0]
    assert [p["port"] for p in operator["ports"]] == [8786, 8787]
    assert all("ipBlock" not in peer for rule in spec["ingress"] for peer in rule["from"])
    (namespace,) = documents(FOLDER / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# -- the nightly run --------------------------------------------------------------------------
def action(job, code, *, disrupted=False):
    """What the Job controller does when the pod ends with a code: the first rule that matches."""
    for rule in job["podFailurePolicy"]["rules"]:
        if disrupted and any(
            c["type"] == "DisruptionTarget" for c in rule.get("onPodConditions", ())
        ):
            return rule["action"]
        if code in rule.get("onExitCodes", {}).get("values", ()):
            assert rule["onExitCodes"]["operator"] == "In"
            return rule["action"]
    return "Count"


def test_the_nightly_run_is_repeated_only_where_that_helps():
    nightly = documents(FOLDER / "cronjob.yaml")[0]["spec"]
    job = nightly["jobTemplate"]["spec"]
    for code in (InputError.exit_code, 3, LockError.exit_code):
        assert action(job, code) == "FailJob"
    for code in (1, 137, 143):
        assert action(job, code) == "Count"
    assert action(job, 143, disrupted=True) == "Ignore"
    names = {c["name"] for c in job["template"]["spec"]["containers"]}
    assert job["podFailurePolicy"]["rules"][1]["onExitCodes"]["containerName"] in names
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # the policy needs it
    assert nightly["concurrencyPolicy"] == "Forbid"
    assert job["podReplacementPolicy"] == "Failed"
    assert 0 < job["activeDeadlineSeconds"] < 24 * 3600


def test_configurations_secrets_and_services_are_where_they_are_looked_for():
    (settings,) = documents(FOLDER / "configmap.yaml")
    (cluster, autoscaler) = documents(FOLDER / "daskcluster.yaml")
    assert autoscaler["spec"]["cluster"] == cluster["metadata"]["name"]
    for name in ("cronjob.yaml", "daskjob.yaml"):
        pod = next(
            p for p in pods(documents(FOLDER / name)[0]) if p["containers"][0]["name"] == "run"
        )
        (run,) = pod["containers"]
        (source,) = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
        assert source == settings["metadata"]["name"]
        assert Path(run["args"][1]).name in settings["data"]
    (nightly, _) = documents(FOLDER / "cronjob.yaml")
    arguments = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--scheduler=tcp://{cluster['metadata']['name']}-scheduler:8786" in arguments
    used = set(
        re.findall(r"secretRef: \{name: ([\w-]+)", "".join(p.read_text() for p in MANIFESTS))
    )
    assert used == {"gcdask-store"}
    assert "secret generic gcdask-store" in (DEPLOY / "README.md").read_text()


# -- probes -----------------------------------------------------------------------------------
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(container, folder, ports, **environment):
    """Start what a container runs, on loopback, with ports and folder of ours."""
    words = [*container["command"], *container["args"], "--host=127.0.0.1"]
    for theirs, ours in ports.items():
        words = [re.sub(rf"(?<=[:=]){theirs}$", str(ours), word) for word in words]
    words = [word.replace("/scratch", str(folder)) for word in words]
    for name, value in environment.items():
        words = [word.replace(f"$({name})", value) for word in words]
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def answers(container, port, seconds=40):
    """Whether all probes of a container succeed in time; the port is that of its http-dashboard."""
    paths = {
        container[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        if container[kind]["httpGet"]["port"] == "http-dashboard"
    }
    assert paths
    deadline = time.monotonic() + seconds
    for path in paths:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
    return True


@pytest.mark.cluster
def test_scheduler_and_worker_start_as_written_and_answer_their_probes(tmp_path):
    spec = documents(FOLDER / "daskcluster.yaml")[0]["spec"]
    (scheduler,) = spec["scheduler"]["spec"]["containers"]
    (worker,) = spec["worker"]["spec"]["containers"]
    served = {p["name"]: p["containerPort"] for p in worker["ports"]}
    tcp, dashboard, other = free_port(), free_port(), free_port()
    started = []
    try:
        started.append(start(scheduler, tmp_path, {8786: tcp, 8787: dashboard}))
        assert answers(scheduler, dashboard)
        address = {"DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{tcp}", "DASK_WORKER_NAME": "first"}
        started.append(start(worker, tmp_path, {served["http-dashboard"]: other}, **address))
        assert answers(worker, other)
        broken = changed(worker, "livenessProbe/httpGet/path", "/helth")
        assert not answers(broken, other, seconds=1)
        with Client(address["DASK_SCHEDULER_ADDRESS"], timeout=10) as client:
            (info,) = client.scheduler_info(n_workers=-1)["workers"].values()
            assert info["name"] == "first"
            assert info["nthreads"] == 1
            assert info["memory_limit"] == pytest.approx(0.9 * MEMORY_LIMIT, rel=1e-3)
        services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        health = services["scheduler"]["healthcheck"]["test"][1:]
        assert health == services["worker"]["healthcheck"]["test"][1:]
        for port, code in ((dashboard, 0), (other, 0), (free_port(), 1)):
            words = [word.replace(":8787/", f":{port}/") for word in health]
            assert tool(*words).returncode == code
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
