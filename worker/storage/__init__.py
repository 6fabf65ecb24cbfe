"""The object store, and the pod's own disk: caches, the folders of attempts, encoded pictures."""
