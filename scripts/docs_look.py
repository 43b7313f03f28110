"""Take a screenshot of every page of the built documentation: desktop, phone and dark.

python scripts/docs_look.py build/docs/html build/docs/look [PART OF A NAME ...]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import numpy as np
from matplotlib import image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Name -> width in pixels and colour mode.
LOOKS = {"desktop": (1280, "light"), "phone": (390, "light"), "dark": (1280, "dark")}
TALLEST = 9000
GENERATED = ("genindex", "py-modindex", "search", "_modules", "_static")

# A page in a frame has any width, phones' too, which a browser's window has not; the frame also
# states the colour mode, and whether the page is wider than the screen.
FRAME = """<!doctype html><body style="margin:0;background:#f0f"><script>
localStorage.setItem("mode", "{mode}"); localStorage.setItem("theme", "{mode}");
const f = document.createElement("iframe");
f.style = "border:0;display:block;width:{width}px;height:{height}px"; f.src = "{page}";
f.onload = () => setTimeout(() => {{
  const d = f.contentDocument.documentElement;
  f.style.height = Math.min(d.scrollHeight, {tallest}) + "px";
  document.title = d.scrollWidth;
}}, 300);
document.body.append(f);
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """The built pages, and a frame around each below /look/."""

    def do_GET(self) -> None:
        if not self.path.startswith("/look/"):
            return super().do_GET()
        _, _, look, page = self.path.split("/", 3)
        width, mode = LOOKS[look]
        text = FRAME.format(mode=mode, width=width, height=900, page=f"/{page}", tallest=TALLEST)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())
        return None

    def log_message(self, *_: object) -> None:
        pass


def browser() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    sys.exit(f"docs-look needs one of {', '.join(BROWSERS)} on the PATH")


def take(program: str, profile: str, url: str, file: Path, width: int) -> None:
    """Take one screenshot and cut off what lies below and beside the page."""
    subprocess.run(
        [
            *(program, "--headless=new", "--disable-gpu", "--no-sandbox", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions"),
            *("--virtual-time-budget=4000", "--run-all-compositor-stages-before-draw"),
            *(f"--window-size={max(width, 600)},{TALLEST}", f"--screenshot={file}", url),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = image.imread(file)[..., :3]
    outside = np.all(pixels == (1, 0, 1), axis=2)
    rows, columns = ~outside.all(axis=1), ~outside.all(axis=0)
    image.imsave(file, np.ascontiguousarray(pixels[rows][:, columns]))


def main(site: str, out: str, *parts: str) -> None:
    root, folder, program = Path(site).resolve(), Path(out), browser()
    pages = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*.html"))]
    pages = [p for p in pages if not p.startswith(GENERATED) and not p.startswith("_downloads")]
    if parts:
        pages = [p for p in pages if any(part in p for part in parts)]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with TemporaryDirectory() as profile:
        for page in pages:
            for look, (width, _) in LOOKS.items():
                file = folder / look / (page.removesuffix(".html").replace("/", "-") + ".png")
                file.parent.mkdir(parents=True, exist_ok=True)
                url = f"http://127.0.0.1:{server.server_port}/look/{look}/{quote(page)}"
                take(program, profile, url, file, width)
    server.shutdown()
    print(f"{len(pages)} pages, {len(LOOKS)} looks each: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
