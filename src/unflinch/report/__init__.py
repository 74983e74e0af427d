"""A leaf: reads a run folder and writes what a person reads, `report.html` and the model card."""
