"""Promises of the README about the repository itself."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_model_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, text=True, capture_output=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"detclipv2", "detclipv2-0.1.0.dist-info"}


def test_files_named_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", readme)
    scripts = re.findall(r"python (ray_jobs/\w+\.py|benchmarks/\w+\.py)", readme)
    assert links
    assert scripts
    assert [name for name in [*links, *scripts] if not (ROOT / name).exists()] == []


def test_lock_pins_hashes_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pinned) > 200
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==", line) for line in pinned)
    assert "://" not in lock


@pytest.mark.parametrize("package", ["ray", "torch", "img2dataset"])
def test_lock_and_environment_agree(package: str) -> None:
    from importlib.metadata import version

    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.search(rf"^{package}(?:\[.*\])?==(\S+)", lock, re.MULTILINE)
    assert pinned is not None
    assert version(package).split("+")[0] == pinned[1]
