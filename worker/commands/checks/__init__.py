"""What `worker doctor` checks, one file a part of the installation. `worker storage init` uses two of them."""
