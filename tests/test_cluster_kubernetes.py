"""What the Dask operator is asked for: bounded, unprivileged pods, secrets by reference."""

import os
import subprocess
import sys
import time

import pytest
from operator_on_loopback import DASK, Operator, kubeconfig

from gcdask import cluster
from gcdask.cluster.kubernetes import cluster_spec
from gcdask.errors import InputError
from gcdask.sections import Cluster

pytest.importorskip("dask_kubernetes")


def section(**changes):
    pods = {"image": "example.org/gcdask:1", "namespace": "astro", "env": {"TZ": "UTC"},
            "env_from_secret": ["s3-keys"], "service_account": "runner"}  # fmt: skip
    return Cluster(**{"workers": 3, "threads": 2, "memory": "4GiB", "kubernetes": pods, **changes})


@pytest.mark.parametrize(("role", "cores"), [("worker", "2"), ("scheduler", "1")])
def test_pods_are_bounded_and_have_no_rights(role, cores):
    pod = cluster_spec(section())["spec"][role]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["serviceAccountName"] == "runner"
    (container,) = pod["containers"]
    assert container["image"] == "example.org/gcdask:1"
    size = {"cpu": cores, "memory": str(4 * 2**30)}
    assert container["resources"] == {"requests": size, "limits": size}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    environment = {e["name"]: e["value"] for e in container["env"]}
    assert environment["TZ"] == "UTC"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert container["command"] == ["dask"]
    assert container["args"][0] == role


def test_workers_know_their_size_and_their_secrets_by_name_alone():
    spec = cluster_spec(section(resources={"BIG": 1}))
    worker = spec["spec"]["worker"]
    assert worker["replicas"] == 3
    (container,) = worker["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    options = dict(zip(container["args"][1::2], container["args"][2::2], strict=False))
    assert options["--nthreads"] == "2"
    assert options["--memory-limit"] == str(4 * 2**30)
    assert options["--resources"] == "BIG=2"
    (scheduler,) = spec["spec"]["scheduler"]["spec"]["containers"]
    assert "envFrom" not in scheduler


def test_dask_understands_the_commands_of_the_pods():
    for role in ("worker", "scheduler"):
        (container,) = cluster_spec(section())["spec"][role]["spec"]["containers"]
        done = subprocess.run(
            [sys.executable, "-m", "dask", *container["args"], "--help"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_every_run_has_a_cluster_of_its_own():
    names = {cluster_spec(section())["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("gcdask-") for name in names)
    given = section(kubernetes={"image": "a", "name": "nightly"})
    assert cluster_spec(given)["metadata"]["name"] == "nightly"


def test_with_adaptive_scaling_it_starts_with_the_minimum():
    assert (
        cluster_spec(section(adaptive={"minimum": 1, "maximum": 9}))["spec"]["worker"]["replicas"]
        == 1
    )


# -- the API server ---------------------------------------------------------------------------
@pytest.fixture
def use(monkeypatch):
    """Make a server of this test the one of the kubeconfig."""

    def this(server):
        monkeypatch.setenv("KUBECONFIG", str(server.folder / "kubeconfig"))
        return server

    return this


def refused(settings=None):
    start = time.monotonic()
    with pytest.raises(InputError) as caught, cluster.client(settings or section()):
        pass
    assert time.monotonic() - start < 15
    assert "\n" not in str(caught.value)
    assert "check the kubeconfig" in str(caught.value)
    return str(caught.value)


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:/api/:UserWarning")  # the stand-in has no discovery
@pytest.mark.parametrize("adaptive", [None, {"minimum": 1, "maximum": 4}])
def test_a_cluster_is_made_for_the_run_and_deleted_after_it(use, tmp_path, adaptive):
    settings = section(workers=1, adaptive=adaptive, resources={"BIG": 1})
    with use(Operator(tmp_path)) as server:
        with cluster.client(settings, needs=["numpy"]) as client:
            client.wait_for_workers(1, timeout=30)
            needs = cluster.task_resources(settings)
            assert client.submit(os.getppid, resources=needs).result(timeout=30) in {
                p.pid for p in server.processes
            }
            (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
            assert (worker["nthreads"], worker["memory_limit"]) == (2, 4 * 2**30)
            assert worker["resources"] == {"BIG": 2}
        assert all(p.poll() is not None for p in server.processes)
        made = dict(server.made)
    if adaptive:
        assert made["DaskAutoscaler"]["spec"]["minimum"] == 1
        assert made["DaskAutoscaler"]["spec"]["maximum"] == 4
    else:
        assert list(made) == ["DaskCluster"]
    asked = made["DaskCluster"]["spec"]
    for role in ("worker", "scheduler"):
        assert asked[role]["spec"] == cluster_spec(settings)["spec"][role]["spec"]


def test_what_the_api_server_forbids_is_told_in_one_line(use, tmp_path):
    with use(Operator(tmp_path, forbid=True)) as server:
        assert "daskclusters: Forbidden" in refused()
        assert {kind for kind, _ in server.made} == {"DaskCluster"}


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:/api/:UserWarning")
def test_a_cluster_that_cannot_be_deleted_is_told(use, tmp_path, caplog):
    with use(Operator(tmp_path)) as server:
        with cluster.client(section(workers=1)):
            server.forbid = True
        assert "KubeCluster did not end well" in caplog.text
        assert "daskclusters" in caplog.text
        server.forbid = False


@pytest.mark.cluster
def test_a_cluster_that_fails_to_start_is_deleted(use, tmp_path):
    with use(Operator(tmp_path, lose=True)) as server:
        assert "does not exist" in refused(section(workers=1))
        assert {kind for kind, _ in server.made} == {"DaskCluster"}
        assert not [path for path in server.objects if "daskclusters" in path]
        assert all(p.poll() is not None for p in server.processes)


def test_a_cluster_of_the_same_name_is_left_alone(use, tmp_path):
    named = section(kubernetes={"image": "a", "name": "nightly", "namespace": "astro"})
    with use(Operator(tmp_path)) as server:
        server.objects[f"{DASK}/daskclusters/nightly"] = cluster_spec(named)
        assert "nightly already exists" in refused(named)
        assert server.made == []
        assert f"{DASK}/daskclusters/nightly" in server.objects


def test_an_api_server_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, port=9)))
    assert "connection" in refused().lower()


def test_without_a_kubeconfig_the_kind_is_refused_quietly(tmp_path):
    script = (
        "from gcdask import cluster\nfrom gcdask.errors import InputError\n"
        "from gcdask.sections import Cluster\n"
        "try:\n    cluster.client(Cluster(memory='1GiB', kubernetes={'image': 'a'})).__enter__()\n"
        "except InputError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.startswith("cluster.kubernetes: no cluster was made (")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


# -- optional packages ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        ({"slurm": {}, "memory": "1GiB"}, "dask_jobqueue", "hpc"),
        ({"kubernetes": {"image": "a"}, "memory": "1GiB"}, "dask_kubernetes", "kubernetes"),
        ({"gateway": {"address": "http://127.0.0.1:9"}}, "dask_gateway", "gateway"),
    ],
)
def test_a_kind_whose_package_is_missing_names_the_extra(monkeypatch, settings, package, extra):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        cluster.client(Cluster(**settings)).__enter__()
    assert package.replace("_", "-") in str(caught.value)
    assert f"pip install 'gcdask[{extra}]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_packages_of_other_kinds_are_not_imported():
    script = (
        "import sys\nfrom gcdask import cluster\nfrom gcdask.sections import Cluster\n"
        "with cluster.client(Cluster(workers=0)):\n    pass\n"
        "print([n for n in ('dask_jobqueue', 'dask_kubernetes', 'dask_gateway', 'kr8s', 'aiohttp')"
        " if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
