# ldm-core with all its plugins and S3, as an image whose command is ldm-run.
#
#   docker build -t ldm .                                        # PyPI's torch: with CUDA, for GPUs and for CPUs
#   docker build -t ldm --build-arg TORCH=torch==2.13.0+cpu .    # smaller, where the index offers CPU builds
#   docker run --rm -it --gpus all --ipc=host -v "$PWD/runs:/data/runs" ldm --out runs/mine
#
# Another index is named with pip's own variables: --build-arg PIP_INDEX_URL=... or PIP_EXTRA_INDEX_URL=...
# DeepSpeed's compiled extras (its CPU Adam, fused kernels) need nvcc and are not used. torch.compile needs a compiler:
# COMPILER=g++ leaves it in, COMPILER= leaves it out (trainer.compile=false).

ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG TORCH=torch
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A base without Python (one of CUDA's own images) gets its system's; nothing where there is one.
RUN command -v python3 >/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/ldm
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY ldm_core ldm_core
COPY plugins plugins
COPY conditioners conditioners
# All siblings by path in one call of pip, so that a name that is not published is never looked for in an index.
RUN /opt/ldm/bin/python -m pip install "${TORCH}" ".[s3]" ./plugins/*/ ./conditioners/*/

FROM ${BASE}
ARG COMPILER=g++
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates ${COMPILER} \
    && { command -v python3 >/dev/null || apt-get install -y --no-install-recommends python3 python3-dev; } \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ldm /opt/ldm
RUN useradd --create-home --uid 1000 ldm && install -d -o ldm -g ldm /data
ENV PATH=/opt/ldm/bin:$PATH PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ldm
WORKDIR /data
ENTRYPOINT ["ldm-run"]
CMD ["--help"]
