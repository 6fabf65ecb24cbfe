"""One file for each kind of job: its request, its texts for screening, its handler. `worker/kinds.py` lists them."""
