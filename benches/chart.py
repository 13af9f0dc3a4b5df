"""The charts of a run, as SVG: six panels of horizontal bars, one bar per server, medians with their range; and lines of the
cost of a connection against workers and open connections."""

import math
import statistics

# Okabe and Ito's palette: distinct with any kind of colour vision, and in grey.
MASTER, WORKERS, PLAIN, INK, FAINT = "#D55E00", "#56B4E9", "#0072B2", "#222222", "#777777"
PANEL_WIDTH, LABEL_WIDTH, VALUE_WIDTH, BAR, GAP = 490, 112, 130, 20, 10
PANELS = [
    # title, load, the parts of a bar, format of the figure
    ("CPU per new connection, µs", "close", [("master_us", MASTER), ("workers_us", WORKERS)], "{:.1f}"),
    ("CPU per kept request, µs", "kept", [("master_us", MASTER), ("workers_us", WORKERS)], "{:.1f}"),
    ("New connections per second", "close", [("rate", PLAIN)], "{:,.0f}"),
    ("Requests per second, kept connections", "kept", [("rate", PLAIN)], "{:,.0f}"),
    ("p99 with new connections, ms", "close", [("p99_ms", PLAIN)], "{:.1f}"),
    ("p99 with kept connections, ms", "kept", [("p99_ms", PLAIN)], "{:.1f}"),
]


def draw(results, figures):
    """`figures(results, name, load, key)` returns a server's figures, one per round."""
    names = results["servers"]
    panels = [panel for panel in PANELS if all(figures(results, name, panel[1], "rate") for name in names)]
    panel_height = 44 + len(names) * (BAR + GAP)
    width, height = 2 * PANEL_WIDTH + 60, 84 + math.ceil(len(panels) / 2) * (panel_height + 14)
    parts = page(width, height, "prefork and its peers", results,
                 f"64 clients, 2 workers; median of {len(results['rounds'])} rounds, thin lines from minimum to maximum")
    parts += legend(width - 200, 30, [("master", MASTER), ("workers", WORKERS)])
    for i, panel in enumerate(panels):
        x = 20 + (i % 2) * (PANEL_WIDTH + 20)
        y = 76 + (i // 2) * (panel_height + 14)
        parts += draw_panel(x, y, panel, names, lambda name, key, load=panel[1]: figures(results, name, load, key))
    return "\n".join(parts + ["</svg>\n"])


def page(width, height, title, results, how):
    machine = results["machine"]
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(20, 30, title, size=19, weight="bold"),
        text(20, 50, f"{machine['cores']} × {machine['cpu']}, {how}", fill=FAINT, size=12),
    ]


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


def legend(x, y, entries, step=90):
    parts = []
    for i, (name, colour) in enumerate(entries):
        parts.append(f'<rect x="{x + i * step}" y="{y - 11}" width="13" height="13" fill="{colour}"/>')
        parts.append(text(x + i * step + 19, y, name))
    return parts


# ---- the cost of a connection against workers and open connections ----

LINES = [("prefork", "cpu_us", PLAIN), ("prefork", "master_us", MASTER), ("bare-batches", "cpu_us", FAINT)]
LINE_NAMES = {"cpu_us": "", "master_us": ", master"}
PLOT_WIDTH, PLOT_HEIGHT, AXIS = 400, 220, 50


def draw_scale(results, costs, points):
    """`costs(results, series, name, size, key)` returns the figures of the rounds, `points(results, series, name)` the sizes."""
    width, height = 2 * (PLOT_WIDTH + 80) + 20, PLOT_HEIGHT + 150
    parts = page(width, height, "CPU per new connection, µs", results,
                 f"64 clients; median of {len(results['scale'])} rounds, thin lines from minimum to maximum")
    lines = [line for line in LINES if points(results, "workers", line[0])]
    parts += legend(width - 160 * len(lines), 30, [(name + LINE_NAMES[key], colour) for name, key, colour in lines], step=160)
    for i, (series, title) in enumerate([("workers", "with workers"), ("open", "with open connections, idle, 4 workers")]):
        values = {(name, key): {size: costs(results, series, name, size, key) for size in points(results, series, name)}
                  for name, key, _ in lines}
        parts += draw_lines(20 + i * (PLOT_WIDTH + 80), 76, title, values, lines)
    return "\n".join(parts + ["</svg>\n"])


def draw_lines(x, y, title, values, lines):
    sizes = sorted({size for of in values.values() for size in of})
    top = max(max(of) for line in values.values() for of in line.values()) * 1.1
    left, bottom = x + AXIS, y + 34 + PLOT_HEIGHT
    spread = math.log(sizes[-1] / sizes[0]) or 1
    at = lambda size: left + 14 + math.log(size / sizes[0]) / spread * (PLOT_WIDTH - AXIS - 28)  # noqa: E731
    level = lambda value: bottom - value / top * PLOT_HEIGHT  # noqa: E731
    parts = [text(x, y + 16, title, weight="bold"),
             f'<path d="M{left} {bottom - PLOT_HEIGHT}V{bottom}H{x + PLOT_WIDTH}" stroke="{FAINT}" fill="none"/>']
    step = 10 ** math.floor(math.log10(top)) / 2
    step = step if top / step <= 8 else step * 2
    for n in range(int(top / step) + 1):
        parts.append(text(left - 8, level(n * step) + 4, f"{n * step:g}", anchor="end", size=11))
        parts.append(f'<path d="M{left} {level(n * step):.1f}H{x + PLOT_WIDTH}" stroke="{FAINT}" stroke-width="0.3"/>')
    parts += [text(at(size), bottom + 18, f"{size:,}", anchor="middle", size=11) for size in sizes]
    for name, key, colour in lines:
        of = values[name, key]
        path = "L".join(f"{at(size):.1f} {level(statistics.median(of[size])):.1f}" for size in sorted(of))
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        for size in of:
            parts.append(f'<circle cx="{at(size):.1f}" cy="{level(statistics.median(of[size])):.1f}" r="3.5" fill="{colour}"/>')
            parts.append(f'<path d="M{at(size):.1f} {level(min(of[size])):.1f}V{level(max(of[size])):.1f}" stroke="{colour}"/>')
    return parts


def text(x, y, content, size=13, weight="normal", anchor="start", fill=INK):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
            f'fill="{fill}">{content}</text>')
