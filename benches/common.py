"""What run.py and lifecycle.py share: figures of this machine, tables, goals."""

import os
import platform
import resource
import statistics
import sys

CLIENTS = 64
WORKERS = 2
QUIET = 0.05  # share of the machine that other processes may use without spoiling a measurement


def progress(text):
    print(text, file=sys.stderr, flush=True)


def machine():
    model = "unknown"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]}


def reaped_cpu():
    """CPU seconds of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rotated(names, turn):
    return names[turn % len(names):] + names[:turn % len(names)]


# ---- figures ----


def median(values):
    """The median, or None if there are no values."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def spread(values, form="{:.1f}"):
    """Median (minimum–maximum)."""
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def show(values, form="{:.1f}"):
    return spread(values, form) if values else "–"


def times(values):
    return f"{statistics.median(values):.2f}×" if values else "–"


# ---- Markdown ----


def table(head, rows):
    return [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def met(seen, relation, limit):
    return {"≤": seen <= limit, "<": seen < limit, "≥": seen >= limit}[relation]


def goal_table(goals):
    """Each goal is (what, figure or None, format, relation, limit)."""
    lines = ["### Goals", "", "| measure | figure | goal | |", "|---|--:|--:|---|"]
    for what, seen, form, relation, limit in goals:
        verdict = "not measured" if seen is None else "met" if met(seen, relation, limit) else "**missed**"
        lines.append(f"| {what} | {'–' if seen is None else form.format(seen)} | {relation} {form.format(limit)} | {verdict} |")
    return lines + [""]


def missed(goals):
    return any(seen is None or not met(seen, relation, limit) for _, seen, _, relation, limit in goals)
