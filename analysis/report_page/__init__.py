"""The page that report.py writes: its sections, its template and its style."""
