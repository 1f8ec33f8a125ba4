# SPDX-License-Identifier: Apache-2.0
"""The page of `hf-sidenet demo`, in a real browser."""

import csv
import io
import json
import re
import shutil

import pytest
from playwright.sync_api import expect

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.inference import SideNetRunner

from ..attached import CLASSES, pictures, sentences
from .browser import chromium, serving


pytestmark = pytest.mark.slow
# Of a machine that is busy with other tests.
expect.set_options(timeout=30_000)
ELSEWHERE = re.compile(r"^(?!data:|blob:|http://127\.0\.0\.1:)")
TEXT = "a film of great charm , so good"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(checkpoint, browser):
    with serving(checkpoint, "--example", TEXT, "--title", "Good or bad?") as server:
        yield server.address


@pytest.fixture(scope="module")
def test_rows():
    return sentences()["test"]


@pytest.fixture
def page(browser, address):
    found = browser.new_page(viewport={"width": 1200, "height": 900})
    asked = []
    found.on("request", lambda request: asked.append(request.url))
    found.goto(address)
    expect(found.get_by_role("heading", name="Good or bad?")).to_be_visible(timeout=60_000)
    yield found
    found.close()
    assert asked
    assert [url for url in asked if ELSEWHERE.match(url)] == []


def dial(page):
    return page.get_by_role("slider", name="Setting of θ, from careful to fast")


def ask(page, text):
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Answer", exact=True).click()


def test_the_slider_moves_and_the_answer_changes(page):
    ask(page, TEXT)
    answer, theta = page.locator("#answer"), page.locator("#theta")
    expect(answer).to_contain_text(re.compile("|".join(CLASSES)))
    expect(theta).to_contain_text("as this checkpoint was published")
    curve = page.get_by_role("img", name="Accuracy against mean FLOPs per row, on 80 test rows")
    before = curve.get_attribute("src")
    dial(page).fill("0")
    expect(answer).to_contain_text("MainNet answered, all 4 blocks")
    expect(answer).to_contain_text("Nothing saved")
    expect(theta).to_contain_text("θ = 1.")
    expect(theta).to_contain_text(re.compile(r"at 1\.0\d of the MainNet's FLOPs"))
    expect(page.get_by_role("img", name="The current θ is at")).not_to_have_attribute("src", before)
    dial(page).fill(dial(page).get_attribute("max"))
    expect(answer).to_contain_text("SideNet 0 answered")
    expect(answer).to_contain_text("of the FLOPs saved")
    # The exits that did not run say what they would have said.
    expect(answer.get_by_role("row", name="MainNet did not run")).to_be_visible()


def test_an_example_is_clicked(page):
    page.get_by_role("button", name=TEXT).click()
    expect(page.get_by_label("Text", exact=True)).to_have_value(TEXT)


def test_nothing_typed(page):
    ask(page, "  ")
    expect(page.get_by_text("Type something first: the text is empty.")).to_be_visible()


HTML = "<img src=x onerror=alert(1)>"


def test_html_is_text(browser, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "named")
    config = json.loads((folder / "config.json").read_text())
    names = {"0": f"bad {HTML}", "1": f"good {HTML}"}
    for each in (config, config["mainnet_config"]):
        each["id2label"], each["label2id"] = names, {name: int(index) for index, name in names.items()}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.csv").write_text(f"{HTML},label\na,b\n")
    with serving(folder) as server:
        page = browser.new_page()
        page.goto(server.address)
        page.get_by_label("Text", exact=True).fill(f"{HTML} good", timeout=60_000)
        page.get_by_role("button", name="Answer", exact=True).click()
        expect(page.locator("#answer .sidenet-label")).to_contain_text(HTML)
        page.get_by_role("tab", name="A file").click()
        page.locator("#table input[type=file]").set_input_files(tmp_path / "rows.csv")
        expect(page.locator("#table").get_by_role("cell", name="rows.csv")).to_be_visible()
        page.get_by_role("button", name="Answer all").click()
        expect(page.get_by_text(f"content; got '{HTML}', 'label'.")).to_be_visible()
        assert page.locator("img[src='x']").count() == 0
        page.close()


def test_a_file_of_rows(page, checkpoint, test_rows, tmp_path):
    path = tmp_path / "rows.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        # Classes by name and by index.
        named = [CLASSES[row["label"]] if i % 2 else row["label"] for i, row in enumerate(test_rows)]
        writer.writerows([i, row["text"], name] for i, (row, name) in enumerate(zip(test_rows, named, strict=True)))
    page.get_by_role("tab", name="A file").click()
    page.locator("#table input[type=file]").set_input_files(path)
    expect(page.locator("#table").get_by_role("cell", name="rows.csv")).to_be_visible()
    page.get_by_role("button", name="Answer all").click()
    summary = page.locator("#summary")
    expect(summary).to_contain_text("80 rows", timeout=60_000)
    with page.expect_download() as download:
        page.locator("#answers a").first.click()
    answers = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    model, tokenizer = load_checkpoint(checkpoint)
    expected = list(SideNetRunner(model, tokenizer).predict(test_rows["text"][:]))
    assert [row["id"] for row in answers] == [str(i) for i in range(80)]
    assert [row["predicted"] for row in answers] == [each.label for each in expected]
    names = [f"SideNet {i}" for i in range(len(model.config.exit_layers))] + ["MainNet"]
    assert [row["exit"] for row in answers] == [names[each.exit_index] for each in expected]
    assert {row["error"] for row in answers} == {""}
    right = sum(each.label == CLASSES[row["label"]] for each, row in zip(expected, test_rows, strict=True))
    expect(summary).to_contain_text(f"{right} of 80 right")


def test_a_bad_file(page, tmp_path):
    (tmp_path / "words.csv").write_text("words\na\n")
    page.get_by_role("tab", name="A file").click()
    page.locator("#table input[type=file]").set_input_files(tmp_path / "words.csv")
    expect(page.locator("#table").get_by_role("cell", name="words.csv")).to_be_visible()
    page.get_by_role("button", name="Answer all").click()
    expect(page.get_by_text("words.csv must have a header line with a column named one of")).to_be_visible()


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    ask(page, TEXT)
    expect(page.locator("#answer table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing in the table is hidden.
    box = page.locator(".sidenet-scroll").evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert box[0] <= box[1]


def test_everything_has_a_name(page):
    """For screen readers: what can be used, and what is shown."""
    ask(page, TEXT)
    expect(page.locator("#answer table")).to_be_visible()
    # In the order of the page; the parts of gradio's own that are not shown do not count.
    for role in ("slider", "spinbutton", "textbox", "button", "tab", "img", "table"):
        each = page.get_by_role(role)
        shown = [each.nth(i) for i in range(each.count()) if each.nth(i).is_visible()]
        assert shown, role
        for element in shown:
            assert re.search(rf'\b{role} ".', element.aria_snapshot()), (role, element.aria_snapshot())


def test_pictures(browser, image_checkpoint, tmp_path):
    rows = pictures()["test"]
    for i in range(3):
        rows[i]["image"].save(tmp_path / f"{i}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    model, processor = load_checkpoint(image_checkpoint)
    expected = list(SideNetRunner(model, processor).predict([rows[i]["image"] for i in range(3)]))
    with serving(image_checkpoint) as server:
        page = browser.new_page()
        page.goto(server.address)
        given = page.locator("#given input[type=file]")
        given.set_input_files(tmp_path / "0.png", timeout=60_000)
        expect(page.locator("#answer .sidenet-label")).to_have_text(expected[0].label, timeout=30_000)
        expect(page.get_by_role("img", name="the picture that was answered")).to_be_visible()
        page.get_by_role("tab", name="A file").click()
        page.locator("#table input[type=file]").set_input_files([tmp_path / f"{i}.png" for i in range(3)])
        expect(page.locator("#table").get_by_role("cell", name="2.png")).to_be_visible()
        page.get_by_role("button", name="Answer all").click()
        expect(page.locator("#summary")).to_contain_text("3 rows", timeout=30_000)
        with page.expect_download() as download:
            page.locator("#answers a").first.click()
        answers = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        assert [row["file"] for row in answers] == ["0.png", "1.png", "2.png"]
        assert [row["predicted"] for row in answers] == [each.label for each in expected]
        for name in ("cut.png", "text.png"):
            page.reload()
            given.set_input_files(tmp_path / name, timeout=60_000)
            expect(page.get_by_text(f"{name} cannot be read as a picture")).to_be_visible()
        page.close()
