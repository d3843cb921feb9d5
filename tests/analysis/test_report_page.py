import base64
import csv
import io
import itertools
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

ANALYSIS = Path(__file__).parent.parent / "analysis"
sys.path.insert(0, str(ANALYSIS))

import claim_rules  # noqa: E402
import report  # noqa: E402
import report_sections  # noqa: E402
import support_rules  # noqa: E402
import verdicts  # noqa: E402

EXACT = (0.0, 0.001, -0.001)  # what three seeds differ by, in [0, 1]: intervals of half a point
NOISY = (0.0, 0.05, -0.05)


def write(results, name, rows):
    file = results / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def seeds(spread, linear, **others):
    return [{**others, "seed": seed, "linear": linear + off} for seed, off in enumerate(spread)]


def outcomes(judge, results):
    return [part.outcome for part in verdicts.decide(results, [judge]).parts]


# Intervals and how parts make a verdict


def test_the_interval_is_student_s():
    values = [0.3, 1.2, 0.8, 2.0]
    mean, low, high = verdicts.interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((1.075, expected.low, expected.high))
    below = pytest.approx(low)
    assert low == below and verdicts.answer(values, low - 1e-6) == "yes"
    assert verdicts.answer(values, low + 1e-6) == verdicts.answer(values, high - 1e-6) == "open"
    assert verdicts.answer(values, high + 1e-6) == "no"
    assert verdicts.answer([5.0], 0) == "open"  # one seed says nothing of the next


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ("yes yes", "holds"),
        ("yes no", "holds in part"),
        ("yes open", "holds in part"),
        ("yes missing", "holds in part"),
        ("no open", "does not hold"),
        ("no missing", "does not hold"),
        ("open open", "not decided"),
        ("open missing", "not decided"),
        ("missing", "not measured yet"),
    ],
)
def test_parts_make_a_verdict(parts, verdict):
    made = [verdicts.Part("", outcome, "") for outcome in parts.split()]
    assert verdicts.decide(Path(), [lambda results: made]).verdict == verdict


def test_missing_files_columns_and_rows_are_one_line_each(tmp_path):
    write(tmp_path, "views/runs.csv", [{"views": 2, "epochs": 1, "seed": 0, "linear": 0.5}])
    write(tmp_path, "subset/runs.csv", [{"views": 2, "part": 1, "seed": 0, "linear": "", "encoded_views": 5}])
    seen = {
        judge.__name__: verdicts.decide(tmp_path, [judge])
        for judge in (claim_rules.views, claim_rules.subset, claim_rules.wallclock)
    }
    assert {verdict.verdict for verdict in seen.values()} == {"not measured yet"}
    said = {name: verdict.parts[0].seen for name, verdict in seen.items()}
    assert said == {
        "views": "views/runs.csv has no column seconds",
        "subset": "subset/runs.csv has no row with views, part, seed, linear, encoded_views",
        "wallclock": "wallclock/runs.csv is not there",
    }
    assert seen["wallclock"].parts[0].says == "The baseline's accuracy in at most half its seconds"


# Each claim's rule, on results made up for each outcome


def orthogonality_rows(gain, spread=EXACT, less=0.2):
    right = seeds(spread, 0.5 + gain, method="vicreg", dim=64, weight=40 / 64)
    wrong = seeds((0, 0, 0), 0.5, method="vicreg", dim=64, weight=0.4 / 64)
    untrained = seeds((0,), 0.9, method="", dim=64, weight="")
    rows = [r | {"z/off_diagonal": 0.5 - less + r["seed"] / 1000} for r in right]
    return rows + [r | {"z/off_diagonal": 0.5} for r in wrong] + [r | {"z/off_diagonal": 0.7} for r in untrained]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (orthogonality_rows(0.1), ["yes", "yes"]),
        (orthogonality_rows(-0.1), ["no", "yes"]),
        (orthogonality_rows(0.01, NOISY), ["open", "yes"]),
        (orthogonality_rows(0.1, less=-0.2), ["yes", "no"]),
        (orthogonality_rows(0.1)[:1], ["missing"]),
    ],
)
def test_orthogonality(tmp_path, rows, expected):
    write(tmp_path, "orthogonality/runs.csv", rows)
    assert outcomes(claim_rules.orthogonality, tmp_path) == expected


def projector_rows(small=0.0, spread=EXACT, seconds=50.0, fixed=-0.1):
    rows = []
    for dim, gap in ((64, -0.02), (256, small), (8192, 0.0)):
        rows += seeds(
            spread if dim == 256 else (0, 0, 0), 0.5 + gap, method="barlow_twins", dim=dim, weight=3.4 / dim,
            seconds=100.0 if dim == 8192 else seconds,
        )  # fmt: skip
    rows += seeds(EXACT, 0.48 + fixed, method="barlow_twins", dim=64, weight=3.4 / 8192, seconds=seconds)
    return rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (projector_rows(), ["yes", "yes", "yes"]),
        (projector_rows(-0.008), ["open", "yes", "yes"]),  # within a point, but the interval is not
        (projector_rows(-0.005), ["yes", "yes", "yes"]),
        (projector_rows(-0.05, seconds=120.0), ["no", "no", "yes"]),
        (projector_rows(0.0, NOISY), ["open", "yes", "yes"]),
        (projector_rows(fixed=0.1), ["yes", "yes", "no"]),
        (projector_rows()[3:9], ["yes", "yes", "missing"]),
        (projector_rows()[:3], ["missing"]),
    ],
)
def test_width(tmp_path, rows, expected):
    write(tmp_path, "projector/runs.csv", rows)
    assert outcomes(claim_rules.width, tmp_path) == expected


def views_rows(at_two, eight, spread=EXACT, seconds_of_eight=80):
    """K = 2 reaches `at_two` after 1, 2, 4 epochs of 20 seconds; K = 8 `eight` after one."""
    rows = [
        row
        for epochs, reached in zip((1, 2, 4), at_two, strict=True)
        for row in seeds((0, 0, 0), reached, views=2, epochs=epochs, seconds=20 * epochs)
    ]
    return rows + seeds(spread, eight, views=8, epochs=1, seconds=seconds_of_eight)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (views_rows((0.3, 0.4, 0.5), 0.6), "yes yes yes"),
        (views_rows((0.3, 0.4, 0.5), 0.45), "yes no no"),
        (views_rows((0.3, 0.4, 0.5), 0.45, seconds_of_eight=40 * 2**0.4), "yes no yes"),  # K = 2 has 0.44 then
        (views_rows((0.3, 0.4, 0.5), 0.45, seconds_of_eight=40 * 2**0.6), "yes no no"),  # and 0.46 here
        (views_rows((0.3, 0.4, 0.5), 0.5, NOISY), "yes open open"),
        (views_rows((0.3, 0.4, 0.5), 0.6)[:-2], "open open open"),
    ],
)
def test_views(tmp_path, rows, expected):
    write(tmp_path, "views/runs.csv", rows)
    assert outcomes(claim_rules.views, tmp_path) == expected.split() + ["missing"] * 3  # there is no K = 4


def test_views_compares_the_longest_runs_at_equal_encoded_views_and_seconds(tmp_path):
    rows = views_rows((0.3, 0.4, 0.5), 0.6)
    rows += seeds((0, 0, 0), 0.2, views=4, epochs=1, seconds=40)  # behind all of K = 2's
    rows += seeds(EXACT, 0.6, views=4, epochs=2, seconds=80)
    write(tmp_path, "views/runs.csv", rows)
    assert outcomes(claim_rules.views, tmp_path) == ["yes", "yes", "yes", "no", "yes", "yes"]


@pytest.mark.parametrize(
    ("on_all", "on_part", "eight", "encoded", "expected"),
    [
        (0.5, 0.4, 0.5, 1000, "yes yes"),
        (0.5, 0.4, 0.495, 1000, "yes yes"),
        (0.5, 0.4, 0.45, 1000, "no yes"),
        (0.6, 0.5, 0.45, 1000, "no no"),
        (0.5, 0.4, 0.5, 2000, "missing missing"),  # not at equal encoded views
    ],
)
def test_subset(tmp_path, on_all, on_part, eight, encoded, expected):
    rows = seeds((0, 0, 0), on_all, views=2, part=1.0, encoded_views=1000)
    rows += seeds((0, 0, 0), on_part, views=2, part=0.25, encoded_views=990)
    rows += seeds(EXACT, eight, views=8, part=0.25, encoded_views=encoded)
    write(tmp_path, "subset/runs.csv", rows)
    assert outcomes(claim_rules.subset, tmp_path) == [*expected.split(), "missing", "missing"]


def wallclock_rows(target, seconds, reached=(0.3, 0.4, 0.5), slow=400, count=3):
    rows = []
    for seed in range(count):
        off = 0.001 * seed
        rows.append({"name": f"bt_k2_d8192_w0.0008_f1_e4_s{seed}", "views": 2, "dim": 8192, "epochs": 4, "seed": seed})
        rows[-1] |= {"linear": target + off, "seconds": slow}
        for i, linear in enumerate(reached, 1):
            rows.append({"name": f"bt_k4_d256_f1_e{i}_s{seed}", "views": 4, "dim": 256, "epochs": i, "seed": seed})
            rows[-1] |= {"linear": linear, "seconds": seconds * i}
        other = f"bt_k4_d256_f1_e1_fast_s{seed}"
        rows.append({"name": other, "views": 4, "dim": 256, "epochs": 1, "seed": seed, "linear": 0.9, "seconds": 1})
    return rows


@pytest.mark.parametrize(
    ("rows", "expected", "said"),
    [
        (wallclock_rows(0.4, 50), "yes", "3.9"),  # has it at 100 s, or a little later
        (wallclock_rows(0.4, 150), "no", "1.3"),
        (wallclock_rows(0.4, 100), "open", "1.9"),  # 200 s to 202 s
        (wallclock_rows(0.2, 50), "yes", "at least 8"),
        (wallclock_rows(0.2, 300), "open", "at least 1.33"),  # an even shorter run might be fast enough
        (wallclock_rows(0.6, 50), "open", "at most 2.67"),  # it never has it
        (wallclock_rows(0.6, 200), "no", "at most 0.67"),
        (wallclock_rows(0.4, 50, count=1), "open", "one seed: no interval"),
        ([row for row in wallclock_rows(0.4, 50) if row["views"] == 4], "missing", "no seed has both"),
    ],
)
def test_wallclock(tmp_path, rows, expected, said):
    write(tmp_path, "wallclock/runs.csv", rows)
    (part,) = verdicts.decide(tmp_path, [claim_rules.wallclock]).parts
    assert part.outcome == expected
    assert said in part.seen


def test_the_theory_s_rules(tmp_path):
    spans = [
        {"loss": loss, "views": k, "seed": seed, "step": step, "span_error": error * (1 + 0.01 * seed) * 2 / k}
        for loss, last in (("Barlow Twins, all pairs", 0.004), ("VICReg", 0.05), ("SimCLR", 0.3))
        for k, seed, (step, error) in itertools.product((2, 8), range(3), ((0, 0.9), (800, last)))
    ]
    write(tmp_path, "theory/spans.csv", spans)
    assert outcomes(support_rules.spans, tmp_path) == ["yes", "yes", "no", "no", "yes"]
    rows = [
        {"at": "equal images", "eigenfunctions": 4, "views": k, "predicted": 1 / k, "measured": error}
        for k, error in ((2, 0.5), (4, 0.26), (8, 0.13))
    ]
    write(tmp_path, "theory/estimates.csv", [row | {"standard_error": 0.01} for row in rows])
    assert outcomes(support_rules.estimates, tmp_path) == ["yes", "yes"]
    rows[-1]["measured"] = 0.3
    write(tmp_path, "theory/estimates.csv", [row | {"standard_error": 0.01} for row in rows])
    assert outcomes(support_rules.estimates, tmp_path) == ["no", "no"]
    ranks = [("VICReg", 2.0, 2.1), ("VICReg", 4.0, 4.1), ("Barlow Twins", 2.0, 2.5), ("Barlow Twins", 4.0, 5.0)]
    write(
        tmp_path, "theory/ranks.csv", [dict(zip(("loss", "predicted", "learned"), row, strict=True)) for row in ranks]
    )
    assert outcomes(support_rules.ranks, tmp_path) == ["yes", "no"]


def test_the_other_rules(tmp_path):
    rows = [
        {"method": method, "dim": dim, "product": product, "seed": 0, "linear": 0.5 - abs(product - best) / 1000}
        for method, dim, best in (("barlow_twins", 64, 4), ("barlow_twins", 256, 64), ("vicreg", 64, 64))
        for product in (1, 4, 16, 64)
    ]
    write(tmp_path, "weight_rule/runs.csv", rows)
    assert outcomes(support_rules.weight_rule, tmp_path) == ["yes", "no", "yes"]
    costs = [("a", 0, 2, 10), ("a", 0, 8, 40), ("a", 1, 8, 90), ("b", 0, 2, 10), ("b", 0, 8, 60), ("b", 1, 8, 50)]
    costs += [("b", 0, 16, "nan")]
    names = ("loss", "loop", "views", "both_ms")
    write(tmp_path, "losses_cost/losses_cost.csv", [dict(zip(names, row, strict=True)) | {"dim": 8} for row in costs])
    assert outcomes(support_rules.losses_cost, tmp_path) == ["yes", "yes", "no", "no"]
    speeds = [("effssl", 2, 1), ("x", 2, 1.5), ("x", 4, 2), ("y", 2, 0.9), ("effssl", 0, 1)]
    names = ("loader", "views", "effssl_over_it")
    write(tmp_path, "throughput/throughput.csv", [dict(zip(names, row, strict=True)) | {"size": 32} for row in speeds])
    assert outcomes(support_rules.throughput, tmp_path) == ["yes", "no"]


# The page


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
        self.elsewhere += [given[k] for k in ("src", "href") if given.get(k, "").startswith(("http", "//", "file"))]
        if tag not in ("img", "meta", "link", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def committed():
    return report.page(ANALYSIS / "results")


def test_the_page_of_the_committed_results_is_whole(committed):
    seen = Seen(committed)
    assert seen.open == []
    pictures = list((ANALYSIS / "results").glob("*/*.png"))
    assert len(seen.images) == len(pictures) > 5
    decoded = {base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in seen.images}
    assert decoded == {file.read_bytes() for file in pictures}
    assert all(len(image["alt"]) > 20 for image in seen.images)
    assert all(link.startswith("https://arxiv.org/") for link in seen.elsewhere)
    text = " ".join(seen.text)
    for number, section in enumerate((*report_sections.CLAIMS, *report_sections.SUPPORT), 1):
        assert f"s{number}" in seen.ids
        assert section.claim in text
    for folder in (ANALYSIS / "results").iterdir():
        if (folder / "summary.md").is_file():
            assert folder.name in text
    assert "<script" not in committed


def test_an_evaluated_run_shows_the_table_of_all_protocols(tmp_path):
    shutil.copytree(ANALYSIS / "results" / "digits", tmp_path / "digits")
    assert "All protocols" not in report.page(tmp_path)
    (tmp_path / "digits" / "comparison.md").write_text("| | 10 labels |\n|---|---|\n| a: trained | 37.5 +- 1.1 |\n")
    seen = Seen(report.page(tmp_path))
    assert {"10 labels", "a: trained", "37.5 ± 1.1"} < set(seen.text)


def test_results_that_are_not_there_are_said_not_to_be(tmp_path):
    text = " ".join(Seen(report.page(tmp_path)).text)
    assert "holds in part" not in text.partition("How it is judged")[0]
    for command in report_sections.COMMANDS.values():
        assert command in text
    sections = len(report_sections.CLAIMS) + len(report_sections.SUPPORT)
    assert text.count("not measured yet") >= 2 * sections


def test_summaries_are_shown_as_text_never_as_html(tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "summary.md").write_text(
        "Xeon <b>; torch 9; commit abc; 2030-01-02\n\n# Title <script>alert(1)</script>\n\n"
        "| a | b |\n|---|---|\n| 1 & 2 | `<i>` |\n\n![picture](https://example.org/x.png)\n"
    )
    Image.new("RGB", (4, 3)).save(tmp_path / "views" / "views.png")
    (tmp_path / "README.md").write_text("| folder | command |\n|---|---|\n| `views/` | `run <it> & see` |\n")
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "notes.md").write_text("Noted: *so*.\n")
    html = report.page(tmp_path)
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


@pytest.mark.parametrize("flags", [["--results", "nowhere"], ["--to", "file/page.html"], ["--results", "broken"]])
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
    if (!image.complete || image.naturalWidth === 0) problems.push("a picture is not loaded: " + image.alt);
    if (image.getBoundingClientRect().right > wide) problems.push("a picture is too wide: " + image.alt);
    if (!image.alt) problems.push("a picture has no words");
  }
  for (const table of document.querySelectorAll("table")) {
    if (table.getBoundingClientRect().right > wide && !table.closest(".scroll")) problems.push("a table is cut off");
  }
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  for (const part of document.querySelectorAll("p, td, th, a, span, h1, h2, h3, summary, figcaption, code")) {
    let below = part;
    const clear = () => getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)";
    while (below.parentElement && clear()) below = below.parentElement;
    const pair = [light(getComputedStyle(part).color), light(getComputedStyle(below).backgroundColor)];
    const contrast = Math.max(...pair) / Math.min(...pair);
    if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(1)} of ${part.tagName} ${part.className}`);
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
        browser = playwright.chromium.launch(executable_path=binary)
        yield browser
        browser.close()


def looked_at(browser, file, width, scheme="light"):
    """(problems, the page) as it is shown at a width."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri(), wait_until="load")
    problems += [f"asks for {url[:80]}" for url in asked if not url.startswith("data:") and url != file.as_uri()]
    return problems + page.evaluate(LOOK), page


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_fine_in_a_browser(committed, chromium, tmp_path, width, scheme):
    file = tmp_path / "report.html"
    file.write_text(committed)
    problems, page = looked_at(chromium, file, width, scheme)
    assert problems == []
    assert page.locator("h1").all_inner_texts() == ["effssl: the claims, measured"]
    headings = page.locator("h2").all_inner_texts()
    assert [h.partition(". ")[2] for h in headings[:4]] == [section.title for section in report_sections.CLAIMS]
    assert page.locator("img").count() == len(list((ANALYSIS / "results").glob("*/*.png")))
    wider = page.evaluate("[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length")
    assert wider > 0 or width > 375  # a table wider than a phone scrolls in its box
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.locator("a[href='#s5']").click()
    assert page.evaluate("Math.abs(document.querySelector('#s5').getBoundingClientRect().top)") < 400
    page.close()


def test_looking_finds_what_is_wrong(chromium, tmp_path):
    stored = io.BytesIO()
    Image.new("RGB", (600, 5)).save(stored, "png")
    picture = base64.b64encode(stored.getvalue()).decode()
    file = tmp_path / "broken.html"
    file.write_text(
        f'<body style="background: white"><img alt="x" src="data:image/png;base64,{picture}"><img alt="y" src="no.png">'
        '<p style="color: #ddd">pale</p><table style="width: 900px"><tr><td>wide</td></tr></table>'
        "<script>console.error('said'); thrown()</script>"
    )
    problems, page = looked_at(chromium, file, 375)
    page.close()
    for part in ("sideways", "too wide", "not loaded", "cut off", "contrast", "console: said", "error: ", "asks for"):
        assert any(part in problem for problem in problems), part
