"""The command line: one file per verb; heavy modules load when a verb begins its work."""
