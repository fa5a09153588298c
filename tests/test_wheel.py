"""What is installed from a wheel: everything that the package needs, and commands that work without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attngraft as ag

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/attngraft"
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "src")
COMPILED = shutil.ignore_patterns("__pycache__", "*.egg-info")

pytestmark = pytest.mark.slow


def run(*command: object, folder: Path) -> str:
    """What a program prints, with nothing of this environment but its interpreter."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    surroundings["ATTNGRAFT_KERNELS"] = "reference"  # compiled kernels would be compiled anew
    done = subprocess.run([*map(str, command)], cwd=folder, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the source tree, by the setuptools that is installed."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"ignore": COMPILED} if (ROOT / name).is_dir() else {}))
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source, folder=source)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of programs of a new environment with the wheel, which sees our dependencies and not our sources.

    A folder that a .pth file names is searched, but the .pth files in it, such as that of an editable installation, are
    not read.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    names = {"base": str(home), "platbase": str(home)}
    installed = Path(sysconfig.get_path("purelib", "venv", names))
    dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (installed / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n", encoding="utf-8")
    found = Path(sysconfig.get_path("scripts", "venv", names))
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", found / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--force-reinstall", wheel, folder=home)
    return found


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    ours = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in ours if "__pycache__" not in name}


def test_the_commands_work_without_the_source_tree(programs, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / f"photos/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    where = run(programs / "python", "-c", "import attngraft; print(attngraft.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)
    attngraft = programs / "attngraft"
    assert ag.__version__ in run(attngraft, "--version", folder=tmp_path)
    assert "block1.2" in run(attngraft, "sites", "small-cnn", folder=tmp_path)
    run(attngraft, "attentions", folder=tmp_path)
    quick = (
        "--backbone",
        "small-cnn",
        "--attention",
        "cbam",
        "--recipe",
        "one-cycle",
        "--epochs",
        1,
        "--image-size",
        16,
    )
    for data, out in (("photos", "runs/files"), ("cluttered-digits", "runs/embedded")):
        run(attngraft, "fit", data, *quick, "--limit", 20, "--quiet", "--out", out, folder=tmp_path)
        assert (tmp_path / out / "report.html").is_file()
        assert "finished" in run(attngraft, "show", out, folder=tmp_path)
