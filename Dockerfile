# An image in which capecam is the command; docs/installing.md has the calls.
# BASE: any Debian or Ubuntu with Python 3.11 or later, such as one with CUDA.
ARG BASE=debian:trixie-slim
FROM ${BASE}

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/capecam
ENV PATH=/opt/capecam/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# What capecam needs, for an empty package: gigabytes that a change of the code leaves in the cache.
# TORCH_INDEX: the --index-url from which torch comes; else what pip takes by itself, with CUDA.
ARG TORCH_INDEX=
ARG EXTRAS=view
WORKDIR /opt/source
COPY pyproject.toml ./
RUN mkdir -p src/capecam \
    && touch src/capecam/__init__.py README.md LICENSE \
    && if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install ".[$EXTRAS]"

COPY README.md LICENSE ./
COPY src src
RUN pip install --no-deps --force-reinstall .

# Any user may run it (docker run --user), and need not be known to the image. Nothing is downloaded.
ENV HOME=/tmp USER=capecam HF_HUB_OFFLINE=1
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["capecam"]
CMD ["--help"]
