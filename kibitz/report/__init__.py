"""One self-contained HTML page per run of `kibitz demo`."""

from kibitz.report.data import ReportData, ReportDataError
from kibitz.report.page import report_html, write_report

__all__ = ["ReportData", "ReportDataError", "report_html", "write_report"]
