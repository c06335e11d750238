"""What is installed, built and published: said once, and as the README says it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mlx_jina

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("convert/*.md")]
)
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))

in_checkout = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")


def name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


class TestRequirements:
    @pytest.mark.parametrize("group", GROUPS)
    def test_a_group_repeats_nothing_of_the_extras_it_takes(self, group: str) -> None:
        own = [each for each in GROUPS[group] if name(each) != "mlx-jina"]
        taken = chain.from_iterable(Requirement(each).extras for each in GROUPS[group] if name(each) == "mlx-jina")
        of_extras = {name(each) for extra in taken for each in EXTRAS[extra]}
        assert not of_extras & set(map(name, own))
        assert len(own) == len(set(map(name, own)))

    def test_one_package_has_one_lowest_version(self) -> None:
        lowest: dict[str, set[str]] = {}
        for each in chain(PROJECT["project"]["dependencies"], *EXTRAS.values(), *GROUPS.values()):
            if name(each) != "mlx-jina":
                lowest.setdefault(name(each), set()).add(str(Requirement(each).specifier))
        assert {package: versions for package, versions in lowest.items() if len(versions) > 1} == {}

    def test_extras_and_groups_that_pages_and_messages_name_are_there(self) -> None:
        texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *ROOT.glob("mlx_jina/**/*.py"))]
        extras = {
            extra
            for text in texts
            for names in re.findall(r"(?:'\.|mlx-jina)\[([a-z,-]+)\]", text)
            for extra in names.split(",")
        }
        groups = {group for text in texts for group in re.findall(r"--group ([a-z]+)", text)}
        assert {"fast-cpu", "server"} <= extras <= EXTRAS.keys()
        assert {"dev"} <= groups <= GROUPS.keys()


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == mlx_jina.__version__


def test_links_of_the_readme_lead_somewhere_on_pypi_too() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert links
    assert [link for link in links if not re.match(r"https://|http://127\.0\.0\.1|#", link)] == []
    repository = PROJECT["project"]["urls"]["Homepage"]
    files = re.findall(rf"{repository}/blob/main/([^)#\s]+)", text)
    files += re.findall(r"https://raw.githubusercontent.com/mlx-jina/mlx-jina/main/([^)\"\s]+)", text)
    # A source distribution has no pictures.
    assert [file for file in files if not (ROOT / file).exists() and WORKFLOWS] == []


@in_checkout
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflows:
    """zizmor, which `.ci/run` runs, asks for more; this much also holds where it is not installed."""

    def steps(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for job, body in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            for step in body["steps"]:
                yield job, step

    def test_actions_are_pinned(self, path: Path) -> None:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
        assert lines
        for line in lines:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+(\.\d+)*$", line), line

    def test_permissions_are_the_least(self, path: Path) -> None:
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {}
        for name, job in workflow["jobs"].items():
            special = {"publish": {"id-token": "write"}, "page": {"contents": "write"}}
            assert job["permissions"] == special.get(name, {"contents": "read"}), name
        for job, step in self.steps(path):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, job

    def test_scripts_and_groups_are_there(self, path: Path) -> None:
        for job, step in self.steps(path):
            command = step.get("run", "")
            assert all((ROOT / script).is_file() for script in re.findall(r"\.ci/[\w-]+", command)), job
            assert set(re.findall(r"--group ([a-z]+)", command)) <= GROUPS.keys(), job


@in_checkout
def test_the_homebrew_formula_names_what_was_built(tmp_path: Path) -> None:
    source = tmp_path / "mlx_jina-1.2.3.tar.gz"
    source.write_bytes(b"a release")
    command = [sys.executable, str(ROOT / ".ci" / "formula")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=True)
    assert "/mlx-jina/mlx_jina-1.2.3.tar.gz" in done.stdout
    assert f'sha256 "{hashlib.sha256(b"a release").hexdigest()}"' in done.stdout
    assert "VERSION" not in done.stdout
    refused = subprocess.run([*command, str(tmp_path / "other.whl")], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is no source distribution of mlx-jina" in refused.stderr
