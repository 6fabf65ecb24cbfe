"""What a pod does around the claim loop: it runs claimed jobs, holds the session connection, decides which routes it
offers, fetches ahead for the next job, and checks the installation before it starts.
"""
