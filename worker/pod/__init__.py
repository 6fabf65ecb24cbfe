"""What a pod does around the claim loop: it runs claimed jobs, holds the session connection, sends heartbeats,
registers its routes, keeps house, prefetches for the next job, and checks the installation before it starts.
"""
