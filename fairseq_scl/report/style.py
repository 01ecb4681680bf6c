"""The style sheet of a report's page, for light and dark, wide and narrow screens."""

STYLE = """
:root { color-scheme: light dark;
  --text: #1c1c1e; --soft: #5b5b60; --line: #d9d9de; --back: #ffffff; --band: #f5f5f7;
  --good: #1d7a3e; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --text: #e8e8ea; --soft: #a2a2a8; --line: #3a3a3f; --back: #161618; --band: #1f1f23;
  --good: #6fce8f; --bad: #f2958d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
    sans-serif;
  color: var(--text); background: var(--back); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .875rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .65rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
.prose td:last-child { white-space: normal; min-width: 18rem; }
th.name, td.name { text-align: left; }
thead th { border-bottom: 1px solid var(--line); }
thead tr.groups th { text-align: center; border-bottom: 0; padding-bottom: 0; }
tbody tr:nth-child(even) { background: var(--band); }
.verdicts { list-style: none; padding: 0; margin: 1rem 0; }
.verdicts li { padding: .35rem .75rem; margin: .25rem 0; background: var(--band);
  border-left: 4px solid var(--line); border-radius: 3px; }
.verdicts li.helped { border-color: var(--good); }
.verdicts li.hurt { border-color: var(--bad); }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
.wide { max-width: 62rem; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 30rem; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px;
  background: #ffffff; }
pre, .line { font: .8125rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono",
    monospace; white-space: pre-wrap; overflow-wrap: anywhere; background: var(--band);
  border-radius: 6px; padding: .75rem; margin: .5rem 0; }
ul { padding-left: 1.25rem; }
li code, td code { overflow-wrap: anywhere; white-space: normal; }
"""
