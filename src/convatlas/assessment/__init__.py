"""How good a run is: what it is shown, what it makes of that, the record and report that are kept; one file a task."""
