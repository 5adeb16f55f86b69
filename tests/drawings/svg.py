"""The shapes of the drawings, as SVG."""

from __future__ import annotations

from xml.sax.saxutils import escape

INK = "#1f2933"
LINE = "#7b8794"
PALE = "#cbd2d9"
PAPER = "#ffffff"
BAND = "#f5f7fa"

# Two colours for each shard: one for lines and borders, and a light one for areas.
STRONG = ("#1f5fa8", "#b4480f", "#23734a")
LIGHT = ("#dbe9f8", "#fbe3d4", "#d8f0e2")


class Drawing:
    """An SVG picture that grows by one shape per call.

    Args:
        width, height: in pixels.
        title: a description of the picture for screen readers.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" font-family="Helvetica, Arial, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/>'
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = PAPER,
        stroke: str = LINE,
        thick: float = 1.5,
        dashed: bool = False,
        round_: float = 5,
    ) -> None:
        """Add a rectangle, given its upper left corner."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{thick:g}"{dash}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        size: int = 14,
        fill: str = INK,
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Add a line of text; ``y`` is its middle."""
        more = ' font-weight="bold"' if bold else ""
        if mono:
            more += ' font-family="Menlo, Consolas, monospace"'
        self._lines.append(
            f'<text x="{x:g}" y="{y + size * 0.35:g}" text-anchor="{anchor}" font-size="{size}" fill="{fill}"{more}>'
            f"{escape(text)}</text>"
        )

    def line(
        self,
        *points: tuple[float, float],
        stroke: str = LINE,
        thick: float = 1.5,
        tip: bool = False,
        dashed: bool = False,
    ) -> None:
        """Add a line through points, with an arrow tip at its end if ``arrow`` is true."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        more = ' marker-end="url(#tip)"' if tip else ""
        if dashed:
            more += ' stroke-dasharray="4 3"'
        self._lines.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{thick:g}" '
            f'stroke-linejoin="round"{more}/>'
        )

    def svg(self) -> str:
        """Return the picture."""
        return "\n".join([*self._lines, "</svg>", ""])
