"""The page's style sheet. Nothing is fetched from anywhere.

Blue and orange stay apart for every common kind of colour blindness; both have a lighter form on dark ground.
"""

_COLOURS = """
:root{color-scheme:light dark;--paper:#fbfaf6;--card:#fff;--ink:#1c2321;--soft:#59635e;--line:#dfdcd2;--faint:#efede5;
--accent:#1f6b4c;--plus:#2166ac;--minus:#c25a12;--heat:#1f6b4c;--felt:#3f8462;--feltline:#2c6248;--black:#16191a;
--white:#f8f7f1;--ring:#ffd23f;--good:#1f6b4c;
--sans:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif;
--serif:"Iowan Old Style","Palatino Linotype",Palatino,"Book Antiqua",Georgia,"Liberation Serif",serif}
@media (prefers-color-scheme:dark){:root{--paper:#131715;--card:#1a1f1c;--ink:#e7e9e4;--soft:#a2aba5;--line:#333a36;
--faint:#232926;--accent:#6cc49b;--plus:#6aaee8;--minus:#f0924a;--heat:#4fae83;--felt:#2f6a4e;--feltline:#1f4a36;
--black:#0b0d0c;--white:#eceae2;--good:#6cc49b}}
"""

_BOARDS = """
svg{font-family:var(--sans);font-variant-numeric:tabular-nums}
svg text{fill:var(--ink);font-size:12px;text-anchor:middle;dominant-baseline:central}
.board .coords text{fill:var(--soft);font-size:11px}
.board .felt{fill:var(--felt)}.board .grid{fill:none;stroke:var(--feltline);stroke-width:1}
.board .black{fill:var(--black);stroke:#0006}.board .white{fill:var(--white);stroke:#0003}
.board .last{fill:#e4572e}
.board .ring{fill:none;stroke:var(--ring);stroke-width:3}
.board .mark{fill:none;stroke:#fff;stroke-width:2;stroke-dasharray:4 3}
"""

BOARD_PICTURE = _COLOURS + _BOARDS
"""for a board that stands in a file of its own"""

CSS = (
    _COLOURS
    + _BOARDS
    + """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--sans);font-variant-numeric:tabular-nums}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 28px}
header{padding-top:52px}
h1,h2{font-family:var(--serif);font-weight:600;line-height:1.15;letter-spacing:-.01em;text-wrap:balance}
h1{font-size:clamp(30px,5vw,44px);margin:0 0 8px}
h2{font-size:clamp(24px,3.4vw,30px);margin:0 0 10px}
h3{font-size:16px;margin:30px 0 4px;line-height:1.3}
p{margin:0 0 12px;max-width:68ch}
.meta{color:var(--soft);font-size:14px}
.lead{font-size:17px}
.bad{color:var(--soft)}
a{color:var(--accent)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:18px 0 0;padding:10px 0;border-block:1px solid var(--line);
font-size:14px}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
section{padding:48px 0 6px;scroll-margin-top:8px}
section+section{border-top:1px solid var(--line);margin-top:34px}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:14px;margin:18px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:15px 18px}
.tile b{display:block;font:600 31px/1.15 var(--serif);margin:2px 0 4px;letter-spacing:-.01em}
.tile .of{font-size:13.5px;font-weight:600;color:var(--accent)}
.tile small{display:block;font-size:13.5px;line-height:1.45;color:var(--soft)}
.cols{display:grid;grid-template-columns:repeat(2,1fr);gap:22px 30px;margin:16px 0}
.cols.three{grid-template-columns:repeat(3,1fr)}
figure{margin:0;min-width:0}
figcaption{font-size:13.5px;line-height:1.45;color:var(--soft);margin-top:4px}
figcaption b{color:var(--ink)}
.head{margin:0 0 2px;color:var(--ink);font-size:14px;font-weight:600}
dl.facts{display:grid;grid-template-columns:auto auto;gap:5px 18px;margin:0;font-size:14px;align-self:start;
justify-content:space-between;background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:16px 20px}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;text-align:right;font-weight:600}
.scroll{overflow-x:auto;margin:12px 0;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:14px}
caption{caption-side:top;text-align:left;color:var(--soft);padding:10px 14px 0}
th,td{padding:7px 14px;text-align:left;border-top:1px solid var(--faint);vertical-align:middle}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:13px;line-height:1.25;vertical-align:bottom;
padding-top:10px}
td.n,th.n{text-align:right;white-space:nowrap}
tr:first-child.ours td,td b{font-weight:650}
td.cell{position:relative;text-align:center;min-width:74px;
background:color-mix(in srgb,var(--plus) var(--deep),transparent)}
td.cell.low{background:color-mix(in srgb,var(--minus) var(--deep),transparent)}
.verdict{font-weight:600}.verdict.trim{color:var(--minus)}.verdict.keep{color:var(--plus)}
.verdict.unsure,.verdict.mixed{color:var(--soft)}
details{margin:12px 0}
summary{cursor:pointer;color:var(--accent);font-size:14.5px;font-weight:600;padding:4px 0}
svg{display:block;width:100%;height:auto}
.chart{max-width:520px}
.chart .axis{fill:var(--soft);font-size:12px}.cols.three .chart .axis{font-size:14.5px}.chart .axis.y{text-anchor:end}
.chart .rule{stroke:var(--line);stroke-width:1;fill:none}
.chart .line{fill:none;stroke:var(--accent);stroke-width:2.2;stroke-linejoin:round}
.chart .end{fill:var(--accent)}
.chart .reference{stroke:var(--minus);stroke-width:1.6;stroke-dasharray:5 4;fill:none}
.chart .note{fill:var(--minus);font-size:12px;text-anchor:start}
.chart .bar{fill:var(--soft);fill-opacity:.55}.chart .bar.ours{fill:var(--accent);fill-opacity:1}
.chart .barname,.chart .barvalue{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.chart .barname{text-anchor:start;font-size:13px}.chart .barvalue{text-anchor:start;font-size:13px;font-weight:600}
.heatmap .grid{stroke:var(--line)}
.heatmap .heat{fill:var(--heat)}.heatmap .plus{fill:var(--plus)}.heatmap .minus{fill:var(--minus)}
.heatmap text.strong{fill:#fff;font-size:11.5px}.heatmap text.weak{font-size:11.5px}
.heatmap .ring{stroke:var(--ink);stroke-width:2.4}
@media (prefers-color-scheme:dark){.heatmap text.strong{fill:#08120d}}
.feature{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:16px 0;
display:grid;
grid-template-columns:210px 1fr;gap:8px 26px}
.feature header{grid-column:1/-1;padding:0;margin:0;display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 16px;
max-width:none}
.feature header h3{margin:0;font:600 20px/1.2 var(--serif)}
.feature header p{margin:0;max-width:none;font-size:14px;color:var(--soft)}.feature header p b{color:var(--ink)}
.strip{display:flex;flex-wrap:wrap;gap:12px 18px;align-content:start}.strip figure{flex:1 1 150px;max-width:210px}
.strip figcaption{font-size:12.5px;line-height:1.35}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,320px));gap:26px;margin:14px 0}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13.5px;color:var(--soft);margin:10px 0}
.legend i{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:6px;vertical-align:-2px}
.legend .lp{background:var(--plus)}.legend .lm{background:var(--minus)}.legend .lr{border:2.5px solid var(--ring)}
.legend .lk{border:2.5px solid var(--ink)}.legend .ll{background:#e4572e;border-radius:50%}
.legend .ld{border:2px dashed var(--ink)}
footer{padding-top:30px;padding-bottom:60px;color:var(--soft);font-size:13.5px}
@media (max-width:960px){.cols.three{grid-template-columns:repeat(2,1fr)}}
@media (max-width:699px){main,header,footer{padding-left:16px;padding-right:16px}header{padding-top:30px}
section{padding-top:34px}
.tiles{grid-template-columns:repeat(2,1fr);gap:10px}.tile{padding:12px 13px}.tile b{font-size:25px}
.cols,.cols.three,.feature{grid-template-columns:minmax(0,1fr)}.feature{padding:15px 14px}
.pair{gap:14px;grid-template-columns:repeat(2,minmax(0,1fr))}.pair:has(.heatmap){grid-template-columns:minmax(0,1fr)}
.strip figure{flex:0 1 calc(50% - 9px)}.feature>figure{max-width:290px}
th,td{padding:6px 10px}}
@media (max-width:359px){.tiles{grid-template-columns:1fr}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{.scroll{overflow:visible}.feature,figure,.tile{break-inside:avoid}}
"""
)
