"""The server's page in a real browser: every way in, the keyboard alone, errors, phones, both themes."""

import base64
import contextlib
import io
import re
import shutil
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import residual
from residual.zoo.facts import model_facts
from residual.zoo.pretrained import find_model

app = pytest.importorskip("residual.serving.app", reason="needs the extra serve")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
from residual.serving.limits import Limits  # noqa: E402 - once it is known that it can be imported
from residual.serving.server import create_server, listen  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser in PATH")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW = 60_000  # ms; a browser takes long to start where the cores are busy
sync_api.expect.set_options(timeout=SLOW / 2)


@contextlib.contextmanager
def serve(classifiers):
    """Serve models by name as `residual serve` does, in a thread; give the address."""
    limits, ready = Limits(body_bytes=1_000_000), threading.Event()
    facts = {name: model_facts(find_model(name)) for name in classifiers}
    server = create_server(app.create_app(classifiers, facts=facts, limits=limits), limits, ready.set)
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            assert ready.wait(60)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def classifiers():
    return {name: residual.Classifier(name, device="cpu") for name in ("resnet20", "resnet44")}


@pytest.fixture(scope="module")
def address(classifiers):
    with serve(classifiers) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=2 * SLOW)
        yield launched
        launched.close()


class Watch:
    """What a page does that it should not: requests to others, errors, violations of the policy."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.requests, self.errors = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.note(message))

    def note(self, message):
        """Keep errors and warnings, but for the browser's own line on an answer that is an error."""
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def sent(self, path):
        return [url for url in self.requests if urlsplit(url).path == path]

    def check(self):
        assert self.errors == []
        assert [u for u in self.requests if not u.startswith((self.address, "data:", "blob:"))] == []
        assert self.page.evaluate("window.violations") == []


@pytest.fixture
def visit(browser, address):
    """Open the page: `page, watch = visit(viewport=..., color_scheme=...)`."""
    with contextlib.ExitStack() as stack:

        def opened(before=lambda page: None, **options):
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(SLOW)
            page.add_init_script(
                "window.violations = []; document.addEventListener('securitypolicyviolation',"
                " (event) => window.violations.push(event.violatedDirective + ' ' + event.blockedURI))"
            )
            watch = Watch(page, address)
            stack.callback(watch.check)
            before(page)
            page.goto(address)
            return page, watch

        yield opened


def picture(seed, side=48):
    """A PNG in bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def payload(content, name="pet.png", kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content}


def wait(page, selector, text=""):
    """Wait until an element is there, to be seen and with a text; quicker than the polling of `expect`."""
    page.locator(selector).filter(has_text=text).wait_for()


def give(page, content, **options):
    """Choose a file, and wait for its classes."""
    page.set_input_files("#file", payload(content, **options))
    wait(page, "#status", "most likely")


def shown(page):
    """The classes and probabilities that the page shows."""
    rows = page.locator("#classes .class").all()
    return [(row.locator(".name").inner_text(), row.locator(".chance").inner_text()) for row in rows]


def expected(classify, content):
    shares = {found.class_name: found.probability for found in classify(content, top=5)}
    return [
        (name, f"{100 * share:.1f}\u00a0%" if share >= 0.001 else "<\u00a00.1\u00a0%")
        for name, share in shares.items()
    ]


def heat(page):
    """The heat map that is drawn, as a data URL; None if there is none to be seen."""
    drawn = page.locator("#heat")
    return drawn.evaluate("(canvas) => canvas.toDataURL()") if drawn.is_visible() else None


def with_file(page, content, name="pet.png"):
    """A DataTransfer in the page that holds a file."""
    return page.evaluate_handle(
        """([text, name]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "image/png" }));
            return data;
        }""",
        [base64.b64encode(content).decode(), name],
    )


def test_a_chosen_image(visit, classifiers):
    page, watch = visit()
    name = "<img src=x onerror=alert(1)>.png"
    give(page, picture(0), name=name)
    assert shown(page) == expected(classifiers["resnet20"], picture(0))
    bars = page.locator(".bar i").evaluate_all("(all) => all.map((bar) => parseFloat(bar.style.width))")
    assert bars == pytest.approx(
        [100 * chance for _, chance in classifiers["resnet20"](picture(0))], abs=0.01
    )
    assert name in page.locator("#caption").inner_text()
    assert page.locator("#image").evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    assert heat(page)
    assert len(watch.sent("/explain")) == 1


def test_a_dropped_image(visit, classifiers):
    page, _ = visit()
    data = with_file(page, picture(1))
    page.dispatch_event("body", "dragover", {"dataTransfer": data})
    assert "dragging" in page.locator("body").get_attribute("class")
    page.dispatch_event("#about", "drop", {"dataTransfer": data})
    wait(page, "#status", "most likely")
    assert "dragging" not in page.locator("body").get_attribute("class")
    assert shown(page) == expected(classifiers["resnet20"], picture(1))
    page.dispatch_event("body", "drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})
    wait(page, "#problem-text", "That was no file")


def test_an_image_pasted_before_the_model_is_known(visit, classifiers):
    held = []
    page, _ = visit(lambda page: page.route("**/model", lambda route: held.append(route)))
    paste = """(data) => document.body.dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }))"""
    with_file(page, picture(2)).evaluate(paste)
    wait(page, "#status", "Classifying pet.png")
    held[0].continue_()
    wait(page, "#status", "most likely")
    assert shown(page) == expected(classifiers["resnet20"], picture(2))


def test_another_model_classifies_the_same_image(visit, classifiers):
    page, _ = visit()
    give(page, picture(3))
    page.get_by_label("Model", exact=True).select_option("resnet44")
    wait(page, "#intro", "resnet44")
    wait(page, "#status", "most likely")
    assert shown(page) == expected(classifiers["resnet44"], picture(3))
    facts = page.locator("#facts").inner_text()
    error = model_facts(find_model("resnet44")).error
    assert f"{error:.1f} %" in facts
    assert "on 10,000 test images" in facts
    page.locator("summary").click()
    assert page.locator("#class-names li").all_inner_texts() == list(classifiers["resnet44"].class_names)


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()")


def press(page, key):
    """Press a key; return what has the focus then, which must be seen."""
    page.keyboard.press(key)
    outline = page.evaluate(
        "getComputedStyle(document.activeElement.closest('.button') ?? document.activeElement).outlineStyle"
    )
    assert outline != "none" or focused(page) == "body"
    return focused(page)


def test_the_keyboard_alone(visit):
    page, _ = visit()
    wait(page, "#about")
    with page.expect_file_chooser() as chooser:  # early: the browser is told of it without waiting
        assert [press(page, "Tab"), press(page, "Tab")] == ["model", "file"]
        page.keyboard.press("Enter")
    chooser.value.set_files(payload(picture(4)))
    wait(page, "#status", "most likely")
    assert focused(page) == "file", "where it was, so that the next Tab goes to the result"
    press(page, "Tab")
    chosen = "document.querySelector('#classes input:checked').value"
    assert page.evaluate("document.activeElement.value") == page.evaluate(chosen) == "0"
    first = heat(page)
    press(page, "ArrowDown")
    assert page.evaluate(chosen) == "1"
    assert heat(page) != first
    assert press(page, "Tab") == "show"
    press(page, "Space")
    assert heat(page) is None
    press(page, "Space")
    assert heat(page)
    assert press(page, "Tab") == "strength"
    before = page.locator("#heat").evaluate("(canvas) => Number(canvas.style.opacity)")
    press(page, "ArrowLeft")
    assert page.locator("#heat").evaluate("(canvas) => Number(canvas.style.opacity)") < before
    assert press(page, "Tab") == "class-count"
    press(page, "Enter")
    assert press(page, "Tab") == "class-list"
    assert press(page, "Tab") == "body", "out of the page: no trap"


def test_images_that_cannot_be_classified(visit):
    page, watch = visit()
    cases = {
        "pet.jpg: it is no image": b"only text",
        "pet.jpg: the image is damaged: ": picture(0, 400)[:600],
        "The image is too large: the server takes 1 MB at most.": bytes(1_000_001),
    }
    for says, content in cases.items():
        page.set_input_files("#file", payload(content, "pet.jpg", "image/jpeg"))
        wait(page, "[role=alert]", says)
        assert page.locator("#result").is_hidden()
        assert page.get_by_role("button", name="Try again").is_hidden()
    assert len(watch.sent("/explain")) == 2, "what is too large is not sent"
    give(page, picture(0))
    assert page.locator("#problem").is_hidden()


def test_a_server_that_fails_for_a_while(visit):
    page, _ = visit(lambda page: page.route("**/model", lambda route: route.abort()))
    wait(page, "[role=alert]", "does not answer")
    page.unroute("**/model")
    again = page.get_by_role("button", name="Try again")
    again.click()
    wait(page, "#about")
    cases = {
        "again in 2 seconds": lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}),
        "server is busy": lambda route: route.fulfill(status=429),
        "failed with status 500": lambda route: route.fulfill(status=500),
        "does not answer": lambda route: route.abort(),
    }
    for says, fails in cases.items():
        page.route("**/explain?*", fails)
        again.click() if again.is_visible() else page.set_input_files("#file", payload(picture(5)))
        wait(page, "[role=alert]", says)
        page.unroute("**/explain?*")
    again.click()
    wait(page, "#status", "most likely")


def test_a_server_with_a_token(visit):
    def guard(route):
        allowed = route.request.headers.get("authorization") == "Bearer secret"
        route.continue_() if allowed else route.fulfill(status=401, json={"detail": "no token"})

    page, _ = visit(lambda page: page.route(re.compile("/(model|limits|explain)"), guard))
    box = page.get_by_label("access token")
    sync_api.expect(box).to_be_focused()
    box.fill("wrong")
    box.press("Enter")
    wait(page, "[role=alert]", "does not accept this token")
    box.fill("secret")
    box.press("Enter")
    wait(page, "#about")
    assert box.is_hidden()
    assert focused(page) == "file"
    assert page.locator("#problem").is_hidden()
    give(page, picture(0))


def test_of_two_images_the_later_counts(visit, classifiers):
    page, _ = visit()
    wait(page, "#about")
    held = []
    page.route("**/explain?*", lambda route: held.append(route), times=1)
    page.set_input_files("#file", payload(picture(6), "first.png"))
    wait(page, "#status", "Classifying first.png")
    with page.expect_event("requestfailed") as failed:
        give(page, picture(7), name="second.png")
    assert failed.value.failure == "net::ERR_ABORTED"
    assert shown(page) == expected(classifiers["resnet20"], picture(7))
    assert "waiting" not in page.locator("body").get_attribute("class")


def test_a_model_that_gives_no_evidence(visit, classifiers):
    def without(route):
        answer = route.fetch()
        values = answer.json()
        for model in values["models"]:
            model.update(explain=False, error=None, images=None)
        route.fulfill(response=answer, json=values)

    page, watch = visit(lambda page: page.route("**/model", without))
    wait(page, "#about")
    give(page, picture(8))
    assert shown(page) == expected(classifiers["resnet20"], picture(8))
    assert page.locator("#evidence").is_hidden()
    assert page.locator("#classes input").count() == 0
    assert "not known" in page.locator("#facts").inner_text()
    assert watch.sent("/explain") == []


def test_a_phone_has_no_horizontal_scroll(visit):
    page, _ = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    wait(page, "#about")
    assert page.get_by_label("Take a photograph").get_attribute("capture") == "environment"
    for content, name in ((picture(9), "x" * 200 + ".png"), (b"text", "a" * 200)):
        page.set_input_files("#camera", payload(content, name))
        sync_api.expect(page.locator("#status, #problem-text").filter(visible=True)).not_to_be_empty()
        page.wait_for_selector("body:not(.waiting)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#class-list").evaluate("(list) => list.scrollWidth <= list.clientWidth")


CONTRASTS = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, place) => sum + [0.2126, 0.7152, 0.0722][place] * value, 0);
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
    };
    const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
        && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
    return texts.map((element) => {
        const pair = [light(getComputedStyle(element).color), light(behind(element))];
        return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.textContent];
    });
}"""


def test_both_themes_can_be_read(visit):
    papers = set()
    page, _ = visit(reduced_motion="reduce")
    give(page, picture(0))
    page.locator("summary").click()
    assert page.locator(".bar i").first.evaluate("(bar) => getComputedStyle(bar).transitionDuration") == "0s"
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 30
        assert [text for ratio, text in contrasts if ratio < 4.5] == []
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


def test_what_a_screen_reader_needs(visit):
    page, _ = visit()
    give(page, picture(0))
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, canvas, img")]
            .filter((element) => !(element.labels?.length || element.textContent.trim() || element.alt
                || element.ariaHidden))
            .map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title()
    levels = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((one) => Number(one.tagName[1]))")
    assert levels == [1, 2, 2, 2]
    assert page.locator("main, header").count() == 2
    ids = page.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    best = shown(page)[0]
    assert f"most likely {best[0]} {best[1]}" in page.get_by_role("status").inner_text()
    radio = page.get_by_role("radio").first
    assert radio.evaluate("(one) => one.labels[0].innerText").split("\n")[:2] == list(best)
    assert f"evidence for {best[0]}" in page.get_by_role("img").get_attribute("alt")
    page.get_by_label("Show what speaks").uncheck()
    assert "evidence" not in page.get_by_role("img").get_attribute("alt")
