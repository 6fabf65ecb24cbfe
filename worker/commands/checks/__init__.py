"""What `worker doctor` checks, one file per part of the installation. `worker storage init` uses two of them."""
