"""Tables and plots, written as Markdown and SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = [
    "PSS_EXPLAINED",
    "Aim",
    "Cell",
    "Plot",
    "Table",
    "at_least",
    "at_most",
    "document",
    "shown",
    "table_of_aims",
    "write",
]

Cell = str | float | None

PSS_EXPLAINED = (
    "PSS (proportional set size) is the memory of a server: the pages that several processes share "
    "are divided among them."
)
"""The meaning of a column with memory, for a note."""


@dataclass(frozen=True)
class Table:
    """A table of results. Numbers are shown with three significant digits, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    """A sentence or more below the table."""

    def markdown(self) -> str:
        """Return the title, the table and the note."""
        lines = [list(self.columns), *([shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        are_numbers = [
            any(isinstance(row[place], int | float) for row in self.rows)
            for place in range(len(self.columns))
        ]
        padded = [
            [
                cell.rjust(width) if is_number else cell.ljust(width)
                for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
            ]
            for line in lines
        ]
        rule = [
            "-" * (width - 1) + (":" if is_number else "-")
            for width, is_number in zip(widths, are_numbers, strict=True)
        ]
        table = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
        return "\n".join([f"### {self.title}", "", *table, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Aim:
    """A figure of a run, and the aim of the project for it: CONTRIBUTING.md lists all aims."""

    figure: str
    """The name of the figure."""
    measured: Cell
    wanted: str
    is_met: bool | None
    """None: the run cannot tell."""
    of_rounds: Sequence[float] = ()
    """The figure of each round, if ``measured`` is their median."""

    @property
    def range(self) -> str | None:
        """The lowest and the highest figure of the rounds; None if there was one round."""
        if len(self.of_rounds) < 2:
            return None
        return f"{shown(min(self.of_rounds))} to {shown(max(self.of_rounds))}"


def at_least(figure: str, of_rounds: Sequence[float], bound: float) -> Aim:
    """Return the aim that the median of a figure has this value or more."""
    measured = median(of_rounds)
    return Aim(figure, measured, f"at least {bound:g}", measured >= bound, of_rounds)


def at_most(figure: str, of_rounds: Sequence[float], bound: float) -> Aim:
    """Return the aim that the median of a figure has this value or less."""
    measured = median(of_rounds)
    return Aim(figure, measured, f"at most {bound:g}", measured <= bound, of_rounds)


MET = {True: "yes", False: "no", None: ""}
"""The column ``met`` of an aim."""


def table_of_aims(aims: Sequence[Aim], note: str = "") -> Table:
    """Return the table of the aims of an experiment."""
    rows = [[aim.figure, aim.measured, aim.range, aim.wanted, MET[aim.is_met]] for aim in aims]
    return Table("Aims", ("figure", "measured", "lowest to highest", "aim", "met"), rows, note)


@dataclass(frozen=True)
class Plot:
    """A plot of one or more series of points."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    """The points of each line, by its name."""
    log_x: bool = False
    log_y: bool = False
    """False: the axis begins at 0, so that the eye compares the values themselves."""

    @property
    def file(self) -> str:
        """The name of its SVG file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") + ".svg"

    def table(self) -> Table:
        """Return the points as a table: a row for each x, a column for each series."""
        values = {name: dict(points) for name, points in self.series.items()}
        every_x = sorted({x for points in self.series.values() for x, _ in points})
        rows = [[x, *(points.get(x) for points in values.values())] for x in every_x]
        return Table(f"{self.title}: {self.y_label}", [self.x_label, *values], rows)

    def markdown(self) -> str:
        """Return the points as a table, and the link to the plot."""
        return f"{self.table().markdown()}\n\n![{self.title}]({self.file})"

    def write_svg(self, folder: Path) -> None:
        """Draw the plot, and write it to the folder. It needs matplotlib."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(
            title=self.title,
            xlabel=self.x_label,
            ylabel=self.y_label,
            xscale="log" if self.log_x else "linear",
            yscale="log" if self.log_y else "linear",
        )
        for name, points in self.series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
        if not self.log_y:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        figure.savefig(folder / self.file, format="svg")


def shown(cell: Cell) -> str:
    """Return the text of a cell: a number with three significant digits, at most."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if cell == 0 or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def document(experiment: str, results: Sequence[Table | Plot], circumstances: str = "") -> str:
    """Return the results of an experiment, below the circumstances of its run, as Markdown."""
    parts = [f"## {experiment}", circumstances, *(result.markdown() for result in results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(experiment: str, text: str, results: Sequence[Table | Plot], folder: Path) -> Path:
    """Write this text to ``NAME.md``, and the plots beside it, and return that file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{experiment}.md"
    path.write_text(text, encoding="utf-8")
    for result in results:
        if isinstance(result, Plot):
            result.write_svg(folder)
    return path
