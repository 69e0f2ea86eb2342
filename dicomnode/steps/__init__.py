"""The steps of the pipeline: each joins owners that do not know each other, and records what it did."""
