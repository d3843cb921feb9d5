"""What the commands share: runs and their records, statistics, verdicts, tables, pictures,
flags."""
