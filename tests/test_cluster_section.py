"""The section `cluster` chooses one kind of cluster, and refuses what does not belong to it."""

import pytest

from gcdask import cluster, config
from gcdask.errors import InputError
from gcdask.sections import Cluster

BASE = "mosaic: {path: field.zarr}\nfield: {center: [342.18, -44.53], z_lens: 0.348}\ncluster: "


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        path = tmp_path / "field.yaml"
        path.write_text(BASE + text)
        return config.load(path).cluster

    return from_text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", "local"),
        ("{workers: 0}", "local"),
        ("{scheduler: 'tcp://a:8786'}", "scheduler"),
        ("{scheduler_file: scheduler.json}", "scheduler"),
        ("{slurm: {queue: fast, walltime: '02:00:00'}, memory: 4GiB}", "slurm"),
        ("{kind: slurm, memory: 4GiB}", "slurm"),
        ("{kubernetes: {image: 'example.org/gcdask:1'}, memory: 4GiB}", "kubernetes"),
        ("{gateway: {address: 'https://gateway.example.org'}}", "gateway"),
        ("{kind: gateway, adaptive: {maximum: 9}, workers: 0}", "gateway"),
        ("{kind: local, tls: {ca: a, cert: b, key: c}}", "local"),
    ],
)
def test_the_kind_is_that_of_the_keys_given(load, text, kind):
    section = load(text)
    assert section.resolved_kind == kind
    assert Cluster.model_validate(section.model_dump(mode="json")) == section


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{kind: pbs}", ["cluster.kind", "'pbs'", "'slurm'"]),
        (
            "{kind: local, scheduler: x}",
            ["cluster.scheduler", "remove it, or give kind: scheduler"],
        ),
        ("{slurm: {}, gateway: {}, memory: 1GB}", ["cluster.gateway", "not used by kind slurm"]),
        ("{scheduler: a, scheduler_file: b}", ["cluster.scheduler_file", "give one of them"]),
        ("{kind: scheduler}", ["cluster.scheduler", "missing", "scheduler_file"]),
        ("{kind: kubernetes, memory: 1GB}", ["cluster.kubernetes", "missing", "image"]),
        ("{kubernetes: {}, memory: 1GB}", ["cluster.kubernetes.image", "missing"]),
        ("{slurm: {}}", ["cluster.memory", "auto", "4GiB"]),
        ("{kubernetes: {image: a}}", ["cluster.memory", "auto", "4GiB"]),
        ("{slurm: {}, memory: 1GB, workers: 0}", ["cluster.workers", "0", "or adaptive"]),
        ("{slurm: {processes: 3, cores: 2}, memory: 1GB}", ["cluster.slurm.cores", "2", "(3)"]),
        ("{slurm: {walltime: 12:00:00}, memory: 1GB}", ["cluster.slurm.walltime", "in quotes"]),
        ("{slurm: {walltime: soon}, memory: 1GB}", ["cluster.slurm.walltime", "HH:MM:SS"]),
        ('{slurm: {queue: "a\\nb"}, memory: 1GB}', ["cluster.slurm.queue", "line break"]),
        ("{kubernetes: {image: a, name: A_b}, memory: 1GB}", ["cluster.kubernetes.name", "'A_b'"]),
        ("{gateway: {}, threads: 2}", ["cluster.threads", "gateway.options"]),
        ("{gateway: {}, memory: 2GB}", ["cluster.memory", "gateway.options"]),
        ("{gateway: {options: {a: [1]}}}", ["cluster.gateway.options.a", "single value"]),
        ("{gateway: {}, tls: {ca: a, cert: b, key: c}}", ["cluster.tls", "not used by kind"]),
        ("{tls: {ca: a, cert: b}}", ["cluster.tls.key", "missing", "private key"]),
        ("{tls: {key: a}}", ["cluster.tls.ca", "missing", "1 more"]),
        ("{adaptive: {}}", ["cluster.adaptive.maximum", "missing"]),
        ("{adaptive: {minimum: 3, maximum: 2}}", ["cluster.adaptive.maximum", "2", "(3)"]),
        ("{adaptive: {maximum: 2}, scheduler: a}", ["cluster.adaptive", "own workers"]),
        ("{resources: {'G P': 1}}", ["cluster.resources", "'G P'"]),
        ("{resources: {GPU: 0}}", ["cluster.resources.GPU", "0", "> 0"]),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(load, text, words):
    with pytest.raises(InputError) as caught:
        load(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text",
    [
        "{gateway: {address: 'https://me:hush-hush@gateway.example.org'}}",
        "{gateway: {options: {s3_secret: hush-hush}}}",
        "{kubernetes: {image: a, env: {AWS_SECRET_ACCESS_KEY: hush-hush}}, memory: 1GB}",
    ],
)
def test_secrets_are_refused_and_not_repeated(load, text):
    with pytest.raises(InputError) as caught:
        load(text)
    assert "hush-hush" not in str(caught.value)
    assert any(where in str(caught.value) for where in ("the environment", "env_from_secret"))


@pytest.mark.parametrize(
    ("given", "settings", "chosen"),
    [
        ({"workers": 3}, {"scheduler": "a"}, ("local", 3)),
        ({"workers": 0}, {"slurm": {}, "memory": "1GB"}, ("local", 0)),
        ({"workers": 3}, {"slurm": {}, "memory": "1GB"}, ("slurm", 3)),
        ({"scheduler": "b"}, {"slurm": {}, "memory": "1GB"}, ("scheduler", 2)),
        ({"scheduler_file": "b"}, {"scheduler": "a"}, ("scheduler", 2)),
        ({}, {"scheduler": "a"}, ("scheduler", 2)),
    ],
)
def test_the_command_line_goes_before_the_section(given, settings, chosen):
    options = {"workers": None, "scheduler": None, "scheduler_file": None, **given}
    section = cluster._choose(Cluster(**settings), **options)
    assert (section.resolved_kind, section.workers) == chosen
    for key in ("scheduler", "scheduler_file"):
        if key in given:
            assert getattr(section, key) == given[key]
    assert not (section.scheduler and section.scheduler_file)
