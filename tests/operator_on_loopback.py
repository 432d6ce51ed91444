"""A stand-in for Kubernetes with the Dask operator: pods are processes of this machine.

It answers what dask-kubernetes asks of an API server, and runs the commands of a DaskCluster's
pods with their environment, on loopback. What pods may do is not enforced, only recorded.
"""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DASK = "/apis/kubernetes.dask.org/v1/namespaces/astro"
CORE = "/api/v1/namespaces/astro"


class Operator(ThreadingHTTPServer):
    """An API server on a free port.

    Parameters
    ----------
    folder : Path
        For the kubeconfig, logs and the scheduler's file.
    forbid : bool
        Refuse to make or delete anything.
    lose : bool
        Know nothing of pods that were just there.

    Attributes
    ----------
    made : list of (str, dict)
        What was asked to be made: kind and resource.
    """

    daemon_threads = True

    def __init__(self, folder, *, forbid=False, lose=False):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.folder = folder
        self.forbid = forbid
        self.lose = lose
        self.made = []
        self.objects = {}
        self.processes = []
        kubeconfig(folder, self.server_address[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def make(self, resource):
        """Keep a resource; for a cluster, do what the operator does."""
        kind = resource["kind"]
        self.made.append((kind, json.loads(json.dumps(resource))))
        name = resource["metadata"]["name"]
        resource["metadata"].setdefault("namespace", "astro")
        if kind == "DaskCluster":
            self._start(name, resource["spec"])
            resource["status"] = {"phase": "Running"}
        plural = f"{kind.lower()}s"
        self.objects[f"{DASK}/{plural}/{name}"] = resource
        return resource

    def _start(self, name, spec):
        file = self.folder / "scheduler.json"
        self._pod("scheduler", spec["scheduler"], "--port", "0", "--scheduler-file", str(file))
        deadline = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        scheduler = json.loads(file.read_text())
        for k in range(spec["worker"]["replicas"]):
            self._pod(f"worker-{k}", spec["worker"], address=scheduler["address"])
        ready = [{"type": t, "status": "True"} for t in ("Ready", "ContainersReady")]
        self.objects[f"{CORE}/pods/{name}-scheduler"] = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": f"{name}-scheduler", "namespace": "astro"},
            "status": {"phase": "Running", "conditions": ready, "containerStatuses": []},
        }  # fmt: skip
        ports = {"tcp-comm": scheduler["address"].rsplit(":", 1)[1],
                 "http-dashboard": scheduler["services"]["dashboard"]}  # fmt: skip
        self.objects[f"{CORE}/services/{name}-scheduler"] = {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": f"{name}-scheduler", "namespace": "astro"},
            "spec": {"type": "LoadBalancer", "clusterIP": "127.0.0.1", "selector": {"a": "b"},
                     "ports": [{"name": n, "port": int(p)} for n, p in ports.items()]},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}},
        }  # fmt: skip

    def _pod(self, name, role, *more, address=""):
        (container,) = role["spec"]["containers"]
        assert container["command"] == ["dask"]
        arguments = [a.replace("$(DASK_WORKER_NAME)", name) for a in container["args"]]
        loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", *more]
        environment = {e["name"]: e["value"] for e in container["env"]}
        if address:
            environment["DASK_SCHEDULER_ADDRESS"] = address
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, *loopback],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)

    def delete(self, path):
        """Remove a resource; for a cluster, end its pods."""
        del self.objects[path]
        self.stop_pods()

    def stop_pods(self):
        """End all processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # it waits for a scheduler that is gone
                process.kill()
                process.wait()

    def __exit__(self, *error):
        self.shutdown()
        self.stop_pods()
        super().__exit__(*error)

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class _Requests(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0].rstrip("/")
        objects = self.server.objects
        if path == "/version":
            self._send(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        elif path in objects and not (self.server.lose and "/pods/" in path):
            self._send(200, objects[path])
        elif path.rpartition("/")[0] in (DASK, CORE):
            items = [o for key, o in objects.items() if key.startswith(path + "/")]
            self._send(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
        else:
            self._refuse(404, "NotFound")

    def do_POST(self):
        resource = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.forbid:
            self.server.made.append((resource["kind"], resource))
            self._refuse(403, "Forbidden")
        else:
            self._send(201, self.server.make(resource))

    def do_PATCH(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._refuse(404, "NotFound")

    def do_DELETE(self):
        if self.server.forbid:
            self._refuse(403, "Forbidden")
            return
        self.server.delete(self.path.split("?")[0])
        self._send(200, {"kind": "Status", "status": "Success"})

    def _refuse(self, code, reason):
        self._send(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                          "reason": reason, "message": f"{self.path}: {reason}"})  # fmt: skip

    def _send(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        with open(self.server.folder / "api.log", "a") as log:
            print(round(time.time() % 1000, 1), args[0] % args[1:], file=log)


def kubeconfig(folder, port):
    """Write a kubeconfig for an API server on a port of loopback; returns its path."""
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )  # fmt: skip
    return path
