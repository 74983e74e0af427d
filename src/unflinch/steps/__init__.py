"""The steps of a run, one file each: they gather what a step needs, call the packages below and fill the run folder."""
