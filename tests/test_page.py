"""The page in a real browser: served, and as a site without a server. Screenshots are left in build/screenshots."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from serving import serving

from smidgen.api import compress_by_plan
from smidgen.facts import facts_of
from smidgen.photos import photographs
from smidgen.pipeline import with_program
from smidgen.plan import Plan
from smidgen.read import read_model
from smidgen.report.about_a_file import Beside, report_on
from smidgen.run.native import Native
from smidgen.run.pictures import open_image, resized
from smidgen.run.recognizer import open_recognizer
from smidgen.web.networks import InCore, InFloat
from smidgen.web.samples import samples_of_packages
from smidgen.web.site import write_site

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet 1.1, made small by a plan."""
    path = tmp_path_factory.mktemp("network") / "small.smidgen"
    archive = compress_by_plan(read_model("squeezenet1_1"), Plan.find("small"))
    with_program(archive, list(photographs().values())).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    found = {}
    for name in ("cat", "coffee"):
        found[name] = folder / f"{name}.png"
        Image.fromarray(photographs()[name]).save(found[name])
    return found


@pytest.fixture(scope="module")
def served(file: Path) -> Iterator[str]:
    """The address of a page with both networks."""
    original = read_model("squeezenet1_1")
    data = file.read_bytes()
    networks = [InCore(data, original.labels, file.name, 2), InFloat(original, "squeezenet1_1", 4_941_984)]
    facts = json.dumps(facts_of(data, file.name, histograms=True)).encode()
    with serving(networks, samples_of_packages(), facts=facts) as port:
        yield f"http://127.0.0.1:{port}/"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain host of static files."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site that needs no server; a visitor needs 200,000 bytes beside the network at most."""
    folder = tmp_path_factory.mktemp("host") / "site"
    first, _whole = write_site(file, samples_of_packages(), folder)
    assert first - file.stat().st_size <= 200_000
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=host.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{host.server_port}/"
    host.shutdown()
    thread.join()
    host.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


def answers(page: Page, result: int = 0) -> list[list[tuple[str, float]]]:
    """Names and percents that each network gives, once they are there."""
    card = page.locator("#results > li").nth(result)
    card.locator(".answers li").first.wait_for()
    return [
        [
            (line.locator(".class").inner_text(), float(line.locator(".score").inner_text().rstrip(" %")))
            for line in network.locator(".answers li").all()
        ]
        for network in card.locator(".network").all()
    ]


def told_map(file: Path, photo: Path) -> list[float]:
    """Where the network of a file looks, by the engine itself."""
    network = Native(file.read_bytes(), 1)
    height, width = network.shape[2:]
    return network.explained(resized(open_image(photo), height, width, network.resample).tobytes())[1]


def kept(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def give(page: Page, event: str, holder: str, content: bytes, name: str) -> None:
    """Drops or pastes a file, as the browser tells it."""
    page.evaluate(
        """([event, holder, bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            const given = holder === "clipboardData"
                ? new ClipboardEvent(event, {clipboardData: transfer, bubbles: true})
                : new DragEvent(event, {dataTransfer: transfer, bubbles: true, cancelable: true});
            document.getElementById("drop").dispatchEvent(given);
        }""",
        [event, holder, list(content), name],
    )


def test_a_dropped_picture_is_answered_by_both(
    browser: Browser, served: str, file: Path, photos: dict[str, Path]
) -> None:
    wanted = open_recognizer(file).recognize(photos["coffee"])
    with Visit(browser, served) as visit:
        give(visit.page, "drop", "dataTransfer", photos["coffee"].read_bytes(), "coffee.png")
        small, original = answers(visit.page)
        assert small == [(a.label.name, pytest.approx(100 * a.score, abs=0.06)) for a in wanted]
        assert len(original) == 5
        assert small[0][0] == original[0][0] == "espresso"
        expect(visit.page.locator(".verdict")).to_have_text("Both say espresso.")
        expect(visit.page.locator("#status")).to_have_text("coffee.png: Both say espresso.")
        expect(visit.page.locator(".cost").first).to_contain_text(f"{file.stat().st_size:,} bytes · ")
        maps = visit.page.locator("canvas.map")
        assert maps.count() == 2
        assert re.match(r".* looked mostly at the ", maps.first.get_attribute("aria-label"))
        opacity = visit.page.evaluate(
            """() => {
                const canvas = document.querySelector("canvas.map");
                const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                return [...pixels].filter((_, place) => place % 4 === 3);
            }"""
        )
        values = np.array(told_map(file, photos["coffee"]))
        dark = 140 * (1 - (values - values.min()) / np.ptp(values))  # where it looked most, nothing is darkened
        assert np.array(opacity) == pytest.approx(dark, abs=2)
        visit.page.get_by_label("Show where the network looked").uncheck()
        expect(maps.first).to_be_hidden()
        kept(visit.page, "dropped")
        assert visit.wrong == []
        assert all(address.startswith((served, "blob:")) for address in visit.asked)


def test_several_pictures_and_a_pasted_one(browser: Browser, served: str, photos: dict[str, Path]) -> None:
    with Visit(browser, served) as visit:
        visit.page.set_input_files("#choose", list(photos.values()))
        expect(visit.page.locator(".answers")).to_have_count(4)
        give(visit.page, "paste", "clipboardData", photos["cat"].read_bytes(), "")
        expect(visit.page.locator(".answers")).to_have_count(6)
        expect(visit.page.locator("#results h3")).to_have_text(["pasted picture", "cat.png", "coffee.png"])
        assert answers(visit.page, 0) == answers(visit.page, 1)


@pytest.mark.parametrize("where", ["served", "site"])
def test_a_file_that_is_no_picture_is_refused(where: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    with Visit(browser, request.getfixturevalue(where)) as visit:
        give(visit.page, "drop", "dataTransfer", b"not a picture at all", "letter.txt")
        verdict = visit.page.locator(".verdict.error")
        expect(verdict).to_contain_text(re.compile("no picture|not a picture"))
        kept(visit.page, f"refused-{where}")
        visit.page.get_by_role("button", name="coffee").click()  # and goes on
        assert answers(visit.page)[0][0][0] == "espresso"


@pytest.mark.parametrize("where", ["served", "site"])
def test_everything_can_be_done_by_keyboard(where: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    with Visit(browser, request.getfixturevalue(where)) as visit:
        page, press = visit.page, visit.page.keyboard.press

        def focused() -> str:
            return page.evaluate("document.activeElement.id || document.activeElement.querySelector('img')?.alt || ''")

        press("Tab")
        assert focused() == "pictures-tab"
        press("ArrowRight")
        assert focused() == "file-tab"
        expect(page.locator("#file table tbody tr").first).to_be_visible()
        press("ArrowRight")
        assert focused() == "pictures-tab"
        press("Tab")
        assert focused() == "choose"
        assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
        for _ in range(3):
            press("Tab")
            if focused() == "coffee":
                break
        assert focused() == "coffee"
        press("Enter")
        assert answers(page)[0][0][0] == "espresso"
        for _ in range(20):
            press("Tab")
            if focused() == "maps":
                break
        press("Space")
        expect(page.locator("canvas.map").first).to_be_hidden()


@pytest.mark.parametrize("where", ["served", "site"])
def test_it_fits_a_phone(where: str, browser: Browser, request: pytest.FixtureRequest, photos: dict[str, Path]) -> None:
    with Visit(browser, request.getfixturevalue(where), **PHONE) as visit:
        page = visit.page
        expect(page.get_by_text("take a photo")).to_be_visible()
        page.set_input_files("#photo", photos["cat"])
        answers(page)
        for view in ("pictures", "file"):
            page.locator(f"#{view}-tab").tap()
            expect(page.locator(f"#{view}")).to_be_visible()
            if view == "file":
                expect(page.locator("#file table")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            kept(page, f"phone-{where}-{view}")
            for target in page.locator("button:visible, .button:visible, label:visible").all():
                assert target.bounding_box()["height"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", ["served", "site"])
def test_nothing_stands_in_the_way_of_anybody(
    where: str, scheme: str, browser: Browser, request: pytest.FixtureRequest, photos: dict[str, Path]
) -> None:
    with Visit(browser, request.getfixturevalue(where), color_scheme=scheme) as visit:
        visit.page.set_input_files("#choose", list(photos.values()))
        answers(visit.page, 1)
        give(visit.page, "drop", "dataTransfer", b"text", "letter.txt")
        expect(visit.page.locator(".verdict.error")).to_be_visible()
        found = Axe().run(visit.page)
        kept(visit.page, f"{where}-{scheme}")
        assert found.violations_count == 0, found.generate_report()
        visit.page.locator("#file-tab").click()
        expect(visit.page.locator("#file table")).to_be_visible()
        found = Axe().run(visit.page)
        kept(visit.page, f"{where}-{scheme}-file")
        assert found.violations_count == 0, found.generate_report()


def test_the_second_view_shows_every_byte(browser: Browser, served: str, file: Path) -> None:
    with Visit(browser, served) as visit:
        visit.page.locator("#file-tab").click()
        rows = visit.page.locator("#file tbody tr")
        expect(rows.first).to_be_visible()
        facts = facts_of(file.read_bytes(), file.name)
        shown = [row.locator("td").nth(0).inner_text() for row in rows.all()]
        wanted = [t["stored"] for t in facts["tensors"]]
        wanted += [size for name, size in facts["sections"].items() if name != "payload"]
        assert [int(text.replace(",", "")) for text in shown] == wanted
        assert visit.page.locator("#file svg").count() >= 26  # a histogram for each layer
        assert visit.wrong == []


def test_the_site_answers_within_the_bytes_and_without_a_network(
    browser: Browser, site: str, file: Path, photos: dict[str, Path]
) -> None:
    wanted = open_recognizer(file).recognize(photos["cat"])
    with Visit(browser, site) as visit:
        transferred: list[int] = []
        visit.page.on("requestfinished", lambda request: transferred.append(request.sizes()["responseBodySize"]))
        visit.page.reload()
        visit.page.get_by_role("button", name="coffee").click()
        assert answers(visit.page)[0][0][0] == "espresso"
        assert sum(transferred) - file.stat().st_size <= 200_000  # beside a network of 500 KB 700 KB in all
        visit.context.set_offline(True)
        visit.page.set_input_files("#choose", photos["cat"])
        (found,) = answers(visit.page)
        # the browser's decoder and Pillow's agree on a PNG, and so do both builds of the core
        assert found == [(a.label.name, pytest.approx(100 * a.score, abs=0.06)) for a in wanted]
        kept(visit.page, "offline")
        visit.page.get_by_role("button", name="rocket").click()
        expect(visit.page.locator(".verdict.error")).to_contain_text("out of reach")
        visit.page.locator("#file-tab").click()
        expect(visit.page.locator("#told")).to_contain_text("out of reach")
        visit.context.set_offline(False)
        visit.wrong = [said for said in visit.wrong if "ERR_INTERNET_DISCONNECTED" not in said]
        assert visit.wrong == []
        assert all(address.startswith((site, "blob:")) for address in visit.asked)


def test_a_picture_beyond_the_limits_of_a_canvas_is_made_smaller(browser: Browser, site: str) -> None:
    stream = BytesIO()
    Image.fromarray(photographs()["coffee"]).resize((6000, 4000)).save(stream, "JPEG")
    with Visit(browser, site) as visit:
        visit.page.set_input_files(
            "#choose", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": stream.getvalue()}
        )
        assert answers(visit.page)[0][0][0] == "espresso"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_stands_in_the_way_of_nobody(
    scheme: str, browser: Browser, file: Path, photos: dict[str, Path], tmp_path: Path
) -> None:
    beside = Beside("squeezenet1_1", read_model("squeezenet1_1"), list(photos.values()), None, "photographs")
    page = report_on(file, tmp_path, beside, "the plan small", "reached: it")
    with Visit(browser, page.as_uri(), color_scheme=scheme) as visit:
        found = Axe().run(visit.page)
        kept(visit.page, f"report-{scheme}")
        assert found.violations_count == 0, found.generate_report()
        assert visit.wrong == []
        visit.page.set_viewport_size({"width": 360, "height": 740})
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
        kept(visit.page, f"report-{scheme}-phone")
        pdf = visit.page.pdf(path=SCREENSHOTS / f"report-{scheme}.pdf", prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", pdf)) < 8
        assert visit.asked == [page.as_uri()]
