"""The page that searches notes, in a headless Chromium."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mlx_jina.server import page as page_module
from tests.server.test_notes import KEY, NOTES, wait_for_vectors
from tests.support.process import Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    for name, text in {**NOTES, "emoji.md": "# Party\n\n" + "🎉" * 50 + " balloons and cake\n"}.items():
        (home / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "notes" / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        patch.setenv("MLX_JINA_URI", "http://editor.test/open?file={path}&line={line}")
        with Server("--index", home / "notes", "--api-key", KEY) as running:
            running.client.headers["Authorization"] = f"Bearer {KEY}"
            wait_for_vectors(running)
            yield running


def test_the_page_and_its_headers(notes: Server) -> None:
    """It has nothing secret, and asks for the key itself."""
    answer = httpx2.get(notes.url, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.content == page_module.FILE.read_bytes()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not {"unsafe-inline", "unsafe-eval", "*", "http:", "https:"} & set(re.split(r"[\s;']+", policy))
    assert "frame-ancestors 'none'" in policy
    assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == (
        "nosniff",
        "no-referrer",
    )
    # Ollama's clients ask whether their server runs.
    assert httpx2.get(notes.url).text == "Ollama is running"
    assert httpx2.head(notes.url).status_code == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert httpx2.get(notes.url, headers={"Accept": "text/html", **headers}).status_code == 403


def test_one_file_without_anything_from_elsewhere() -> None:
    text = page_module.FILE.read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|//[a-z]+\.|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text
    )
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=(?!\"data:,\")", text)
    assert not re.search(r"\son[a-z]+=", text.partition("<script>")[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        # The sandbox of a browser does not start as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def faults() -> list[str]:
    """What the page complained of."""
    return []


@pytest.fixture
def page(browser: Any, notes: Server, faults: list[str]) -> Iterator[Any]:
    """The page in a window of its own, with the key given."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
    opened.goto(notes.url)
    opened.fill("#key", KEY)
    opened.keyboard.press("Enter")
    opened.locator("#status", has_text="5 notes in notes").wait_for()
    yield opened
    context.close()


def found(page: Any) -> list[str]:
    page.locator("#status", has_text="words and meaning").wait_for()
    return [text.partition(":")[0] for text in page.locator("#hits .where").all_inner_texts()]


def test_search_as_you_type(page: Any, faults: list[str]) -> None:
    asked: list[dict[str, Any]] = []

    def record(request: Any) -> None:
        if request.method == "POST":
            asked.append(request.post_data_json)

    page.on("request", record)
    page.keyboard.type("feed the star", delay=20)
    assert found(page)[0] == "bread.md"
    assert page.locator("#hits mark").all_inner_texts()[:3] == ["Feed", "the", "starter"]
    # Words with every key, meaning once nobody types any more.
    assert [each["mode"] for each in asked].count("hybrid") < 4 < [each["mode"] for each in asked].count("words")
    assert asked[-1] == {"query": "feed the star", "mode": "hybrid", "limit": 30, "prefix": True}
    page.fill("#query", "vehicle maintenance")
    page.locator("#hits li").first.filter(has_text="garage/car.md").wait_for()
    page.fill("#query", "")
    page.locator("#status", has_text="5 notes in notes").wait_for()
    assert page.locator("#hits li").count() == 0
    assert faults == []


def test_keys_notes_and_neighbours(page: Any, faults: list[str]) -> None:
    page.keyboard.type("starter flour")
    assert found(page)[0] == "bread.md"
    page.keyboard.press("ArrowDown")
    page.locator("#noteTitle", has_text="Sourdough").wait_for()
    page.locator("#text mark", has_text="Feed the starter with flour every day.").wait_for()
    # Soup has a link to it, and is no news.
    page.locator("#near li", has_text="garage/car.md").wait_for()
    assert page.locator("#near li", has_text="kitchen/soup.md").count() == 0
    assert page.locator("[aria-selected=true]").get_attribute("id") == "hit0"
    page.keyboard.press("ArrowDown")
    assert page.locator("[aria-selected=true]").get_attribute("id") == "hit1"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    page.locator("#status", has_text="5 notes in notes").wait_for()
    assert page.locator("#query").input_value() == ""
    page.locator("#near li").first.click()
    page.locator("#query").blur()
    page.keyboard.press("/")
    assert page.evaluate_handle("document.activeElement").get_property("id").json_value() == "query"
    assert faults == []


def test_enter_opens_the_program_of_the_note(page: Any, faults: list[str]) -> None:
    page.keyboard.type("starter flour")
    assert found(page)[0] == "bread.md"
    page.route("http://editor.test/**", lambda route: route.fulfill(body="opened"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"^http://editor\.test/open\?file=/.*/notes/bread\.md&line=4$"))
    assert faults == []


def test_notes_are_text_whatever_is_in_them(page: Any, faults: list[str]) -> None:
    page.keyboard.type("script alert")
    assert "evil.md" in found(page)
    page.locator("#hits li", has_text="evil.md").click()
    page.locator("#noteTitle", has_text="<img src=x onerror=alert(1)>").wait_for()
    page.locator("#text", has_text="</script><script>alert(2)</script>").wait_for()
    assert page.locator("#hits img, #note img, #note script").count() == 0
    # JavaScript counts an emoji twice.
    page.fill("#query", "balloons")
    page.locator("#hits li", has_text="emoji.md").click()
    page.locator("#text mark", has_text="balloons and cake").wait_for()
    assert page.locator("#hits mark").first.inner_text() == "balloons"
    assert faults == []


def test_the_map(page: Any, faults: list[str]) -> None:
    page.keyboard.type("oil")
    found(page)
    page.keyboard.press("Alt+m")
    page.locator("#legend", has_text="kitchen").wait_for()
    pixels = """canvas => {
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return data.filter((value, n) => n % 4 === 3 && value).length; }"""
    assert page.locator("canvas").evaluate(pixels) > 100
    box = page.locator("canvas").bounding_box()
    places = {place["path"]: place for place in page.evaluate("places")}
    x, y = page.evaluate("path => where(places.find(place => place.path === path))", "garage/car.md")
    assert places.keys() == {*NOTES, "emoji.md"}
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.locator("#tip", has_text="garage/car.md").wait_for()
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.locator("#noteTitle", has_text="Car").wait_for()
    assert faults == []


def test_every_width_in_light_and_dark(page: Any, faults: list[str]) -> None:
    page.keyboard.type("oil")
    found(page)
    for width, scheme in itertools.product((400, 799, 800, 1400), ("light", "dark")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.locator("#hits li").first.click()
        page.locator("#noteTitle", has_text="Car").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colour = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert (int(re.findall(r"\d+", colour)[0]) < 128) == (scheme == "dark")
        if width < 800:
            # The note covers the hits, until Back.
            page.locator("#back").click()
            page.locator("#noteTitle").wait_for(state="hidden")
            page.locator("#showMap").click()
            page.locator("#backFromMap").click()
    assert faults == []


def test_without_the_key(browser: Any, notes: Server) -> None:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(notes.url)
    opened.locator("#ask").wait_for()
    opened.fill("#key", "wrong")
    opened.keyboard.press("Enter")
    opened.locator("#status.bad", has_text="needs its API key").wait_for()
    context.close()
