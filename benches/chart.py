"""The chart of a run, as SVG: six panels of horizontal bars, one bar per server, medians with their range."""

import statistics

# Okabe and Ito's palette: distinct with any kind of colour vision, and in grey.
MASTER, WORKERS, PLAIN, INK, FAINT = "#D55E00", "#56B4E9", "#0072B2", "#222222", "#777777"
PANEL_WIDTH, LABEL_WIDTH, VALUE_WIDTH, BAR, GAP = 470, 86, 130, 20, 10
PANELS = [
    # title, load, the parts of a bar, format of the figure
    ("CPU per new connection, µs", "close", [("master_us", MASTER), ("workers_us", WORKERS)], "{:.1f}"),
    ("CPU per keep-alive request, µs", "keep", [("master_us", MASTER), ("workers_us", WORKERS)], "{:.1f}"),
    ("New connections per second", "close", [("rate", PLAIN)], "{:,.0f}"),
    ("Keep-alive requests per second", "keep", [("rate", PLAIN)], "{:,.0f}"),
    ("p99 with new connections, ms", "close", [("p99_ms", PLAIN)], "{:.1f}"),
    ("p99 with keep-alive, ms", "keep", [("p99_ms", PLAIN)], "{:.1f}"),
]


def draw(results, figures):
    """`figures(results, name, load, key)` returns a server's figures, one per round."""
    names = results["servers"]
    panel_height = 44 + len(names) * (BAR + GAP)
    width, height = 2 * PANEL_WIDTH + 60, 84 + 3 * (panel_height + 14)
    machine = results["machine"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(20, 30, "prefork and its peers", size=19, weight="bold"),
        text(20, 50, f"{machine['cores']} × {machine['cpu']}, 64 clients, 2 workers; median of "
             f"{len(results['rounds'])} rounds, thin lines from minimum to maximum", fill=FAINT, size=12),
    ]
    parts += legend(width - 200, 30)
    for i, panel in enumerate(PANELS):
        x = 20 + (i % 2) * (PANEL_WIDTH + 20)
        y = 76 + (i // 2) * (panel_height + 14)
        parts += draw_panel(x, y, panel, names, lambda name, key, load=panel[1]: figures(results, name, load, key))
    return "\n".join(parts + ["</svg>\n"])


def draw_panel(x, y, panel, names, values):
    title, _, series, form = panel
    totals = {name: [sum(round_) for round_ in zip(*(values(name, key) for key, _ in series))] for name in names}
    scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / (max(map(max, totals.values())) or 1)
    left = x + LABEL_WIDTH
    parts = [text(x, y + 16, title, weight="bold")]
    for row, name in enumerate(names):
        top = y + 30 + row * (BAR + GAP)
        parts.append(text(left - 8, top + 15, name, anchor="end", weight="bold" if name == "prefork" else "normal"))
        end = left
        for key, colour in series:
            part = statistics.median(values(name, key)) * scale
            parts.append(f'<rect x="{end:.1f}" y="{top}" width="{part:.1f}" height="{BAR}" fill="{colour}"/>')
            end += part
        low, high = left + min(totals[name]) * scale, left + max(totals[name]) * scale
        middle = top + BAR / 2
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8" '
                     f'stroke="{INK}" stroke-width="1.2" fill="none"/>')
        parts.append(text(max(end, high) + 7, top + 15, label(name, series, totals, values, form)))
    parts.append(f'<path d="M{left} {y + 26}v{len(names) * (BAR + GAP)}" stroke="{FAINT}" stroke-width="1"/>')
    return parts


def label(name, series, totals, values, form):
    whole = form.format(statistics.median(totals[name]))
    first = statistics.median(values(name, series[0][0]))
    return f"{whole} (master {form.format(first)})" if len(series) > 1 and first >= 0.05 else whole


def legend(x, y):
    parts = []
    for i, (name, colour) in enumerate([("master", MASTER), ("workers", WORKERS)]):
        parts.append(f'<rect x="{x + i * 90}" y="{y - 11}" width="13" height="13" fill="{colour}"/>')
        parts.append(text(x + i * 90 + 19, y, name))
    return parts


def text(x, y, content, size=13, weight="normal", anchor="start", fill=INK):
    return (f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
            f'fill="{fill}">{content}</text>')
