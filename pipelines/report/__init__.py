"""Report: the audit of mined negatives, and one self-contained page on a run."""
