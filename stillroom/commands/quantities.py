"""Bytes, seconds, parameters, operations and places as people read them."""

from __future__ import annotations

from pathlib import Path


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one digit before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as 12 s, 1m 40s or 2h 05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def parameters(count: int) -> str:
    """How many parameters, in thousands or millions: 836, 2.84 k, 29.20 M; ? of a callable."""
    if count == 0:
        return "?"  # not none: a callable, or an ONNX graph, does not show them
    if count < 1000:
        return f"{count}"
    return f"{count / 1e3:.2f} k" if count < 999_995 else f"{count / 1e6:.2f} M"


def place(path: Path | str) -> str:
    """Where a file or folder is, wherever one reads this: an absolute path, or a URL as it is."""
    return str(path) if "://" in str(path) else str(Path(path).absolute())


def gflops(count: int) -> str:
    """Floating-point operations in 10^9, two digits of them where two decimals would be 0.00."""
    if count == 0:
        return "?"
    billions = count / 1e9
    return f"{billions:.2f}" if billions >= 0.01 else f"{billions:.2g}"
