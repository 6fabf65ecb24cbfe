"""A kind of job for Likeness: says words again, beside a person's picture."""
