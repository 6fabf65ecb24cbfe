"""A kind of job that does nothing on the GPU, for measuring what is around a job."""
