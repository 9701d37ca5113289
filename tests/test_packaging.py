"""What is published: metadata, extras, versions that agree, and the workflow that tests it on each system."""

import re
import tomllib
from pathlib import Path

import pytest

import residual
from residual.exporters.libraries import EXTRAS
from residual.runtime import extras

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_distribution_has_one_name():
    assert PROJECT["name"] == extras.DISTRIBUTION
    assert PROJECT["scripts"].keys() == {"residual"}
    for requirements in PROJECT["optional-dependencies"].values():
        for requirement in requirements:
            name, _, rest = requirement.partition("[")
            if name.startswith("residual"):
                assert name == extras.DISTRIBUTION
                assert set(rest.rstrip("]").split(",")) <= PROJECT["optional-dependencies"].keys()


def test_every_extra_that_a_message_names_exists():
    named = set(EXTRAS.values()) | {"onnx"}
    for path in (ROOT / "src").rglob("*.py"):
        named |= set(re.findall(r"how_to_install\([\"'](\w+)", path.read_text(encoding="utf-8")))
    assert named <= PROJECT["optional-dependencies"].keys()


def test_an_extra_is_installed_from_the_clone_or_from_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr("os.name", "posix")
    assert extras.how_to_install("serve") == "pip install -c constraints.txt -e '.[serve]'"
    installed = tmp_path / "lib/python3.12/site-packages/residual/runtime/extras.py"
    monkeypatch.setattr(extras, "__file__", str(installed))
    assert extras.how_to_install("serve") == "pip install 'residual-nets[serve]'"


def test_versions_agree():
    version = residual.__version__
    assert re.search(rf"^version: {re.escape(version)}$", read("CITATION.cff"), re.MULTILINE)
    for name in ("Dockerfile", "compose.yaml"):
        assert set(re.findall(r"residual:(\d[\w.]*)", read(name))) == {version}, name


def test_the_citation_names_the_software_and_the_paper():
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(read("CITATION.cff"))
    assert (found["cff-version"], found["type"], found["license"]) == (
        "1.2.0",
        "software",
        PROJECT["license"],
    )
    assert found["authors"] == PROJECT["authors"]
    (paper,) = found["references"]
    assert (paper["year"], paper["doi"], len(paper["authors"])) == (2016, "10.1109/CVPR.2016.90", 4)


def test_the_workflow_tests_each_system_and_python():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    assert workflow.keys() >= {"name", "permissions", "concurrency", "jobs", True}, "True is YAML's `on`"
    assert workflow["permissions"] == {"contents": "read"}
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    systems = {name.partition("-")[0] for name in matrix["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    least = PROJECT["requires-python"].removeprefix(">=")
    stated = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
    assert matrix["python"] == stated
    assert stated[0] == least


def test_the_workflow_runs_what_the_makefile_runs():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), "pinned to a major version"
    ran = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert ran[0] == 'python -m pip install -c constraints.txt -e ".[dev]"'
    checks = re.findall(r"\t\$\(RUN\) (.*)", read("Makefile"))
    assert checks
    assert {command.removeprefix("python -m ").replace('"', "'") for command in ran[1:]} == set(checks)
