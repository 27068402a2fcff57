# The agent with the system programs that it uses. `make image` builds it; the base is yours to choose:
#   make image IMAGE=registry.example/ipvsproxy:0.1.0
#   docker build --build-arg BASE=debian:13-slim@sha256:... .
ARG BASE=debian:13-slim

FROM ${BASE} AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-setuptools \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
# First what changes seldom: the pinned dependencies, each with its hashes.
COPY requirements/run.txt requirements/run.txt
RUN python3 -m venv /opt/ipvsproxy \
    && /opt/ipvsproxy/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/run.txt
# Then the agent, built by Debian's setuptools, so that nothing is fetched that has no hash.
COPY pyproject.toml README.md LICENSE ./
COPY ipvsproxy ipvsproxy
RUN python3 -m venv --system-site-packages /opt/build \
    && /opt/build/bin/pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/ipvsproxy/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index /wheels/*.whl \
    && /opt/ipvsproxy/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
# iptables brings both backends, nft and legacy; ipvsadm is for people, the agent never calls it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates conntrack ipset iptables ipvsadm kmod python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /opt/ipvsproxy /opt/ipvsproxy
COPY LICENSE /usr/share/doc/ipvsproxy/LICENSE
ENV PATH=/opt/ipvsproxy/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["ipvsproxy"]
