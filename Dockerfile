# PyTorch's wheels carry CUDA 13: the host needs the NVIDIA container toolkit and driver 580 or newer.
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 likeness && mkdir /models && chown likeness /models
WORKDIR /app

# Dependencies first, so that a change of the code does not fetch 5 GB again.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir worker sql && touch worker/__init__.py && pip install --no-cache-dir '.[gpu]' && pip uninstall --yes likeness-worker

COPY worker worker
COPY sql sql
RUN pip install --no-cache-dir --no-deps .

USER likeness
ENV MODELS_DIR=/models/bases LOG_FORMAT=json PYTHONUNBUFFERED=1
VOLUME /models

# exec form: SIGTERM reaches the worker itself
ENTRYPOINT ["worker"]
CMD ["run"]
