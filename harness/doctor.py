"""What tests ask of the doctor's findings."""

from collections.abc import Iterable

from pipeline.health.findings import Finding


def wrong(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The findings with a fault, by what they say."""
    return {finding.what: finding for finding in findings if not finding.ok}
