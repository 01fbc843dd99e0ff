"""The panel: controls to the left, what they do to the figures at the right.

A thin binding.  What may be chosen is the state's business (``state``), how a run happens the
runner's (``runner``), what a picture looks like the charts' (``drawing``).
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import ipywidgets as w

from ..charts.inputs import labelled
from ..errors import WorkbenchError
from ..measure.swings import sensitivity
from ..result import Result
from ..scenario import Scenario
from ..simulate import Progress
from . import drawing
from .controls import Controls, section
from .runner import Execute, Runner
from .state import Need, PanelState
from .style import CSS
from .swings import Swings

ALONE, OTHER, PINNED = "alone", "other", "pinned"


class Panel:
    """The workbench as a page of controls and charts.

    Parameters
    ----------
    scenario : Scenario, optional
        Where to begin.
    autorun : bool
        Run at once and after each change that needs a run; else only on the Run button.
    execute : async callable, optional
        Stands in for the simulation in tests.
    raise_errors : bool
        Raise errors of callbacks after showing them (tests).
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        autorun: bool = True,
        execute: Execute | None = None,
        raise_errors: bool = False,
    ):
        self.state = PanelState(scenario)
        self.runner = Runner(
            self._show_progress, self._take_result, self._show_error, self._was_cancelled, execute
        )
        self.result: Result | None = None
        self.pinned: Result | None = None
        self.autorun = autorun
        self._by_backend: dict[str, Result] = {}
        self._stale: set[str] = set()
        self._figures: dict[str, drawing.LayeredChart] = {}
        self._brush = asyncio.Lock()
        self._asked = 0.0
        self._quiet = False
        self._raise = raise_errors
        self._tasks: set[asyncio.Task[None]] = set()
        self.controls = Controls(self.state, self.guard)
        self.swings = Swings(self._current, self.guard, self._show_error)
        self.widget = self._build()
        self.state.subscribe(self._state_changed)
        self._refresh_bar()
        if autorun:
            self.run()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    # ---------------------------------------------------------------- building

    def _build(self) -> w.VBox:
        columns = w.HBox([self.controls.box, self._results()])
        columns.layout.align_items = "stretch"
        columns.add_class("wbp-columns")
        self._error = w.HTML()  # above the columns: seen wherever these are scrolled to
        title = w.HTML("<h2>Nested-virtualization workbench</h2>")
        title.add_class("wbp-title")
        whole = w.VBox([w.HTML(CSS), title, self._bar(), self._error, columns])
        whole.add_class("wbp")
        return whole

    def _bar(self) -> w.HBox:
        make = self._button
        self._run = make("Run", "play", "Run the scenario", self.run, "primary")
        self._cancel = make("Cancel", "stop", "Stop the run", self.runner.cancel)
        self._undo = make("Undo", "rotate-left", "Take the last change back", self._undo_change)
        self._redo = make("Redo", "rotate-right", "Bring the change back", self._redo_change)
        self._reset = make(
            "Defaults", "eraser", "All settings to their defaults", self._to_defaults
        )
        self._pin = make("Pin", "thumb-tack", "Keep this result beside the next ones", self.pin)
        self._beside = w.Dropdown(
            options=[("nothing", ALONE)], description="Beside it", layout={"width": "250px"},
            tooltip="A second result in every chart and table",
        )  # fmt: skip
        self._beside.observe(lambda _: self._beside_chosen(), "value")
        self._bar_progress = w.FloatProgress(min=0, max=1, layout={"width": "130px"})
        self._bar_progress.layout.display = "none"
        self._status = w.HTML()
        self._status.add_class("wbp-status")
        buttons = [self._run, self._cancel, self._undo, self._redo, self._reset, self._pin]
        bar = w.HBox([*buttons, self._beside, self._bar_progress, self._status])
        bar.add_class("wbp-bar")
        return bar

    def _button(
        self, text: str, icon: str, tooltip: str, action: Callable[[], Any], style: str = ""
    ) -> w.Button:
        button = w.Button(description=text, icon=icon, tooltip=tooltip, button_style=style)
        button.on_click(lambda _: self.guard(action))
        return button

    def _results(self) -> w.VBox:
        self._cards = w.HTML()
        self._cards.add_class("wbp-cards")
        self.charts = {name: w.HTML() for name in drawing.CHARTS}
        for chart in self.charts.values():
            chart.add_class("wbp-chart")
        self._which_table = w.Dropdown(options=list(drawing.TABLES), description="Table")
        self._which_table.observe(lambda _: self.guard(self._draw_table), "value")
        self._table = w.HTML()
        self._table.add_class("wbp-tables")
        self._code = w.HTML()
        self._links = w.HTML()
        self._links.add_class("wbp-links")
        self._upload = w.FileUpload(
            accept=".json,.toml", description="Load scenario", tooltip="A .json or .toml scenario"
        )
        self._upload.observe(lambda _: self.guard(self._load_upload), "value")
        files = w.HBox([self._links, self._upload])
        files.layout.align_items = "center"
        boundaries = w.HTML(drawing.boundaries_html())
        boundaries.add_class("wbp-boundaries")
        right = w.VBox([
            self._cards, section("Charts", *self.charts.values()), self.swings.box,
            section("Numbers", self._which_table, self._table),
            section("This scenario", files, self._code), boundaries,
        ])  # fmt: skip
        right.add_class("wbp-right")
        return right

    # ---------------------------------------------------------------- actions

    def guard(self, action: Callable[[], Any]) -> None:
        """Do something for a widget; show what goes wrong instead of losing it."""
        try:
            action()
        except Exception as problem:
            self._show_error(problem)
            if self._raise:
                raise
        else:
            if not self.runner.busy:
                self._refresh_bar()

    def run(self) -> None:
        """Run the scenario as it stands; an older run stops."""
        self._asked = time.perf_counter()
        self._say("starting")
        self._bar_progress.value = 0
        self._cancel.disabled = False
        self.runner.request(self.state.scenario)

    def pin(self) -> None:
        """Keep the current result; it is shown beside later ones."""
        if self.result is None:
            raise WorkbenchError("there is no result to pin yet", "run the scenario first")
        self.pinned = self.result
        self._refresh_beside(PINNED)
        self.draw()

    def _beside_chosen(self) -> None:
        if not self._quiet:
            self.guard(self.draw)

    def _undo_change(self) -> None:
        self.state.undo()
        self.controls.refresh()

    def _redo_change(self) -> None:
        self.state.redo()
        self.controls.refresh()

    def _to_defaults(self) -> None:
        self.state.reset()
        self.controls.refresh()

    def _load_upload(self) -> None:
        for file in self._upload.value:
            try:
                self.state.load_text(bytes(file["content"]).decode("utf-8"), file["name"])
            except UnicodeDecodeError:
                hint = "choose a .json or .toml file"
                raise WorkbenchError(f"{file['name']}: not a text file", hint) from None
            finally:
                self._upload.value = ()  # so that the same file can be chosen again
            self.controls.refresh()

    def _state_changed(self, need: Need) -> None:
        self._clear_error()
        self._refresh_bar()
        if need is Need.RUN and self.autorun:
            self.run()
        elif need is Need.RUN:
            self._say("changed: press Run")
        elif need is Need.DRAW:
            if not self.state.scenario.price_values:  # another preset, or the preset's own again
                self._rank_prices()
            self.draw(drawing.PRICED)

    # ---------------------------------------------------------------- run -> page

    def _show_progress(self, progress: Progress) -> None:
        self._bar_progress.layout.display = None
        if progress.phase.startswith("compiling"):
            self._bar_progress.value = progress.fraction
            self._say(f"compiling the core, {progress.steps} of {progress.max_steps}")
        else:
            self._bar_progress.value = progress.fraction
            self._say(f"running, {progress.steps / 1e6:,.0f} million instructions")

    async def _take_result(self, result: Result) -> None:
        self.result = result
        self._by_backend[result.scenario.backend] = result
        self._refresh_beside()
        self._rank_prices()
        self._stale.update(drawing.CHARTS)
        asked = self._asked
        await self._paint()
        self.swings.refresh()
        if asked != self._asked or not self.runner.busy:
            return  # while the charts were drawn, a newer request or Cancel came: it has the word
        total = (time.perf_counter() - asked) * 1000
        self._finish(f"{drawing.ending_text(result)}; shown after {total:,.0f} ms")

    def _rank_prices(self) -> None:
        """Sliders for what matters for the result shown, at the prices that hold now."""
        if self.result is not None and self.result.scenario.backend == self.state.backend:
            table = sensitivity(self._repriced(self.result))
            self.controls.rank_prices(dict(zip(table["event"], table["share"], strict=True)))

    def _was_cancelled(self) -> None:
        self._finish("cancelled; the charts show the run before")

    def _finish(self, text: str) -> None:
        self._bar_progress.layout.display = "none"
        self._refresh_bar()
        self._cancel.disabled = True
        self._say(text)

    # ---------------------------------------------------------------- drawing

    def shown(self) -> dict[str, Result]:
        """Label -> result, as the charts show them, at the current prices."""
        if self.result is None:
            return {}
        found = [self._repriced(self.result)]
        beside = self._beside.value
        other = self.pinned if beside == PINNED else None
        if beside == OTHER:
            other = self._by_backend.get(_other(self.result.scenario.backend))
        if other is not None and other.scenario != self.result.scenario:
            found.append(self._repriced(other))
        return dict(labelled(found))

    def _current(self) -> Result | None:
        return None if self.result is None else self._repriced(self.result)

    def _repriced(self, result: Result) -> Result:
        scenario = self.state.scenario
        same = result.scenario.backend == scenario.backend
        return result.reprice(scenario.preset) if same else result

    def draw(self, charts: Iterable[str] = drawing.CHARTS) -> None:
        """Draw again what is there; nothing is run."""
        self._stale.update(charts)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._paint())
            self.swings.refresh()
            return
        task = loop.create_task(self._paint_guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _paint_guarded(self) -> None:
        try:
            await self._paint()
        except Exception as problem:
            self._show_error(problem)
        else:
            self.swings.refresh_soon()

    async def _paint(self) -> None:
        """Draw the stale charts, one after the other, always from the newest result."""
        async with self._brush:
            while self._stale:
                name = next(name for name in drawing.CHARTS if name in self._stale)
                self._stale.discard(name)
                if results := self.shown():
                    self._put_chart(name, results)
                    self._put(self._cards, drawing.headline_html(results))
                await asyncio.sleep(0)  # let the page have it, and newer requests in
        self._draw_table()

    def _draw_table(self) -> None:
        if results := self.shown():
            self._put(self._table, drawing.table_html(self._which_table.value, results))

    def _put_chart(self, name: str, results: dict[str, Result]) -> None:
        shown = drawing.is_shown(name, results)
        html = self._picture(name, results) if shown else ""
        self._put(self.charts[name], html)
        self.charts[name].layout.display = None if shown else "none"

    def _picture(self, name: str, results: dict[str, Result]) -> str:
        """A chart of the results; the one that is there with new bars where that will do."""
        redraw = drawing.REDRAW.get(name)
        if redraw is None:
            return drawing.chart_html(drawing.CHARTS[name](results))
        kept = self._figures.get(name)
        if kept is None or not redraw(kept.figure, results):
            kept = self._figures[name] = drawing.LayeredChart(drawing.CHARTS[name](results))
        return kept.html()

    @staticmethod
    def _put(target: w.HTML, value: str) -> None:
        if target.value != value:
            target.value = value

    # ---------------------------------------------------------------- small things

    def _refresh_beside(self, choice: str = "") -> None:
        """Offer what there is to compare with; the other back-end's run is taken when it is new."""
        options = [("nothing", ALONE)]
        if self.result is not None:
            other = _other(self.result.scenario.backend)
            if other in self._by_backend:
                options.append((f"the last run on {other.upper()}", OTHER))
        if self.pinned is not None:
            options.append((f"the pinned {self.pinned.scenario.backend.upper()} run", PINNED))
        values = [value for _, value in options]
        is_new = OTHER in values and OTHER not in [value for _, value in self._beside.options]
        chosen = choice or self._beside.value
        if is_new and chosen == ALONE:
            chosen = OTHER
        self._quiet = True
        try:
            if tuple(self._beside.options) != tuple(options):
                self._beside.options = options
            self._beside.value = chosen if chosen in values else ALONE
        finally:
            self._quiet = False

    def _refresh_bar(self) -> None:
        self._undo.disabled = not self.state.can_undo
        self._redo.disabled = not self.state.can_redo
        self._pin.disabled = self.result is None
        self._cancel.disabled = not self.runner.busy
        code, text = self.state.to_code(), self.state.to_json()
        coded = base64.b64encode(text.encode()).decode()
        self._links.value = (
            f"<a class='wbp-button' download='scenario.json' "
            f"href='data:application/json;base64,{coded}'>Save scenario</a>"
            f"<button class='wbp-button' type='button' data-code='{escape(code, quote=True)}' "
            f"onclick='navigator.clipboard.writeText(this.dataset.code)'>Copy as code</button>"
        )
        self._code.value = f"<pre class='wbp-code' tabindex='0'>{escape(code)}</pre>"

    def _say(self, text: str) -> None:
        self._status.value = f"<span role='status' aria-live='polite'>{escape(text)}</span>"

    def _clear_error(self) -> None:
        if self._error.value:
            self._error.value = ""

    def _show_error(self, problem: BaseException) -> None:
        known = isinstance(problem, WorkbenchError)
        text = problem.message if known else f"{type(problem).__name__}: {problem}"  # type: ignore[attr-defined]
        hint = problem.hint if known else "this is a defect of the workbench, not of your input"  # type: ignore[attr-defined]
        self._error.value = (
            f"<div class='wbp-error' role='alert'>{escape(text)}<i>{escape(hint)}</i></div>"
        )
        if not known:
            self._finish("")


def _other(backend: str) -> str:
    return "vmx" if backend == "svm" else "svm"


def panel(scenario: Scenario | None = None, autorun: bool = True) -> Panel:
    """Show the panel: the last line of a notebook cell, or ``display(wb.panel())``.

    Parameters
    ----------
    scenario : Scenario, optional
        Where to begin; by default L2 executes CPUID in a loop under SVM.
    autorun : bool
        Run at once and after every change; else only when Run is pressed.
    """
    return Panel(scenario, autorun)
