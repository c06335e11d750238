"""Pictures of an index over HTTP: hits that are pictures, and small copies of them by id, for who may search."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest

from mlx_jina.mcp import tools
from mlx_jina.search.index import Index
from tests.server.test_notes import KEY, search, wait_for_vectors
from tests.server.test_page import CHROMIUM
from tests.support import v4_checkpoints
from tests.support.command import run
from tests.support.process import Server
from tests.support.v4_checkpoints import pixels


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a note and its picture, with a position in it that nobody else needs to know."""
    home = tmp_path_factory.mktemp("home")
    (home / "notes" / "img").mkdir(parents=True)
    (home / "notes" / "bread.md").write_text("# Bread\n\n![The crumb of a loaf](img/crumb.jpg)\n")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    PIL.Image.fromarray(pixels(300, 600)).save(home / "notes" / "img" / "crumb.jpg", exif=exif)
    model = v4_checkpoints.v4(home / "model")
    with Index(home / "notes.db", model) as index:
        index.sync(home / "notes")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with Server("--index", home / "notes.db", "--api-key", KEY) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        wait_for_vectors(running)
        yield running


@pytest.fixture(scope="module")
def hits(server: Server) -> dict[str, Any]:
    return {hit["path"]: hit for hit in search(server, "crumb", mode="words")["hits"]}


def test_a_picture_by_its_id(server: Server, hits: dict[str, Any]) -> None:
    crumb, bread = hits["img/crumb.jpg"], hits["bread.md"]
    assert (crumb["picture"], crumb["shown_in"], crumb["snippet"]) == (True, ["bread.md"], "The crumb of a loaf")
    assert (bread["picture"], bread["shown_in"]) == (False, [])
    answer = server.client.get("/picture", params={"id": crumb["id"], "size": 128})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        # Upright, and without its position.
        assert (image.format, image.size) == ("JPEG", (64, 128))
        assert not image.getexif()
    note = server.client.get("/note", params={"id": crumb["id"]}).json()
    assert (note["picture"], note["shown_in"], note["text"]) == (True, ["bread.md"], "The crumb of a loaf")


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"id": 1 << 40}, 400),
        ({"id": -1}, 422),
        ({"id": "../secret.png"}, 422),
        ({"path": "img/crumb.jpg"}, 422),
        ({"id": 0, "size": 100_000}, 422),
    ],
)
def test_nothing_else(server: Server, parameters: dict[str, Any], status: int) -> None:
    assert server.client.get("/picture", params=parameters).status_code == status


def test_the_rules_are_those_of_notes(server: Server, hits: dict[str, Any]) -> None:
    address, bread = f"{server.url}/picture?id={hits['img/crumb.jpg']['id']}", hits["bread.md"]["id"]
    assert httpx2.get(address).status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert httpx2.get(address, headers={**key, **headers}).status_code == 403
    refused = server.client.get("/picture", params={"id": bread})
    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/json")
    assert "is no picture in this index" in refused.json()["error"]["message"]


def test_the_page_shows_thumbnails(server: Server) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    faults: list[str] = []
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        page.goto(server.url)
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.locator("#status", has_text="notes in notes").wait_for()
        page.fill("#query", "crumb")
        page.locator("#hits li", has_text="img/crumb.jpg").locator("img").wait_for()
        height = "async img => { await img.decode(); return img.naturalHeight; }"
        assert page.locator(".thumb[src^='blob:']").evaluate(height) == 240
        page.locator("#hits li", has_text="img/crumb.jpg").click()
        assert page.locator("#picture[src^='blob:']").evaluate(height) == 600
        assert page.locator("#picture").get_attribute("alt") == "The crumb of a loaf"
        page.locator("#hits li", has_text="bread.md:").click()
        page.locator("#noteTitle", has_text="Bread").wait_for()
        assert page.locator("#picture").count() == 0
        browser.close()
    assert faults == []


def test_agents_and_terminals(home: Path) -> None:
    with Index(home / "notes.db", create=False) as index:
        notes = tools.Notes(index)
        text, data = tools.tool("search_notes").run(notes, {"query": "crumb", "mode": "words"})
        assert "A picture, shown in bread.md" in text
        assert [hit["shown_in"] for hit in data["hits"] if hit["picture"]] == [["bread.md"]]
        text, _ = tools.tool("get_note").run(notes, {"path": "img/crumb.jpg"})
        assert "What notes say of it:\n\nThe crumb of a loaf" in text
    done = run("search", "crumb", "--mode", "words", "--no-sync", "--index", home / "notes.db")
    assert "img/crumb.jpg  " in done.stdout
    assert "(picture in bread.md) The crumb of a loaf" in done.stdout
