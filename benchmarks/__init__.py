"""How fast is it, against the plain way of doing the same? Measured, never tested: see docs/performance.md."""
