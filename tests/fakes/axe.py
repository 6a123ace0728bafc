"""axe-core, the accessibility checker, on a page of the browser."""

from importlib.metadata import distribution

SCRIPT = distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js")
RUN = """
axe.run().then(results => results.violations
  .filter(found => found.impact == "serious" || found.impact == "critical")
  .map(found => found.id + ": " + found.nodes.map(node => node.html + " " + node.failureSummary).join("; ")))
"""


def violations(page):
    """The serious and critical violations, each with the elements that it is about."""
    page.evaluate(SCRIPT.read_text("utf-8"))
    return page.evaluate(RUN)
