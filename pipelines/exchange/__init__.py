"""Other tools' formats: read into BEIR's layout, and written from a run."""
