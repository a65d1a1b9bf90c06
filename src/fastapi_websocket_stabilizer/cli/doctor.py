"""``stabilizer doctor``: a check of a registry's Redis."""

import asyncio

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..backends.redis.doctor.diagnosis import Finding, Level
from ..backends.redis.doctor.examination import examine

STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.CHANGE: "bold red"}


def run_doctor(url: str, namespace: str, timeout_s: float) -> bool:
    """Print every finding. Return True if no change is necessary.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    findings = asyncio.run(examine(url, namespace, timeout_s))
    console = Console()
    console.print(_table(findings))
    wrong = [finding for finding in findings if finding.level is not Level.OK]
    for finding in wrong:
        where = f" {finding.server}" if finding.server else ""
        # Separate lines without wrapping, so that commands in the advice can be copied.
        console.print(
            f"{finding.level.value}: {finding.check}{where}: {finding.advice}", soft_wrap=True, markup=False
        )
    return all(finding.level is not Level.CHANGE for finding in findings)


def _table(findings: list[Finding]) -> Table:
    table = Table("check", "server", "found", "")
    for finding in findings:
        level = Text(finding.level.value, STYLES[finding.level])
        table.add_row(finding.check, finding.server, Text(finding.found), level)
    return table
