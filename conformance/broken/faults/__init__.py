"""The faults, one file for each area of requirements."""
