"""From a click on a toggle to redrawn charts: in the browser, and its parts without one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from common import row, shortest

import workbench as wb
from workbench.panels import drawing
from workbench.panels.view import Panel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

CLICK = """
() => new Promise(done => {
  const status = document.querySelector('.wbp-status');
  const box = [...document.querySelectorAll('label')]
      .find(l => l.innerText.trim() === 'Virtual GIF').querySelector('input');
  const began = performance.now();
  const watch = new MutationObserver(() => {
    if (/shown after/.test(status.innerText)) {
      watch.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
    }
  });
  status.querySelector('[role=status]').innerText = '';
  watch.observe(status, {childList: true, subtree: true, characterData: true});
  box.click();
})
"""


def milliseconds(action) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def parts() -> None:
    """Rows for the parts, in one Python process."""
    scenario = wb.Scenario()
    result = wb.run(scenario)
    row(
        "  run of the default scenario",
        f"{shortest(lambda: milliseconds(lambda: wb.run(scenario))):.0f} ms",
    )
    for name, chart in drawing.CHARTS.items():
        draw = shortest(
            lambda chart=chart: milliseconds(lambda: drawing.chart_html(chart({"SVM": result})))
        )
        row(f"  chart: {name}", f"{draw:.0f} ms")


def cpu_milliseconds(action) -> float:
    """Processor time of one call: Python's own, whoever else uses the machine."""
    began = time.process_time()
    action()
    return (time.process_time() - began) * 1000


def prices() -> None:
    """Rows for a slider of a price: everything in Python from its new value to the new chart."""
    result = wb.run(wb.Scenario())

    async def execute(*_) -> wb.Result:
        return result

    panel = Panel(result.scenario, execute=execute)
    box = panel.controls._price_rows["HW_EXIT"][1]
    values = iter(range(400, 1000, 7))

    def move() -> float:
        return cpu_milliseconds(lambda: setattr(box, "value", next(values)))

    row("a price's slider to the redrawn cost chart", f"{shortest(move, 9):.0f} ms", "goal 50 ms")
    table = cpu_milliseconds(lambda: wb.sensitivity(result))
    row("  the ranking of prices after a run", f"{table:.0f} ms")


def in_browser() -> None:
    """Rows for the page as a person sees it, alone and with a second result beside."""
    from served import browser, browser_path, page_on, served, wait_until_shown

    if browser_path() is None:
        row("toggle to redrawn charts, in the browser", "no Chromium here")
        return
    with served("voila") as address, browser() as started, page_on(started, address) as page:
        wait_until_shown(page)
        alone = shortest(lambda: page.evaluate(CLICK), 7)
        row("toggle to redrawn charts, in the browser", f"{alone:.0f} ms", "goal 400 ms")
        page.get_by_role("button", name="Pin").click()
        page.get_by_label("Virtual VMLOAD VMSAVE").click()
        time.sleep(2)
        beside = shortest(lambda: page.evaluate(CLICK), 7)
        row("the same with a second result beside it", f"{beside:.0f} ms")


def main() -> None:
    """Print all rows."""
    in_browser()
    prices()
    parts()


if __name__ == "__main__":
    main()
