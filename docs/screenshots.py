"""The pictures of the pages in this folder, taken of pages that were written before.

semid inspect --data data --titles items.csv:title --html inspect.html
semid compare --trade-off --titles items.csv:title --html compare.html
python docs/screenshots.py inspect.html compare.html
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
HEIGHT = {"inspect": 1000, "compare": 1560}


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for place in map(Path, sys.argv[1:]):
            page = browser.new_page(viewport={"width": 1100, "height": HEIGHT.get(place.stem, 1000)})
            page.goto(place.resolve().as_uri())
            page.wait_for_selector(".plot svg.main-svg")
            page.wait_for_timeout(1000)
            page.screenshot(path=HERE / f"{place.stem}.png")
        browser.close()


if __name__ == "__main__":
    main()
