"""One file a kind of job: its request, the texts that are screened, its run. `worker/kinds.py` lists them."""
