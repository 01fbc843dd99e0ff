"""Serve the panel on localhost, with Voilà or JupyterLab, and open it in a real browser."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "notebooks" / "app.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
START_SECONDS = 60


def browser_path() -> str | None:
    """Path of a Chromium or Chrome on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(kind: str) -> Iterator[str]:
    """Start ``voila`` or ``jupyterlab`` on the panel's notebook; yields the address to open."""
    token, port = secrets.token_hex(16), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(shutil.copy(APP, folder))
        common = ["--no-browser", f"--port={port}"]
        if kind == "voila":
            options = [str(notebook), *common, f"--token={token}"]
            address = f"http://127.0.0.1:{port}/?token={token}"
        else:
            options = [*common, f"--IdentityProvider.token={token}", "--allow-root",
                       f"--ServerApp.root_dir={folder}",
                       "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
                       "jupyterlab.handlers.announcements.NeverCheckForUpdate"]  # fmt: skip
            address = f"http://127.0.0.1:{port}/lab/tree/app.ipynb?token={token}&reset"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JUPYTER_CONFIG_DIR": f"{folder}/config",
            "JUPYTERLAB_SETTINGS_DIR": f"{folder}/settings",
            "JUPYTERLAB_WORKSPACES_DIR": f"{folder}/workspaces",
        }
        log = (Path(folder) / "log").open("w+")
        server = subprocess.Popen(
            [sys.executable, "-m", kind, *options], cwd=folder, env=environment,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait_for(port, server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes], log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/static/favicon.ico", timeout=2):
                return
        except URLError as problem:
            if hasattr(problem, "code"):  # it answers, be it with an error
                return
            time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"the server did not come up:\n{log.read()[-3000:]}")


@contextlib.contextmanager
def browser() -> Iterator:
    """A headless browser; one per process, as Playwright wants it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def page_on(started, address: str, width: int = 1280, height: int = 900) -> Iterator:
    """A page of a browser on ``address``."""
    context = started.new_context(viewport={"width": width, "height": height})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        page = context.new_page()
        page.goto(address)
        yield page
    finally:
        context.close()


def wait_until_shown(page, timeout: float = 120_000) -> None:
    """Wait until a run has been drawn; the very first one may compile the core."""
    page.wait_for_function(
        "() => /shown after/.test(document.querySelector('.wbp-status')?.innerText || '')"
        " && document.querySelectorAll('.wbp-chart svg').length === 3",
        timeout=timeout,
    )
