"""Base models from a public hub, for `worker models pull` alone: which files, what its errors mean, the download."""
