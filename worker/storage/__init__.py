"""The object store, and a pod's own disk: caches, folders of attempts, encoded pictures, checksums and sizes."""
