# syntax=docker/dockerfile:1
# A pod's image. docker build -t likeness .   ·   docker run --gpus all --env-file .env -v models:/models likeness
#
# Driver floor: 580. requirements.lock pins PyTorch for CUDA 13.2, and any CUDA 13 runs on driver 580 or newer. The wheels
# bring every CUDA library, so the base is NVIDIA's smallest. What it adds: NVIDIA_REQUIRE_CUDA, by which the container
# toolkit refuses a host whose driver is too old, with a message, before anything starts. It is 13.0, the first of its
# line, so that it asks for no newer driver than the wheels need.
FROM nvidia/cuda:13.0.3-base-ubuntu24.04 AS dependencies

# tini is process 1: it passes SIGTERM on from the first moment and reaps what a killed GPU process leaves.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && useradd --create-home --uid 10001 likeness \
    && install --directory --owner likeness --group likeness /models /models/bases /models/cache
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Apart from the code, so that a change of it does not fetch 5 GB again. Every file is checked against its hash.
COPY requirements.lock /app/
RUN pip install --require-hashes --requirement /app/requirements.lock

WORKDIR /app

# --- the code alone; the build backend is in the lock, so nothing is fetched
FROM dependencies AS code
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY sql sql
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels .

# --- models to bake in: --build-arg BAKE_MODELS="flux-schnell=black-forest-labs/FLUX.1-schnell@COMMIT rembg-u2net …"
# For gated ones: --secret id=hf_token,env=HF_TOKEN. Each file is verified; nothing of the token stays in a layer.
# The code is a layer before this, so the models come from a cache of the builder: a change of it only copies them.
FROM dependencies AS models
COPY --from=code /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl
USER 10001
ARG BAKE_MODELS=""
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN,uid=10001 \
    --mount=type=cache,target=/pulled,uid=10001,sharing=locked \
    for model in $BAKE_MODELS; do \
      slug="${model%%=*}"; source="${model#*=}"; \
      case "$model" in \
        *=*@*) set -- "${source%@*}" --as "$slug" --revision "${source##*@}" ;; \
        rembg-*) set -- --as "$slug" ;; \
        *) echo "BAKE_MODELS: $model is neither SLUG=REPOSITORY@REVISION nor a background remover" >&2; exit 2 ;; \
      esac; \
      [ -d "/pulled/$source/$slug" ] || MODELS_DIR="/pulled/$source" worker models pull "$@" || exit 1; \
      cp --archive "/pulled/$source/$slug" /models/bases/ || exit 1; \
    done

# --- the pod: the large layers first, the code last
FROM dependencies
COPY --from=models --chown=likeness:likeness /models/bases /models/bases
COPY --from=code /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl

USER 10001
# One volume at /models keeps bases and every cache. Without one, or with a fresh named one, baked models are there.
# Photos and unfinished results stay in WORK_DIR, by default /tmp of the container, and go with it.
ENV MODELS_DIR=/models/bases \
    HF_HOME=/models/cache/huggingface \
    TORCH_HOME=/models/cache/torch \
    CUDA_CACHE_PATH=/models/cache/cuda \
    LOG_FORMAT=json

HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["worker", "health"]

# Exec form: no shell between SIGTERM and the worker. Give it --stop-timeout 30 to publish what is computed.
ENTRYPOINT ["tini", "--", "worker"]
CMD ["run"]
