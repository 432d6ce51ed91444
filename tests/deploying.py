"""What the tests of deploy/ share: its files, the tools that read them, and ways to break them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SECRET = re.compile(r"SECRET|TOKEN|PASSW|ACCESS_KEY|API_KEY|CREDENTIAL", re.IGNORECASE)
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def tool(*command, **options):
    """Run a program of the environment or the machine; the test is skipped where it is absent."""
    found = shutil.which(str(command[0]), path=PATH)
    if found is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [found, *map(str, command[1:])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def accepts(*command, **options):
    """Whether a program ends with code 0; what it says is shown if a test fails."""
    done = tool(*command, **options)
    print(done.stdout, done.stderr)
    return done.returncode == 0


def documents(path):
    """All documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def changed(document, keys, value=None):
    """Copy of a document with one key set, or removed for None; keys are joined by ``/``."""
    out = json.loads(json.dumps(document))  # YAML's aliases are one object in several places
    *parents, last = (int(key) if key.isdigit() else key for key in keys.split("/"))
    place = out
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return out
