"""How a report looks: one style sheet, light and dark, phone and desktop, no font or image from elsewhere."""

NUM_STYLES = 8
"""Series that differ by colour and dash; further ones begin again."""

# Okabe and Ito's palette, told apart by colour-blind readers, darkened or lightened to stand out from the page.
_LIGHT = ("#0067a5", "#c44e00", "#00805e", "#a8447f", "#8a6a00", "#3a8fc4", "#444a55", "#7a3db8")
_DARK = ("#5ab4f0", "#ff9455", "#3dcfa4", "#ee9dcb", "#ecc14a", "#9ad4f7", "#c9ced8", "#c49bf5")
_DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 4", "1 4", "6 2 1 2 1 2")


def _series(colours: tuple[str, ...]) -> str:
    return "".join(f"--s{number}:{colour};" for number, colour in enumerate(colours))


_SERIES = "".join(
    f".s{n}{{stroke:var(--s{n});fill:var(--s{n});--dash:{dash}}}.s{n} .line{{stroke-dasharray:{dash}}}"
    for n, dash in enumerate(_DASHES)
)

STYLE = (
    f":root{{color-scheme:light dark;{_series(_LIGHT)}"
    "--page:#f6f7f9;--card:#fff;--ink:#1b1f27;--quiet:#5a6272;--line:#d8dce3;--grid:#e7eaef;--accent:#0067a5;"
    "--heat:#56b4e9;--bad:#a63a00;--bad-soft:#fdeee4;--good:#006b4e;--good-soft:#e3f5ee;--soft:#eef1f5}"
    f"@media (prefers-color-scheme:dark){{:root{{{_series(_DARK)}"
    "--page:#12151a;--card:#1b1f26;--ink:#e8ebf0;--quiet:#a0a8b6;--line:#333a45;--grid:#2a303a;--accent:#5ab4f0;"
    "--heat:#1777b0;--bad:#ffa26b;--bad-soft:#3a2418;--good:#58d6ae;--good-soft:#16332b;--soft:#252b34}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:76rem;margin:0 auto;padding:1.25rem 1rem 4rem}"
    "h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0;overflow-wrap:anywhere}"
    "h2{font-size:1.15rem;margin:0 0 .25rem}"
    "h3{font-size:.95rem;margin:0 0 .25rem;font-weight:600}"
    ".note,.facts{color:var(--quiet);font-size:.875rem;margin:.1rem 0 .75rem;overflow-wrap:anywhere;max-width:50rem}"
    ".headline{font-size:1.05rem;margin:.5rem 0 0;max-width:50rem}"
    "section{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1rem;margin-top:1rem}"
    ".scroll{overflow-x:auto;margin:0 -1rem;padding:0 1rem}"
    ".scroll+.scroll{margin-top:1rem}"
    "table{border-collapse:separate;border-spacing:0;font-size:.875rem;font-variant-numeric:tabular-nums;min-width:100%}"
    "th,td{text-align:right;padding:.4rem .6rem;border-top:1px solid var(--line);vertical-align:top}"
    "thead th{font-weight:600;color:var(--quiet);border-top:0;vertical-align:bottom;line-height:1.25;min-width:3.6rem}"
    "tbody th{text-align:left;font-weight:600;position:sticky;left:-1rem;background:var(--card);"
    "overflow-wrap:break-word;min-width:7rem;max-width:9rem}"
    "@media(min-width:48rem){tbody th{min-width:11rem;max-width:18rem}}"
    "thead th:first-child{text-align:left}"
    "td small,th small{display:block;color:var(--quiet);font-weight:400;white-space:nowrap}"
    ".reasons{display:block;min-width:16rem;text-align:left;color:var(--quiet);font-size:.8125rem}"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.5rem 1.25rem}"
    ".scroll+.plots{margin-top:1.25rem}div>h1,main>h1{margin-top:2rem}"
    ".plots.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}"
    "figure{margin:0;min-width:0}"
    "figure svg{display:block;width:100%;height:auto;max-width:34rem}"
    "figcaption{color:var(--quiet);font-size:.8125rem;max-width:34rem}"
    "svg text{fill:var(--quiet);stroke:none;font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}"
    "svg .strong{fill:var(--ink)}svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:3}"
    "svg .grid{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--quiet);stroke-width:1;fill:none}"
    "svg .zero{stroke:var(--quiet);stroke-dasharray:3 3}"
    "svg .line{fill:none;stroke-width:2;stroke-linejoin:round}svg .area{stroke:none;fill-opacity:.12}"
    "svg circle{stroke:var(--card);stroke-width:1.5}svg .error{stroke-width:1.5;fill:none}"
    "svg .bar{stroke:none;fill:var(--accent);fill-opacity:.75}svg .rail{stroke:none;fill:var(--soft)}"
    "svg .whisker{stroke:var(--ink);stroke-width:1.5;fill:none}"
    "svg .cell{fill:var(--heat);stroke:var(--card);stroke-width:2}"
    f"{_SERIES}"
    ".legend{display:flex;flex-wrap:wrap;gap:.35rem .9rem;margin:.25rem 0 1rem;padding:0;border:0;font-size:.875rem}"
    ".legend legend{color:var(--quiet);font-size:.8125rem;padding:0;margin-bottom:.25rem}"
    ".legend label{display:inline-flex;align-items:center;gap:.4rem;cursor:pointer;min-height:1.75rem}"
    ".legend svg{width:2.4rem;height:.75rem;flex:none}"
    ".legend input{accent-color:var(--accent);width:1rem;height:1rem;margin:0}"
    "details{border-top:1px solid var(--line)}"
    "details.plain{border:0;margin-top:.75rem}"
    "summary{cursor:pointer;padding:.6rem 0;overflow-wrap:anywhere}"
    "summary .id{margin-left:.4rem}"
    ".id{color:var(--quiet);font-size:.8125rem;overflow-wrap:anywhere;font-weight:400}"
    ".doc{border-left:4px solid var(--line);padding:.1rem 0 .1rem .75rem;margin:.25rem 0 .9rem}"
    ".doc.positive{border-color:var(--good)}.doc.negative{border-color:var(--accent)}"
    ".doc p{margin:.2rem 0 0;overflow-wrap:anywhere;font-size:.9375rem}"
    ".chips{display:flex;flex-wrap:wrap;gap:.3rem .4rem;align-items:baseline;font-size:.8125rem}"
    ".chip{border-radius:.35rem;padding:.05rem .4rem;background:var(--soft);overflow-wrap:anywhere}"
    ".chip.positive{background:var(--good-soft);color:var(--good);font-weight:600}"
    ".chip.flag{background:var(--bad-soft);color:var(--bad);font-weight:600}"
    ".chip.role{font-weight:600}summary .chip{white-space:nowrap;font-size:.8125rem}"
    "dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1rem;margin:.5rem 0 0}"
    "dl{font-size:.875rem}"
    "dt{font-weight:600}dd{margin:0;color:var(--quiet)}"
    "pre{overflow:auto;background:var(--soft);border-radius:.5rem;padding:.75rem;font-size:.8125rem;max-height:30rem}"
    ":focus-visible{outline:2px solid var(--accent);outline-offset:2px}"
    "@media print{section{break-inside:avoid;border:0}}"
)
"""The style sheet, whole."""
