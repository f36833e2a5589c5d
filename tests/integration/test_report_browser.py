"""The report of an evaluation, opened in a real browser: nothing overflows, nothing complains, dark is dark."""

import html
import json
import re
import shutil
import subprocess

import pytest
from attacked import attack_results, stress_results
from evaluated import made_up
from PIL import Image, ImageStat

from inlier.report.folder import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
WIDTHS = (1280, 400)
SCHEMES = {"light": 1, "dark": 0}  # as Blink numbers them
PAGES = ("report.html", "sign_off.html")

# Written beside a page of the test's own: the page itself has no scripts. It looks at the page in a frame, because a
# window is never as narrow as a telephone.
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="shown" style="display:block;border:0;width:{width}px;height:{height}px" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.getElementById("shown").contentDocument, root = page.documentElement;
  const scrolled = e => e.closest(".scroll") !== null;
  const beyond = [...page.querySelectorAll("main *")]
    .filter(e => !scrolled(e) && e.getBoundingClientRect().right > root.clientWidth + 1)
    .map(e => `${{e.tagName}}.${{e.getAttribute("class")}}: ${{e.textContent.slice(0, 40)}}`);
  document.body.dataset.seen = JSON.stringify({{
    scroll: root.scrollWidth, client: root.clientWidth, beyond,
    broken: [...page.images].filter(i => i.complete && !i.naturalWidth).length,
    unfinished: [...page.images].filter(i => !i.complete && i.loading !== "lazy").length, pictures: page.images.length,
    background: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color,
    smallest: Math.min(...[...page.querySelectorAll("svg.plot text")].map(t => t.getBoundingClientRect().height)),
    unreached: [...page.querySelectorAll('a[href^="#"]')].filter(a => !page.getElementById(a.hash.slice(1))).length,
  }});
}};
</script></body>"""


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine: install one to have the report opened in it")
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, made_up())
    return folder


def opened(browser, file, folder, *options, scheme="light", window=(1280, 900)):
    """(what the browser prints, what it says on its console)"""
    profile = folder / "profile"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}",
        f"--window-size={window[0]},{window[1]}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        *options, file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def framed(page, folder, width, height=900):
    file = folder / f"framed_{width}.html"
    text = page.read_text(encoding="utf-8")
    file.write_text(FRAME.format(width=width, height=height, page=html.escape(text)), encoding="utf-8")
    return file


def seen(browser, page, folder, width, scheme):
    dom, complaints = opened(browser, framed(page, folder, width), folder, "--dump-dom", scheme=scheme)
    assert complaints == []
    return json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))


def brightness(colour):
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_as_wide_as_the_window_and_whole_in_light_and_dark(browser, written, tmp_path, page, width):
    ink, paper = {}, {}
    for scheme in SCHEMES:
        told = seen(browser, written / page, tmp_path, width, scheme)
        assert told["client"] == width
        assert told["scroll"] <= width
        assert told["beyond"] == []
        assert told["broken"] == told["unfinished"] == told["unreached"] == 0
        ink[scheme], paper[scheme] = brightness(told["ink"]), brightness(told["background"])
        if page == "report.html":
            assert told["pictures"] > 12 * 4
            assert told["smallest"] >= 9  # pixels: text in figures stays legible on a telephone
    assert paper["light"] - ink["light"] > 150
    assert ink["dark"] - paper["dark"] > 150


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attack", "stress"])
def test_the_pages_of_attacks_fit_the_window_in_light_and_dark(browser, tmp_path, kind):
    work, out = tmp_path / "work", tmp_path / "report"
    write_report(out, attack_results(work)[0] if kind == "attack" else stress_results(work, budget="smoke"))
    for width in WIDTHS:
        ink, paper = {}, {}
        for scheme in SCHEMES:
            told = seen(browser, out / "report.html", tmp_path, width, scheme)
            assert told["scroll"] <= told["client"] == width
            assert told["beyond"] == []
            assert told["broken"] == told["unfinished"] == told["unreached"] == 0
            assert told["smallest"] >= 9
            ink[scheme], paper[scheme] = brightness(told["ink"]), brightness(told["background"])
        assert paper["light"] - ink["light"] > 150
        assert ink["dark"] - paper["dark"] > 150


@pytest.mark.slow
def test_a_screenshot_of_the_report_is_dark_only_where_dark_is_preferred(browser, written, tmp_path):
    light = {}
    for scheme in SCHEMES:
        file = tmp_path / f"{scheme}.png"
        _, complaints = opened(browser, written / "report.html", tmp_path, f"--screenshot={file}", scheme=scheme)
        assert complaints == []
        with Image.open(file) as picture:
            assert picture.width == 1280
            light[scheme] = ImageStat.Stat(picture.convert("L")).mean[0]
    assert light["light"] > 150 > 100 > light["dark"]


def crowded():
    """More of everything that the sign-off sheet tells than it has room for."""
    results = made_up(pictures=False)
    (model,) = (s for s in results["sets"] if s["name"] == "fgsm")
    (row,) = (r for r in results["rows"] if (r["set"], r["monitor"]) == ("fgsm", "mahalanobis"))
    results["sets"] += [{**model, "name": f"attack_{n}", "label": f"iterated FGSM number {n}"} for n in range(20)]
    results["rows"] += [{**row, "set": f"attack_{n}"} for n in range(20)]
    results["targets"] *= 3
    return results


@pytest.mark.slow
@pytest.mark.parametrize("make", [made_up, crowded])
def test_the_sign_off_sheet_prints_on_one_page_of_a4(browser, tmp_path, make):
    write_report(tmp_path, make())
    file = tmp_path / "sheet.pdf"
    opened(browser, tmp_path / "sign_off.html", tmp_path, f"--print-to-pdf={file}", "--no-pdf-header-footer")
    content = file.read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 1
    box = [float(number) for number in re.search(rb"/MediaBox\s*\[([^\]]*)\]", content).group(1).split()]
    assert box[2] == pytest.approx(595, abs=2)
    assert box[3] == pytest.approx(842, abs=2)


@pytest.mark.slow
def test_the_browser_of_these_tests_sees_an_overflow_and_hears_a_complaint(browser, tmp_path):
    """Otherwise the tests above could not fail."""
    page = tmp_path / "bad.html"
    page.write_text('<!doctype html><body><main><p style="width:600px">wide</p></main>', encoding="utf-8")
    told = seen(browser, page, tmp_path, 400, "light")
    assert told["scroll"] >= 600
    assert len(told["beyond"]) == 1
    page.write_text("<!doctype html><body><script>console.error('no')</script>", encoding="utf-8")
    assert opened(browser, page, tmp_path, "--dump-dom")[1]
