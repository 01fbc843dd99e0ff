"""The panel's style sheet: spacing, sections, greyed controls. Follows JupyterLab's theme."""

CSS = """
<style>
.wbp { max-width: 1560px; font-size: 13px; color: var(--jp-ui-font-color1, #222); }
.wbp .widget-label, .wbp .jupyter-widgets label { font-size: 12.5px; }
.wbp-title h2 { margin: 0; font-size: 19px; line-height: 28px; font-weight: 600; }
.wbp-bar { align-items: center; gap: 6px; padding: 6px 0 8px; flex-wrap: wrap;
  border-bottom: 1px solid var(--jp-border-color2, #ddd); overflow: visible; }
.wbp-bar .jupyter-button { width: auto; padding: 0 12px; margin: 0; border-radius: 4px; }
.wbp-status { flex: 1 1 200px; min-width: 0; }
.wbp-status .widget-html-content { line-height: 1.35; }
.wbp-columns { overflow: visible; }
.wbp-left > *, .wbp-right > * { flex-shrink: 0; }
.wbp-left, .wbp-right { max-height: max(420px, calc(100vh - 122px)); }
.jp-NotebookPanel .wbp-left, .jp-NotebookPanel .wbp-right
  { max-height: max(420px, calc(100vh - 250px)); }
.wbp-left { width: 358px; min-width: 358px; padding: 4px 14px 8px 0; overflow: hidden auto;
  border-right: 1px solid var(--jp-border-color2, #ddd); }
.wbp-right { flex: 1 1 0; min-width: 0; padding: 4px 8px 8px 16px;
  overflow: hidden auto; }
@media print { .wbp .wbp-left, .wbp .wbp-right { max-height: none; } }
.wbp-section h3 { margin: 14px 0 4px; font-size: 11.5px; letter-spacing: .06em; font-weight: 700;
  text-transform: uppercase; color: var(--jp-ui-font-color2, #555); }
.wbp-left > .wbp-section:first-child h3 { margin-top: 4px; }
.wbp-section h4 { margin: 8px 0 2px; font-size: 12.5px; font-weight: 600; }
.wbp-note, .wbp-note .widget-html-content { font-size: 11.5px; line-height: 1.35;
  color: var(--jp-ui-font-color2, #595959); }
.wbp-note { margin: 0 0 4px; }
.wbp-why { margin: -2px 0 6px 22px; }
.wbp-left .jupyter-widgets.widget-dropdown, .wbp-left .widget-text,
.wbp-left .jupyter-widgets.widget-checkbox { width: 100%; margin: 2px 0; }
.wbp-left .widget-dropdown > .widget-label, .wbp-left .widget-text > .widget-label
  { width: 150px; text-align: left; }
.wbp-left .widget-toggle-buttons .jupyter-button { width: 104px; margin: 0 6px 4px 0;
  border-radius: 4px; }
.wbp-left .widget-toggle-buttons .jupyter-button.mod-active { background: #0b4f7d; color: #fff;
  box-shadow: none; }
.wbp-left .widget-checkbox input[type=checkbox] { margin: 0 8px 0 0; vertical-align: middle; }
.wbp-left .widget-checkbox label { display: flex; align-items: center; }
.wbp-left .wbp-off .widget-label, .wbp-left .wbp-off label { opacity: .62; }
.wbp-price { width: 100%; align-items: center; overflow: visible; position: relative; }
.wbp-left .wbp-about { display: none; position: absolute; left: 0; right: 0; top: 100%; z-index: 20; width: auto;
  height: auto; margin: 0; padding: 6px 10px; border-radius: 4px; background: #222; color: #fff;
  box-shadow: 0 2px 8px rgba(0, 0, 0, .3); overflow: visible; pointer-events: none; }
.wbp-about .widget-html-content { font-size: 11.5px; line-height: 1.4; white-space: normal; }
.wbp-price:hover .wbp-about, .wbp-price:has(:focus-visible) .wbp-about { display: block; }
.wbp-price .widget-text { width: 238px; }
.wbp-set .widget-label { font-weight: 700; }
.wbp-left.wbp-left .widget-box { overflow: visible; }
.wbp-price .widget-slider { flex: 1 1 60px; width: auto; min-width: 60px; margin: 0 4px 0 10px; }
.wbp-chart { margin: 0 0 10px; overflow: hidden; }
.wbp-tornado { margin: 6px 0 10px; overflow: hidden; }
.wbp-choice .jupyter-button { width: auto; padding: 0 14px; margin: 0 6px 4px 0; border-radius: 4px; }
.wbp-choice .jupyter-button.mod-active { background: #0b4f7d; color: #fff; box-shadow: none; }
.wbp-section .wbp-bar { border: 0; padding: 2px 0; }
.wbp-chart svg, .wbp-tornado svg { display: block; max-width: 980px; background: #fff; }
.wbp-cards .widget-html-content { display: flex; flex-wrap: wrap; gap: 10px; line-height: 1.3; }
.wbp-card { flex: 1 1 300px; border: 1px solid var(--jp-border-color2, #ddd); border-radius: 6px;
  padding: 8px 12px; }
.wbp-card h4, .wbp-tables h4 { margin: 0 0 4px; font-size: 12.5px; font-weight: 600; }
.wbp-card > div { display: flex; gap: 14px; }
.wbp-card > div > div { flex: 1 1 0; }
.wbp-card b { display: block; font-size: 21px; font-weight: 600; line-height: 26px; }
.wbp-card span { font-size: 11.5px; color: var(--jp-ui-font-color2, #595959); display: block; }
.wbp-tables .widget-html-content { overflow-x: auto; line-height: 1.3; }
.wbp-tables h4 { margin-top: 10px; }
.wbp-boundaries { margin: 14px 0 4px; border: 1px solid var(--jp-border-color2, #ddd); border-radius: 6px;
  padding: 6px 12px; }
.wbp-boundaries .widget-html-content { line-height: 1.45; white-space: normal; }
.wbp-boundaries summary { cursor: pointer; font-weight: 600; }
.wbp-boundaries ul { margin: 6px 0 4px; padding-left: 20px; max-width: 920px; }
.wbp-boundaries li { margin-bottom: 4px; }
table.wbp-table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
table.wbp-table th { text-align: left; font-weight: 600; padding: 4px 14px 4px 0;
  border-bottom: 1px solid var(--jp-border-color1, #bbb); vertical-align: bottom; }
table.wbp-table td { padding: 3px 14px 3px 0; border-bottom: 1px solid var(--jp-border-color3, #eee); }
table.wbp-table td.wbp-number { text-align: right; }
.wbp-error { border-left: 4px solid #b3261e; background: #fdecea; color: #5f1410;
  padding: 6px 10px; border-radius: 3px; line-height: 1.4; }
.wbp-error i { display: block; font-style: normal; opacity: .85; }
.wbp .widget-upload { width: auto; padding: 0 12px; margin: 0 0 0 2px; border-radius: 4px; }
.wbp-links .widget-html-content { display: flex; gap: 8px; align-items: center; line-height: 1.4; }
.wbp a.wbp-button, .wbp button.wbp-button { display: inline-block; padding: 4px 12px; font: inherit;
  font-size: 12.5px; border-radius: 4px; text-decoration: none; cursor: pointer; border: 0;
  color: var(--jp-ui-font-color1, #222); background: var(--jp-layout-color2, #eee); }
.wbp pre.wbp-code { margin: 6px 0 0; padding: 8px 10px; font-size: 11.5px; line-height: 1.4;
  overflow-x: auto; white-space: pre; border-radius: 4px;
  background: var(--jp-layout-color2, #f3f3f3); }
.wbp { container-type: inline-size; }
@container (max-width: 940px) {
  .wbp-left { width: 304px; min-width: 304px; padding-right: 10px; }
  .wbp-left .widget-dropdown > .widget-label, .wbp-left .widget-text > .widget-label
    { width: 136px !important; }
  .wbp-price .widget-text { width: 214px; }
  .wbp-right { padding-left: 10px; }
  .wbp-card > div { gap: 8px; }
}
</style>
"""
