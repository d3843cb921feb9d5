import base64
import io
import os
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from analysis import report
from analysis.harness.methods import MEASURED
from analysis.report import RESULTS
from analysis.report_page.page import page
from analysis.report_page.sections import COMMANDS, SUPPORT, measured_claims

pytestmark = pytest.mark.slow
CLAIMS = measured_claims(RESULTS)


class Seen(HTMLParser):
    """Tags that are open, headings, pictures, and whatever points elsewhere."""

    def __init__(self, html):
        super().__init__()
        self.open, self.images, self.elsewhere, self.ids, self.text = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.images.append(given)
        self.elsewhere += [
            given[k] for k in ("src", "href") if given.get(k, "").startswith(("http", "//", "file"))
        ]
        if tag not in ("img", "meta", "link", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def committed():
    return page(RESULTS)


def test_the_page_of_the_committed_results_is_whole(committed):
    seen = Seen(committed)
    assert seen.open == []
    pictures = list(RESULTS.glob("*/*.png"))
    assert len(seen.images) == len(pictures) > 5
    decoded = {
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        for image in seen.images
    }
    assert decoded == {file.read_bytes() for file in pictures}
    assert all(len(image["alt"]) > 20 for image in seen.images)
    assert all(link.startswith("https://arxiv.org/") for link in seen.elsewhere)
    text = " ".join(seen.text)
    for number, section in enumerate((*CLAIMS, *SUPPORT), 1):
        assert f"s{number}" in seen.ids
        assert section.claim in text
    for folder in RESULTS.iterdir():
        if (folder / "summary.md").is_file():
            assert folder.name in text
    assert "<script" not in committed


def test_claims_are_shown_in_every_way_that_they_were_measured(tmp_path):
    for name in ("views", "views-vicreg", "views-photographs"):
        shutil.copytree(RESULTS / "views", tmp_path / name)
    text = " ".join(Seen(page(tmp_path)).text)
    assert "2. More views give features sooner, Barlow Twins" in text
    assert "3. More views give features sooner, VICReg" in text
    assert "4. More views give features sooner, Barlow Twins, photographs" in text
    assert "analysis/views.py --data-dir DIR --method vicreg" in text
    assert "Further" not in text
    assert "All seeds share one validation split" in text


def test_an_evaluated_run_shows_the_table_of_all_protocols(tmp_path):
    shutil.copytree(RESULTS / "digits", tmp_path / "digits")
    assert "All protocols" not in page(tmp_path)
    (tmp_path / "digits" / "comparison.md").write_text(
        "| | 10 labels |\n|---|---|\n| a: trained | 37.5 +- 1.1 |\n"
    )
    seen = Seen(page(tmp_path))
    assert {"10 labels", "a: trained", "37.5 ± 1.1"} < set(seen.text)


def test_results_that_are_not_there_are_said_not_to_be(tmp_path):
    text = " ".join(Seen(page(tmp_path)).text)
    assert "holds in part" not in text.partition("How it is judged")[0]
    further = {measured.ending[1:] for measured in MEASURED.values()} - {""}
    for folder, command in COMMANDS.items():
        assert command in text or folder.partition("-")[2] in further
    sections = len(CLAIMS) + len(SUPPORT)
    assert text.count("not measured yet") >= 2 * sections


def test_summaries_are_shown_as_text_never_as_html(tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "summary.md").write_text(
        "Xeon <b>; torch 9; commit abc; 2030-01-02\n\n# Title <script>alert(1)</script>\n\n"
        "| a | b |\n|---|---|\n| 1 & 2 | `<i>` |\n\n![picture](https://example.org/x.png)\n"
    )
    Image.new("RGB", (4, 3)).save(tmp_path / "views" / "views.png")
    (tmp_path / "README.md").write_text(
        "| folder | command |\n|---|---|\n| `views/` | `run <it> & see` |\n"
    )
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "notes.md").write_text("Noted: *so*.\n")
    html = page(tmp_path)
    seen = Seen(html)
    assert seen.open == []
    text = " ".join("".join(seen.text).split())
    for said in (
        "Measured on: CIFAR-10. Xeon <b>; torch 9; commit abc; 2030-01-02.",
        "Title <script>alert(1)</script>",
        "1 & 2",
        "run <it> & see",
        "Further: other",
        "Noted: so.",
    ):
        assert said in text
    assert "<script" not in html and "<b>" not in html
    assert [image["src"][:22] for image in seen.images] == ["data:image/png;base64,"]


def test_the_command_writes_the_page(tmp_path, capsys):
    assert report.main(["--to", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'page.html'}\n"


@pytest.mark.parametrize(
    "flags", [["--results", "nowhere"], ["--to", "file/page.html"], ["--results", "broken"]]
)
def test_bad_input_is_one_line(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "broken" / "digits").mkdir(parents=True)
    (tmp_path / "broken" / "digits" / "result.json").write_text("{")
    assert report.main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


# In a browser

LOOK = """() => {
  const wide = document.documentElement.clientWidth, problems = [];
  if (document.documentElement.scrollWidth > wide) problems.push("the page scrolls sideways");
  for (const image of document.images) {
    const unseen = !image.complete || image.naturalWidth === 0;
    const right = image.getBoundingClientRect().right;
    if (unseen) problems.push("a picture is not loaded: " + image.alt);
    if (right > wide) problems.push("a picture is too wide: " + image.alt);
    if (!image.alt) problems.push("a picture has no words");
  }
  for (const table of document.querySelectorAll("table")) {
    const right = table.getBoundingClientRect().right;
    if (right > wide && !table.closest(".scroll")) problems.push("a table is cut off");
  }
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const read = "p, td, th, a, span, h1, h2, h3, summary, figcaption, code";
  for (const part of document.querySelectorAll(read)) {
    let below = part;
    const clear = () => getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)";
    while (below.parentElement && clear()) below = below.parentElement;
    const text = getComputedStyle(part).color, behind = getComputedStyle(below).backgroundColor;
    const pair = [light(text), light(behind)];
    const contrast = Math.max(...pair) / Math.min(...pair);
    const of = `${part.tagName} ${part.className}`;
    if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(1)} of ${of}`);
  }
  return problems;
}"""


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    binary = next((path for path in map(shutil.which, names) if path), None)
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium; .ci/system-packages installs it where CI is true")
        pytest.skip("no Chromium to look at the page in (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, timeout=120_000)
        yield browser
        browser.close()


def looked_at(browser, file, width, scheme="light"):
    """(problems, the page) as it is shown at a width."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on(
        "console",
        lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None,
    )
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri(), wait_until="load")
    problems += [
        f"asks for {url[:80]}"
        for url in asked
        if not url.startswith("data:") and url != file.as_uri()
    ]
    return problems + page.evaluate(LOOK), page


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_fine_in_a_browser(committed, chromium, tmp_path, width, scheme):
    file = tmp_path / "report.html"
    file.write_text(committed)
    problems, shown = looked_at(chromium, file, width, scheme)
    assert problems == []
    assert shown.locator("h1").all_inner_texts() == ["effssl: the claims, measured"]
    headings = shown.locator("h2").all_inner_texts()
    assert [h.partition(". ")[2] for h in headings[: len(CLAIMS)]] == [
        section.heading for section in CLAIMS
    ]
    assert shown.locator("img").count() == len(list(RESULTS.glob("*/*.png")))
    boxes = "[...document.querySelectorAll('.scroll')]"
    wider = shown.evaluate(f"{boxes}.filter(b => b.scrollWidth > b.clientWidth).length")
    assert wider > 0 or width > 375  # a table wider than a phone scrolls in its box
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    shown.locator("a[href='#s5']").click()
    assert (
        shown.evaluate("Math.abs(document.querySelector('#s5').getBoundingClientRect().top)") < 400
    )
    shown.close()


def test_looking_finds_what_is_wrong(chromium, tmp_path):
    stored = io.BytesIO()
    Image.new("RGB", (600, 5)).save(stored, "png")
    picture = base64.b64encode(stored.getvalue()).decode()
    file = tmp_path / "broken.html"
    file.write_text(
        '<body style="background: white">'
        f'<img alt="x" src="data:image/png;base64,{picture}"><img alt="y" src="no.png">'
        '<p style="color: #ddd">pale</p><table style="width: 900px"><tr><td>wide</td></tr></table>'
        "<script>console.error('said'); thrown()</script>"
    )
    problems, shown = looked_at(chromium, file, 375)
    shown.close()
    for part in (
        "sideways",
        "too wide",
        "not loaded",
        "cut off",
        "contrast",
        "console: said",
        "error: ",
        "asks for",
    ):
        assert any(part in problem for problem in problems), part
