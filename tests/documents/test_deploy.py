"""What an operator copies: the unit and the annotated settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xots.settings import declared, load

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """``systemd-analyze verify`` says nothing at all: an unknown key would only be a warning."""
    program = shutil.which("xots", path=str(Path(sys.executable).parent))
    assert program is not None
    unit = (DEPLOY / "xots.service").read_text()
    assert "ExecStart=/opt/xots/bin/xots " in unit
    copy = tmp_path / "xots.service"
    copy.write_text(unit.replace("/opt/xots/bin/xots", program))
    verdict = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (verdict.returncode, verdict.stderr + verdict.stdout) == (0, "")


def test_the_unit_is_locked_up(tmp_path: Path) -> None:
    """No root, no core dumps, and an exposure that systemd calls OK or better."""
    verdict = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=25",
            DEPLOY / "xots.service",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    unit = (DEPLOY / "xots.service").read_text()
    assert "\nDynamicUser=yes\n" in unit
    assert "\nLimitCORE=0\n" in unit


@pytest.mark.parametrize(
    "path", [*DEPLOY.glob("*.yaml"), *EXAMPLES.glob("*.yaml")], ids=lambda path: path.name
)
def test_the_annotated_settings_are_good_as_they_stand(path: Path) -> None:
    """Every line is a setting, and every setting has a good value."""
    assert load({}, {}, path).sources


@pytest.mark.parametrize(
    "path", [*DEPLOY.glob("*.yaml"), *EXAMPLES.glob("*.yaml")], ids=lambda path: path.name
)
def test_what_is_commented_out_is_a_setting_too(path: Path) -> None:
    """A line that becomes active by taking its hash away names a setting."""
    names = {setting.name for setting in declared()}
    commented = set(re.findall(r"^# ([a-z_]+):(?: |$)", path.read_text(), re.MULTILINE))
    assert commented <= names
