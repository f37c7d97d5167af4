"""The page of a comparison: methods side by side, with the verdict first."""

from advect.report.comparison.content import ComparisonContent, MethodRow
from advect.report.comparison.page import render_comparison, write_comparison

__all__ = ["ComparisonContent", "MethodRow", "render_comparison", "write_comparison"]
