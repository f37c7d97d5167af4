"""The report: one page about one run, which a person is glad to open and a stranger's data cannot harm.

The workflows fill a `ReportContent`; `render_report` lays it out and `write_report` writes it as one self-contained
HTML file. `verdict` puts scores into words. The figures of the page are in `figures` and `curves`, for use elsewhere;
`picture_grid` and `write_png_grid` make pictures of pictures, `write_pictures` single files.
"""

from advect.report.content import DataSummary, ErrorCurve, FigureCurve, History, Likelihood, Regression, ReportContent
from advect.report.density import DensityGrid
from advect.report.images import picture_grid, write_pictures, write_png_grid
from advect.report.motion import Motion
from advect.report.page import render_report, write_report
from advect.report.verdict import judge, verdict

__all__ = [
    "DataSummary",
    "DensityGrid",
    "ErrorCurve",
    "FigureCurve",
    "History",
    "Likelihood",
    "Motion",
    "Regression",
    "ReportContent",
    "judge",
    "picture_grid",
    "render_report",
    "verdict",
    "write_pictures",
    "write_png_grid",
    "write_report",
]
