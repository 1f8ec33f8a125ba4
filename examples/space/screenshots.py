# SPDX-License-Identifier: Apache-2.0
"""Take screenshots of the page of `hf-sidenet demo`.

usage: screenshots.py ADDRESS OUTPUT.png (--text TEXT | --picture PATH) [--width 1100] [--chromium PATH]
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def take(address: str, output: Path, text: str | None, picture: str | None, width: int, chromium: str) -> None:
    """Answer one input, and save the whole page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(address)
        if picture is None:
            page.get_by_label("Text", exact=True).fill(text)
        else:
            page.locator("#given input[type=file]").set_input_files(picture)
            page.get_by_text(Path(picture).name).first.wait_for()
        page.get_by_role("button", name="Answer", exact=True).click()
        page.locator("#answer table").wait_for()
        # Until animations have finished.
        page.wait_for_timeout(1000)
        page.screenshot(path=output, full_page=True)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the page, for example http://127.0.0.1:7860")
    parser.add_argument("output", type=Path)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text")
    given.add_argument("--picture")
    parser.add_argument("--width", type=int, default=1100, help="window width in pixels; 390 is a phone")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    if args.chromium is None:
        parser.error("--chromium must be given if none is found.")
    take(args.address, args.output, args.text, args.picture, args.width, args.chromium)


if __name__ == "__main__":
    main()
