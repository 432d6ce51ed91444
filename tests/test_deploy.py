"""What is in deploy/ can be used as it is: each file against its schema, our rules, real tools."""

import json
import os
import re
import shlex
import shutil
import tomllib
from importlib import metadata

import pytest
import typer
import yaml
from deploying import DEPLOY, ROOT, SECRET, accepts, changed, documents, tool
from distributed.cli import dask_scheduler, dask_worker
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

from gcdask import cli, config
from gcdask._version import __version__
from gcdask.errors import InputError

SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])


# -- shell ------------------------------------------------------------------------------------
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script):
    assert accepts("bash", "-n", script)
    assert accepts("shellcheck", script)


def test_shellcheck_refuses_an_unquoted_path(tmp_path):
    script = tmp_path / "broken.sh"
    script.write_text("#!/usr/bin/env bash\nrm -rf $1/*\n")
    assert not accepts("shellcheck", script)


# -- image ------------------------------------------------------------------------------------
def instructions(text):
    """Pairs of a Containerfile, as ("COPY", "a b"); comments left out, lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def image_faults(text):
    """What is wrong with a Containerfile by the rules of this project."""
    faults, stages, user = [], set(), None
    for name, rest in instructions(text):
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            if base not in stages and not re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[\w.-]+", base):
                faults.append(f"base {base} is not pinned")
            stages.add(stage)
            user = None
        elif name == "COPY" and "--from=" not in rest:
            *sources, _ = rest.split()
            faults += [f"{s} is missing" for s in sources if not (ROOT / s).exists()]
        elif name in ("ENV", "ARG") and SECRET.search(rest):
            faults.append(f"{name} holds a secret")
        elif name == "RUN":
            installs = re.findall(r"pip (?:install|wheel)[^&]*", rest)
            faults += [f"{i} caches" for i in installs if "--no-cache-dir" not in i]
        elif name == "USER":
            user = rest
        elif name == "ADD":
            faults.append("ADD is not used")
    if not re.fullmatch(r"[1-9]\d+:[1-9]\d+", user or ""):
        faults.append(f"user {user} is not numeric, or root")
    if ("ENTRYPOINT", '["gcdask"]') not in instructions(text):
        faults.append("the entry point is not gcdask")
    return faults


def test_the_image_is_pinned_small_and_not_root():
    text = (DEPLOY / "Containerfile").read_text()
    assert image_faults(text) == []
    assert f"ARG VERSION={__version__}\n" in text
    labels = dict(re.findall(r'image\.(\w+)="([^"]*)"', text))
    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored  # all but what follows
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for name, rest in instructions(text):
        if name == "COPY" and "--from=" not in rest:
            assert {source.split("/")[0] for source in rest.split()[:-1]} <= kept


def test_a_linter_of_containerfiles_agrees():
    assert accepts("hadolint", DEPLOY / "Containerfile")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest"),
        ("USER 10001:10001", "USER gcdask"),
        ("USER 10001:10001", "USER 0:0"),
        ("COPY gcdask ", "COPY gcdsak "),
        ("--no-cache-dir --no-deps --requirement", "--requirement"),
        ("USER=gcdask", "AWS_SECRET_ACCESS_KEY=abc"),
        ('ENTRYPOINT ["gcdask"]', 'ENTRYPOINT ["bash"]'),
    ],
)
def test_a_worse_image_is_refused(old, new):
    text = (DEPLOY / "Containerfile").read_text()
    assert old in text
    assert image_faults(text.replace(old, new))


# -- pins -------------------------------------------------------------------------------------
def pins(text):
    """Version of each package; anything but NAME==VERSION raises."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+-]+)", line) for line in lines]
    assert all(found), lines[found.index(None)] if None in found else ""
    return {canonical(match[1]): match[2] for match in found}


def pin_faults(pinned):
    """Dependencies, of the project and of what it needs, that no pin satisfies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    for extra in extras.keys() - {"sed", "hats", "test"}:  # science that no pipeline runs; tools
        wanted += [Requirement(text) for text in extras[extra]]
    faults, seen = [], set()
    while wanted:
        need = wanted.pop()
        name = canonical(need.name)
        if pinned.get(name) is None or not need.specifier.contains(pinned[name], True):
            faults.append(f"{need} is not met by {pinned.get(name)}")
        key = (name, *sorted(need.extras))
        if key in seen or (installed := _distribution(name)) is None:
            continue
        seen.add(key)
        if installed.version != pinned.get(name):
            continue  # another version may need other packages
        for text in installed.requires or ():
            deeper = Requirement(text)
            places = [{**default_environment(), "extra": e} for e in ("", *need.extras)]
            if deeper.marker is None or any(map(deeper.marker.evaluate, places)):
                wanted.append(deeper)
    return faults


def _distribution(name):
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def test_every_dependency_of_the_image_is_pinned():
    pinned = pins((DEPLOY / "constraints.txt").read_text())
    assert pin_faults(pinned) == []
    assert "gcdask" not in pinned
    assert not {"pytest", "ruff", "mypy", "pip", "setuptools"} & set(pinned)


@pytest.mark.parametrize(
    ("name", "version"), [("dask", None), ("zarr", "2.18.0"), ("partd", None), ("s3fs", None)]
)
def test_a_missing_or_old_pin_is_noticed(name, version):
    pinned = pins((DEPLOY / "constraints.txt").read_text())
    assert any(name in fault for fault in pin_faults({**pinned, name: version}))


@pytest.mark.parametrize("line", ["dask>=2025", "dask @ file:///dask", "--extra-index-url x"])
def test_what_is_no_pin_is_refused(line):
    with pytest.raises(AssertionError):
        pins(f"zarr==3.1.6\n{line}\n")


# -- compose ----------------------------------------------------------------------------------
def compose_faults(compose):
    """What is wrong with a compose file by the rules of this project."""
    faults = []
    services = compose["services"]
    for name, service in services.items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        rules = {
            "has a memory limit": "memory" in limits and "cpus" in limits,
            "drops all capabilities": service.get("cap_drop") == ["ALL"],
            "gains no privileges": "no-new-privileges:true" in service.get("security_opt", ()),
            "has a read-only root": service.get("read_only") is True,
            "is not root": re.match(r"\$\{GCDASK_UID:-[1-9]\d+\}:", service.get("user", "")),
            "is not privileged": not {"privileged", "cap_add", "network_mode", "pid"}
            & set(service),
            "publishes on loopback": all(
                p.startswith("127.0.0.1:") for p in service.get("ports", ())
            ),
            "is pinned": re.search(r":-gcdask:\d+\.\d+\.\d+\}$", service["image"]),
            "waits for what is healthy": all(
                how["condition"] == "service_healthy" and "healthcheck" in services[other]
                for other, how in service.get("depends_on", {}).items()
            ),
            "holds no secret": not any(
                "=" in e and SECRET.search(e) for e in service.get("environment", ())
            ),
            "mounts no socket": "docker.sock" not in json.dumps(service),
            "reads its input only": all(
                v.get("read_only") for v in service.get("volumes", ()) if v["target"] == "/input"
            ),
            "fails without its folders": all(
                ":?" in v["source"] and v["bind"]["create_host_path"] is False
                for v in service.get("volumes", ())
                if v["type"] == "bind"
            ),
        }
        faults += [f"{name} {rule}" for rule, holds in rules.items() if not holds]
        named = {v.get("source") for v in service.get("volumes", ()) if v["type"] == "volume"}
        faults += [f"{name}: no volume {v}" for v in named - {None, *compose["volumes"]}]
    return faults


def test_compose_follows_its_specification_and_our_rules():
    path = DEPLOY / "compose.yaml"
    assert compose_faults(yaml.safe_load(path.read_text())) == []
    assert accepts("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_compose_agrees_where_it_is_installed(tmp_path):
    if tool("docker", "compose", "version").returncode:
        pytest.skip("docker has no compose plugin")
    folders = {"GCDASK_INPUT": str(tmp_path), "GCDASK_OUTPUT": str(tmp_path)}
    command = ("docker", "compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet")
    assert accepts(*command, env={**os.environ, **folders})
    assert not accepts(*command, env={k: v for k, v in os.environ.items() if "GCDASK" not in k})


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("services/worker/deploy/resources/limits/memory", None),
        ("services/run/cap_drop", ["NET_RAW"]),
        ("services/run/read_only", None),
        ("services/scheduler/ports", ["8787:8787"]),
        ("services/scheduler/healthcheck", None),
        ("services/worker/user", "root"),
        ("services/worker/volumes/0/read_only", None),
        ("services/worker/environment", ["AWS_SECRET_ACCESS_KEY=abc"]),
        ("services/run/privileged", True),
        ("volumes/cache", None),
    ],
)
def test_a_worse_compose_file_is_refused(keys, value):
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert compose_faults(changed(compose, keys, value))


def test_the_compose_schema_refuses_a_mistyped_key(tmp_path):
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(changed(compose, "services/run/read_onyl", True)))
    assert not accepts("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


# -- systemd ----------------------------------------------------------------------------------
@pytest.fixture
def units(tmp_path):
    """The units, with a gcdask that is there on any machine."""
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/gcdask/bin/gcdask", shutil.which("true"))
        (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_accepts_the_units(units):
    for name in ("gcdask@field.service", "gcdask@field.timer"):
        done = tool("systemd-analyze", "verify", name, cwd=units)
        assert (done.returncode, done.stderr) == (0, "")
    timer = (units / "gcdask@.timer").read_text()
    assert accepts("systemd-analyze", "calendar", re.search(r"OnCalendar=(.*)", timer)[1])


@pytest.mark.parametrize(
    ("old", "new"), [("Type=oneshot", "Type=onesho"), ("KillMode=mixed", "KilMode=mixed"),
                     ("RestartPreventExitStatus=2 3 4", "RestartPreventExitStatus=two")]
)  # fmt: skip
def test_systemd_refuses_a_mistyped_unit(units, old, new):
    path = units / "gcdask@.service"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    done = tool("systemd-analyze", "verify", "gcdask@field.service", cwd=units)
    assert done.stderr  # some versions warn only


def exposure(units):
    command = ("systemd-analyze", "security", "--offline=true", "--threshold=20")
    return accepts(*command, "gcdask@field.service", cwd=units)


def test_the_service_is_hardened(units):
    assert exposure(units)
    path = units / "gcdask@.service"
    text = path.read_text()
    assert "MemoryDenyWriteExecute=" not in text  # numba could not compile
    path.write_text(text[: text.index("# Hardening")])
    assert not exposure(units)


def test_the_service_knows_the_exit_codes():
    text = (DEPLOY / "systemd" / "gcdask@.service").read_text()
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert unit["RestartPreventExitStatus"] == "2 3 4"
    assert unit["SuccessExitStatus"] == "143"
    assert unit["Restart"] == "on-failure"
    assert unit["KillMode"] == "mixed"  # the workers are gcdask's own to end


# -- command lines ----------------------------------------------------------------------------
def command_lines():
    """Every gcdask and dask command of deploy/: where it is, and its words."""
    found = []
    for path in [*SCRIPTS, DEPLOY / "README.md", *(DEPLOY / "systemd").iterdir()]:
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        lines = text.splitlines()
        if path.suffix == ".service":
            lines = re.findall(r"^Exec\w+=(.*)", text, re.MULTILINE)
        elif path.suffix == ".md":
            blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
            lines = [line for block in blocks for line in block.splitlines()]
            lines += re.findall(r"`(gcdask [a-z][^`]*)`", text)
        found += [(path.name, words) for line in lines if (words := _command(line))]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        program = service.get("entrypoint", ["gcdask"])
        found.append((f"compose {name}", program + service["command"]))
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        for container in _containers(documents(path)):
            words = container.get("command", ["gcdask"]) + container.get("args", [])
            found.append((f"{path.name} {container['name']}", words))
    return [(where, words) for where, words in found if words[0] in ("gcdask", "dask")]


def _command(line):
    """Words of the gcdask or dask command in a line of shell; none for other lines."""
    if line.lstrip().startswith("#"):
        return []
    line = re.sub(r"\S*\[@\]\S*|\"\$@\"|\[(--\w+)\]", r" \1 ", line)
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of something longer
        return []
    for k, word in enumerate(words):
        rest = words[k + 1 :]
        stop = [i for i, w in enumerate(rest) if re.match(r"[|&;<]|\d?>", w)]
        # variables, and the N of the documentation, may be anything: a number is allowed anywhere
        rest = [re.sub(r".*\$.*|N", "1", w) for w in rest[: min(stop, default=None)]]
        first = k == 0 or words[k - 1].endswith(":")
        if word.rsplit("/", 1)[-1] == "gcdask" and first and rest:
            return ["gcdask", *rest]
        if word == "dask" and rest[:1] in (["scheduler"], ["worker"]):
            return ["dask", *rest]
        if re.fullmatch(r"gcdask:[\d.]+", word) or words[max(k - 1, 0) : k + 1] == ["--rm", "run"]:
            return ["gcdask", *rest] if rest and not rest[0].startswith("-") else []
    return []


def _containers(value):
    if isinstance(value, list):
        return [c for item in value for c in _containers(item)]
    if not isinstance(value, dict):
        return []
    own = value.get("containers", [])
    return own + [c for key, v in value.items() if key != "containers" for c in _containers(v)]


def parse(words):
    """Let the real command read its options; raises what it would print."""
    program, name, *rest = words
    if program == "dask":
        command = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[name]
    else:
        command = typer.main.get_command(cli.app).commands[name]
    command.make_context(name, rest)


COMMANDS = command_lines()


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{w}-{c[1]}" for w, c in COMMANDS])
def test_every_command_line_is_understood(where, words):
    parse(words)


def test_every_place_has_its_command_lines():
    found = {where: {c[1] for w, c in COMMANDS if w == where} for where, _ in COMMANDS}
    assert found["run.sbatch"] >= {"run", "scheduler", "worker"}
    assert found["local-cluster.sh"] >= {"run"}
    assert found["gcdask@.service"] == {"run", "clean"}
    assert found["README.md"] >= {"run", "clean", "status", "demo"}
    assert found["cronjob.yaml run"] == found["daskjob.yaml run"] == {"run"}
    assert found["compose run"] == {"run"}


@pytest.mark.parametrize(
    "words",
    [
        ["gcdask", "run", "a.yaml", "--scheduler-fiel", "x"],
        ["gcdask", "run", "a.yaml", "--workers", "many"],
        ["dask", "worker", "tcp://a:1", "--memory", "4GiB"],
    ],
)
def test_a_wrong_option_is_noticed(words):
    with pytest.raises(Exception, match=r"[Nn]o such option|valid integer"):
        parse(words)


# -- configurations ---------------------------------------------------------------------------
def configurations():
    """Every configuration in deploy/: where it is, and its text."""
    readme = (DEPLOY / "README.md").read_text()
    found = [
        (f"README {k}", text)
        for k, text in enumerate(re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL))
    ]
    for document in documents(DEPLOY / "kubernetes" / "configmap.yaml"):
        found += list(document["data"].items())
    return found


@pytest.mark.parametrize(("where", "text"), configurations())
def test_every_configuration_is_understood(where, text, tmp_path):
    path = tmp_path / "field.yaml"
    path.write_text(text)
    loaded = config.load(path)
    kind = re.search(r"kind: (\w+)", text)
    assert loaded.cluster.resolved_kind == (kind[1] if kind else "local")
    broken = re.sub(r"(memory|detect): ", r"\1s: ", text)
    path.write_text(broken)
    with pytest.raises(InputError):
        config.load(path)


def test_all_names_of_the_image_have_the_version_of_the_package():
    text = "".join(p.read_text() for p in DEPLOY.rglob("*.*") if p.suffix in (".yaml", ".md"))
    tags = re.findall(r"gcdask:(\d+\.[\w.]+)|newTag: (\S+)", text)
    assert {tag for pair in tags for tag in pair if tag} == {
        __version__
    }  # grep -rn gcdask:0 deploy


def test_the_readme_tells_of_every_way_and_mark():
    readme = (DEPLOY / "README.md").read_text()
    for path in [*SCRIPTS, DEPLOY / "Containerfile", DEPLOY / "compose.yaml"]:
        assert path.relative_to(DEPLOY).as_posix() in readme
    for path in [*DEPLOY.glob("kubernetes/*.yaml"), *DEPLOY.glob("systemd/*")]:
        assert path.name in readme or f"`{path.parent.name}/`" in readme or path.suffix in readme
    marked = {p.name for p in DEPLOY.rglob("*") if p.is_file() and "EDIT" in p.read_text()}
    assert {"compose.yaml", "run.sbatch", "configmap.yaml", "gcdask@.service"} <= marked
