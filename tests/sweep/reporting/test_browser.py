"""The report in a real browser: tooltips, sorting, filters, legends, and no request to anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.reporting.trials import grid, make_run, record, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

# What a reader does, in the page itself; what is seen goes into the title.
ACTS = """
<script>
onerror = (message) => { document.title = `seen {"error": ${JSON.stringify(message)}}`; };
const seen = {};
const rows = (table) => [...table.tBodies[0].rows];
const column = (table, i) => rows(table).map((row) => row.cells[i].textContent.trim());
const shown = (table) => rows(table).filter((row) => !row.hidden).length;

const circle = document.querySelector(".panel svg circle[data-tooltip]");
const box = circle.getBoundingClientRect();
const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
circle.closest("svg").dispatchEvent(new PointerEvent("pointermove", at));
seen.tooltip = [document.getElementById("tip").hidden, document.getElementById("tip").textContent];
seen.wanted = circle.dataset.tooltip;

for (const details of document.querySelectorAll("details")) details.open = true;
const inputs = [...document.querySelectorAll("input.filter")];
const titles = (input) => document.getElementById(input.dataset.table).tHead.textContent;
const input = inputs.find((one) => /seed/.test(titles(one)));
const table = document.getElementById(input.dataset.table);
const heads = [...table.tHead.rows[0].cells];
const i = heads.findIndex((head) => head.textContent.trim() === "seed");
heads[i].querySelector("button").click();
seen.up = column(table, i).map(Number);
heads[i].querySelector("button").click();
seen.down = column(table, i).map(Number);

const j = heads.findIndex((head) => head.textContent.trim().startsWith("cosine to teacher"));
seen.gaps = [0, 1].map(() => {
  heads[j].querySelector("button").click();
  return column(table, j);
});

seen.rows = shown(table);
input.value = column(table, 0)[0];
input.dispatchEvent(new Event("input"));
seen.filtered = shown(table);

const button = document.querySelector(".legend button");
button.click();
const series = document.querySelector(`.panel svg .${button.dataset.series}`);
seen.opacity = series.style.opacity;
seen.wide = document.documentElement.scrollWidth - innerWidth;
seen.loaded = performance.getEntriesByType("resource").length;
document.title = "seen " + JSON.stringify(seen);
</script>
"""


def acted(page: Path, width: int) -> dict[str, Any]:
    """What ACTS saw in a window of so many pixels."""
    options = ["--headless", "--disable-gpu", "--no-first-run", f"--window-size={width},900"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # chromium refuses its sandbox to root
    ran = subprocess.run(
        [str(CHROMIUM), *options, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>seen (.*?)</title>", ran.stdout)
    assert found, ran.stdout[:500]
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


@pytest.mark.parametrize("width", [1400, 500])
def test_a_reader_can_point_sort_filter_and_hide(tmp_path: Path, width: int) -> None:
    """500 pixels is the narrowest window that chromium makes; the page's own rules end at 600."""
    more = [record("width:1", "clean", seed) for seed in (2, 3)]
    del more[0]["metrics"]["test/cosine_to_teacher"]
    page = write_page(make_run(tmp_path / "my-grid", [*more, *grid()]))
    page.write_text(page.read_text().replace("</body>", f"{ACTS}</body>"))
    seen = acted(page, width)
    assert seen["tooltip"] == [False, seen["wanted"]]
    assert len(set(seen["up"])) > 1
    assert seen["up"] == sorted(seen["up"])
    assert seen["down"] == sorted(seen["down"], reverse=True)
    up, down = seen["gaps"]
    assert [up.index("\u2013"), down.index("\u2013")] == [len(up) - 1] * 2
    assert up[:-1] == sorted(up[:-1])
    assert down[:-1] == up[-2::-1]
    assert 0 < seen["filtered"] < seen["rows"]
    assert seen["opacity"] == "0"
    assert seen["wide"] <= 0  # nothing to scroll sideways
    assert seen["loaded"] == 0  # no file, script, font or picture from anywhere
