"""Pictures of the documentation, taken from the running UI: start `make ui`, then `make pictures`."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000
SETTLE_MS = 3_000
"""The graph is drawn, then its colours and counts arrive."""
GROUPS = ("lake", "features", "training", "scoring", "monitoring", "publishing")


def browser_path() -> str | None:
    """The browser of this machine, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def browser_page(width: int = 1500, height: int = 1080, *, scale: float = 1.0) -> Iterator[Page]:
    """A page of a headless browser, ``scale`` device pixels to a pixel; it is closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(QUIET))
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def open_asset_graph(page: Page, address: str) -> None:
    """Open the graph of all assets, folded into their groups."""
    page.goto(f"{address}/asset-groups")
    for group in GROUPS:
        page.get_by_text(group, exact=True).first.wait_for()


def unfold(page: Page) -> None:
    """Unfold all groups; of a large graph only what is in sight is drawn."""
    page.keyboard.press("Alt+e")
    page.get_by_text("landing_files", exact=True).first.wait_for()


def main() -> None:
    """Save docs/asset_graph.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="Address of the Dagster UI")
    address = parser.parse_args().url.rstrip("/")
    if browser_path() is None:
        parser.error(f"A browser is required ({', '.join(BROWSERS)}), however none is installed.")
    with browser_page(width=1200, height=620, scale=1.5) as page:
        open_asset_graph(page, address)
        page.get_by_text("Hide navigation").click()
        # Folds the list of groups beside the graph.
        page.get_by_placeholder("Jump to…").locator("xpath=following::button[1]").click()
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=Path(__file__).parent / "asset_graph.png")


if __name__ == "__main__":
    main()
