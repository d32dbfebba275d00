"""Installing on the first start: what is trusted, what is completed, and what a failure says. No network."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dashboard import bootstrap

MODULE, FILE = "dashboard", "requirements.txt"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository of its own, outside .venv, whose steps are written down in .steps instead of done."""
    place = SimpleNamespace(root=tmp_path, venv=tmp_path / ".venv", file=tmp_path / FILE, steps=[])
    place.python = place.venv / "bin/python"
    place.file.write_text("no-such-distribution==1.0\n")
    for name, value in {
        "ROOT": place.root,
        "VENV": place.venv,
        "PYTHON": place.python,
        "STAMP": place.venv / "installed.json",
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    monkeypatch.setattr(bootstrap, "make_venv", lambda: (place.steps.append("make"), fake_python(place.python)))
    done = bootstrap.write_stamp
    monkeypatch.setattr(bootstrap, "install", lambda files: (place.steps.append("install"), done(files)))
    monkeypatch.setattr(bootstrap, "restart", lambda module: place.steps.append(f"restart {module}"))
    return place


@pytest.fixture
def inside(project, monkeypatch):
    """The same, run by the Python of .venv."""
    monkeypatch.setattr(sys, "prefix", str(project.venv))
    fake_python(project.python)
    return project


def fake_python(path, script="exit 0"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_names_of_a_requirements_file():
    text = "# comment\ntorch==2.13.0\n\nscipy==1.17.1   # why\nscikit-learn>=1\n--find-links x\nplain\nextra[a]==1\n"
    assert bootstrap.names(text) == ["torch", "scipy", "scikit-learn", "plain", "extra"]


def test_nothing_happens_where_everything_is_there_in_any_version(project):
    project.file.write_text("pytest==0.0.1\nPyTest_Timeout==0.0.1\n")
    bootstrap.ensure(MODULE, FILE)
    assert project.steps == [] and not project.venv.exists()


def test_first_start_installs_and_the_second_does_not(project):
    bootstrap.ensure(MODULE, FILE)
    assert project.steps == ["make", "install", "restart dashboard"]
    project.steps.clear()
    bootstrap.ensure(MODULE, FILE)
    assert project.steps == ["restart dashboard"]


def test_changed_requirements_are_installed(project):
    bootstrap.ensure(MODULE, FILE)
    project.file.write_text("no-such-distribution==2.0\n")
    bootstrap.ensure(MODULE, FILE)
    assert project.steps.count("install") == 2


def test_tests_need_more_than_the_dashboard_and_keep_its_stamp(project):
    (project.root / "more.txt").write_text("another-one==1\n")
    bootstrap.ensure(MODULE, FILE)
    bootstrap.ensure("tests", FILE, "more.txt")
    bootstrap.ensure(MODULE, FILE)
    assert project.steps.count("install") == 2


def test_interrupted_install_is_completed(project, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as first, pytest.raises(SystemExit, match="next start goes on"):
        first.setattr(bootstrap, "install", interrupted)
        bootstrap.ensure(MODULE, FILE)
    bootstrap.ensure(MODULE, FILE)
    assert project.steps == ["make", "make", "install", "restart dashboard"]


def test_inside_a_complete_venv_nothing_happens(inside):
    bootstrap.write_stamp((FILE,))
    bootstrap.ensure(MODULE, FILE)
    assert inside.steps == []


def test_inside_an_outdated_venv_it_is_completed(inside):
    bootstrap.write_stamp((FILE,))
    inside.file.write_text("pytest==0.0.2\n")
    bootstrap.ensure(MODULE, FILE)
    assert inside.steps == ["make", "install", "restart dashboard"]


def test_a_venv_made_by_hand_is_left_alone_when_it_has_everything(inside):
    inside.file.write_text("pytest==0.0.2\n")
    bootstrap.ensure(MODULE, FILE)
    assert inside.steps == []


def test_old_python_is_told_in_one_sentence(project, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"^Python 3.11 or newer is needed, and this is Python 3.10\.$"):
        bootstrap.ensure(MODULE, FILE)


def test_unwritable_folder_is_told_in_one_sentence(project, monkeypatch):
    def refuse():
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bootstrap, "make_venv", refuse)
    with pytest.raises(SystemExit, match=r"\.venv cannot be made: .*Permission denied\.$"):
        bootstrap.ensure(MODULE, FILE)


class TestRealSteps:
    """The steps themselves, against a stand-in for Python or a real one."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        self.venv = tmp_path / ".venv"
        self.python = self.venv / "bin/python"
        self.file = tmp_path / FILE
        self.file.write_text("")
        monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
        monkeypatch.setattr(bootstrap, "VENV", self.venv)
        monkeypatch.setattr(bootstrap, "PYTHON", self.python)
        monkeypatch.setattr(bootstrap, "STAMP", self.venv / "installed.json")

    def test_venv_is_made_kept_and_made_again_when_broken(self):
        bootstrap.make_venv()
        (self.venv / "mine").touch()
        bootstrap.make_venv()
        assert (self.venv / "mine").exists(), "a working .venv was thrown away"
        bootstrap.install((FILE,))
        assert bootstrap.stamped((FILE,))
        subprocess.run(["rm", "-r", *self.venv.glob("lib/python*/site-packages/pip")], check=True)
        bootstrap.make_venv()
        assert not bootstrap.stamped((FILE,)), "a new .venv was taken for complete"
        assert subprocess.run([self.python, "-m", "pip", "--version"], capture_output=True).returncode == 0

    def test_failing_pip_shows_its_last_lines(self, capsys):
        fake_python(self.python, "for i in $(seq 40); do echo line $i; done; echo ERROR: no such version >&2; exit 1")
        with pytest.raises(SystemExit, match="^pip could not install") as end:
            bootstrap.install((FILE,))
        assert isinstance(end.value.code, str)  # which Python prints, and exits with status 1
        out, err = capsys.readouterr()
        assert err.splitlines()[-2:] == ["line 40", "ERROR: no such version"] and len(err.splitlines()) == 15
        assert out == "Installing the packages of requirements.txt into .venv (some minutes, once) …\n"
        assert not bootstrap.stamped((FILE,))

    def test_half_written_distributions_are_installed_again(self):
        site = self.venv / "lib/python3.11/site-packages"
        for name, files in {"whole-1.0": ["METADATA", "INSTALLER"], "half-1.0": ["METADATA"]}.items():
            (site / f"{name}.dist-info").mkdir(parents=True)
            for file in files:
                (site / f"{name}.dist-info" / file).touch()
        fake_python(self.python)
        bootstrap.install((FILE,))
        assert [path.name for path in site.iterdir()] == ["whole-1.0.dist-info"]

    def test_missing_ensurepip_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit, match="install python3-venv"):
            bootstrap.make_venv()
        assert not self.venv.exists()

    def test_restart_keeps_arguments_and_finds_the_module(self, monkeypatch):
        called = []
        monkeypatch.setattr(os, "execve", lambda *call: called.append(call))
        monkeypatch.setattr(sys, "argv", ["dashboard/__main__.py", "--port", "9000"])
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        bootstrap.restart(MODULE)
        [(python, command, environment)] = called
        assert (python, command) == (self.python, [str(self.python), "-m", MODULE, "--port", "9000"])
        assert environment["PYTHONPATH"].split(os.pathsep) == [str(self.file.parent), "/elsewhere"]


def test_bootstrap_needs_nothing_but_python():
    root = Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import dashboard.__main__, tests.__main__"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
