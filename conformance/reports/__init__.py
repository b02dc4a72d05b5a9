"""What is made of a run's findings: the JSON report, and all that is drawn from it."""
