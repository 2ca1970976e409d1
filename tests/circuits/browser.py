"""Headless Chromium and node, where there are any: pages run as a person would see them."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NODE = shutil.which("node")


def run_in_page(page: Path, script: str, folder: Path, *, width: int = 1300) -> Any:
    """What `script`, an async function's body that sees `document` and `find`, returns after the page has started."""
    wrapped = (
        '<script type="module">const find = s => document.querySelector(s);\n'
        "let said; try { said = {value: await (async () => {" + script + "})()}; }"
        " catch (error) { said = {error: String(error.stack)}; }\n"
        'document.documentElement.setAttribute("data-said", JSON.stringify(said));</script></body>'
    )
    copy = folder / "with_script.html"
    before, after = page.read_text("utf-8").rsplit("</body>", 1)
    copy.write_text(before + wrapped + after, "utf-8")
    ran = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=5000",
            "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    found = re.search(r'data-said="([^"]*)"', ran.stdout.decode("utf-8", "replace"))
    assert found, ran.stderr.decode("utf-8", "replace")[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert "error" not in said, said["error"]
    return said["value"]


def run_in_node(script: str) -> Any:
    """What an ES module prints as JSON."""
    ran = subprocess.run(
        [str(NODE), "--input-type=module"], input=script.encode(), capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)
