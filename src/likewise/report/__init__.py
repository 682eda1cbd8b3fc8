"""One HTML file that shows how good a representation is. It reads folders on disk, never a model."""

from likewise.report.write import write_report

__all__ = ["write_report"]
