"""How are numbers written on the page?"""

import math
from datetime import datetime

MINUS = "\u2212"


def number(value: float) -> str:
    """Three significant figures with a true minus sign; a dash for what is no number."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    elif value == 0:
        text = "0"
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.replace("-", MINUS)


def percent(share: float) -> str:
    return f"{share * 100:.1f}\u202f%" if math.isfinite(share) else "–"


def share(value: float) -> str:
    """In whole per cent."""
    return f"{100 * value:.0f}\u202f%" if math.isfinite(value) else "–"


def count(number: int, thing: str) -> str:
    """As 1 image, 1,000 images, 12 classes."""
    several = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{'' if number == 1 else several}"


def short_name(name: str) -> str:
    """A class name where room is scarce: of ImageNet's lists of synonyms the first."""
    return name.split(",")[0]


def duration(seconds: float) -> str:
    """As 40 s, 14 min, 3 h 5 min, 2 d 4 h."""
    if not math.isfinite(seconds):
        return "–"
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def ago(seconds: float) -> str:
    """How long ago something was: "just now" within a minute, so that it need not be told anew each second."""
    return "just now" if seconds < 60 else f"{duration(seconds)} ago"


def day_and_time(at: float) -> str:
    """A time, in seconds since 1970, as 3 Feb 2026, 14:05."""
    local = datetime.fromtimestamp(at).astimezone()
    return f"{local.day} {local:%b %Y, %H:%M}"


def megabytes(size: float) -> str:
    """Of bytes, in MB (10⁶): as 0.4 MB, 1,030 MB."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def ordinal(place: int) -> str:
    """As 1st, 2nd, 11th, 23rd."""
    ending = "th" if place // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
