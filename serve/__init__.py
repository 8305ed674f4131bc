"""Online serving of a release on Ray Serve."""
