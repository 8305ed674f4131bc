"""Where work runs and where its results live: one cluster definition, artifacts, runs."""
