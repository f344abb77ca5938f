"""The files of a deployment, held against what they name. Docker itself is not started here."""

import re
from configparser import ConfigParser

import yaml
from typer.main import get_command

from llmforge.cli import app
from llmforge.files import VARIABLES, project_root

ROOT = project_root()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_services_are_commands_with_known_variables():
    ours = {name: s for name, s in COMPOSE["services"].items() if s["image"] == "llmforge"}
    assert set(ours) == {"api", "worker"}
    for service in ours.values():
        assert service["command"][0] in get_command(app).commands
        named = {name for name in service["environment"] if name.startswith("LLMFORGE_")}
        assert named <= {v.name for v in VARIABLES} and {"LLMFORGE_STORE", "LLMFORGE_REDIS"} <= named
        assert service["user"].split(":")[0] in DOCKERFILE


def test_everything_is_watched_and_kept():
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped", name
        assert service["volumes"][0].split(":")[0] in COMPOSE["volumes"], name
    assert "noeviction" in str(COMPOSE["services"]["redis"]["command"])
    ports = [p for s in COMPOSE["services"].values() for p in s.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"], "nothing is open to other machines by itself"


def test_no_secret_has_a_default():
    asked = re.findall(r"\$\{(\w*(?:PASSWORD|TOKEN))(:[?-])", (ROOT / "compose.yaml").read_text())
    assert {kind for _, kind in asked} == {":?"} and len({name for name, _ in asked}) == 3


def test_the_image_installs_what_there_is_and_is_nobody_special():
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini")
    [extras] = re.findall(r"'\.\[(.+)\]'", DOCKERFILE)
    assert all(f"{name}_requirements" in ini["DEFAULT"] for name in extras.split(","))
    assert re.findall(r"^USER (\w+)", DOCKERFILE, re.M) == ["llmforge"]
