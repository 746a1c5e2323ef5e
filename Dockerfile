# Two images, `--target server` and `--target operator`. `make images` builds both, and says what they weigh.
#
# Each is a virtualenv, the Python of BASE_IMAGE and the libraries these need, on an empty root: no shell, no pip, no
# package manager. BASE_IMAGE is any Debian or Ubuntu with Python 3.11 or later and its `venv`. It is pinned by tag: add
# `@sha256:…` to pin its content as well, for a build that must be the same next year.
ARG BASE_IMAGE=docker.io/library/python:3.13.14-slim-bookworm

# The tools. The package index of the machine that builds comes as the secrets `pip.conf` and `ca.pem`, which no layer
# keeps; without them pip's own defaults hold.
FROM ${BASE_IMAGE} AS build
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PROGRESS_BAR=off \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0
WORKDIR /src
COPY requirements/build.txt requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv /build && /build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt

# The project's wheel, beside the packages it needs, so that a change of the sources installs none of them anew.
FROM build AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY registry_server registry_server
COPY operator operator
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS server-root
COPY requirements/server.txt requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv --without-pip /opt/regatta \
    && /build/bin/pip --python /opt/regatta/bin/python install --no-compile --require-hashes --only-binary :all: \
       -r requirements/server.txt
COPY --from=wheel /wheels /wheels
RUN /build/bin/pip --python /opt/regatta/bin/python install --no-compile --no-index --no-deps /wheels/*.whl
COPY images/rootfs.py images/
RUN python3 images/rootfs.py /root.server --venv /opt/regatta --script registry-server --owned /var/lib/registry \
    --without registry_operator --without 'pygments/lexers/[a-z]*.py'

FROM build AS operator-root
COPY requirements/operator.txt requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv --without-pip /opt/regatta \
    && /build/bin/pip --python /opt/regatta/bin/python install --no-compile --require-hashes --only-binary :all: \
       -r requirements/operator.txt
COPY --from=wheel /wheels /wheels
RUN /build/bin/pip --python /opt/regatta/bin/python install --no-compile --no-index --no-deps /wheels/*.whl
COPY images/rootfs.py images/
# The operator speaks to the API server in plain JSON; the client's classes for every kind and call are 100 MB.
RUN python3 images/rootfs.py /root.operator --venv /opt/regatta --script registry-operator \
    --without 'kubernetes/client/api/*_api.py' --without 'kubernetes/aio/client/api/*_api.py' \
    --without 'kubernetes/client/models/v*.py' --without 'kubernetes/aio/client/models/v*.py' \
    --without 'pygments/lexers/[a-z]*.py'

# The programs need no init above them: they handle SIGTERM themselves, the server waits for its workers, which start no
# processes, and the operator starts none. Health is answered over HTTP, for probes: a HEALTHCHECK would need a client in
# the image, and Kubernetes ignores it.
FROM scratch AS server
COPY --from=server-root /root.server /
ENV PATH=/opt/regatta/bin LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 5000
ENTRYPOINT ["registry-server"]
CMD ["serve", "/etc/regatta/config.yml"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="registry-server" \
      org.opencontainers.image.description="Regatta's registry of container images and other OCI artifacts" \
      org.opencontainers.image.vendor="Regatta" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM scratch AS operator
COPY --from=operator-root /root.operator /
ENV PATH=/opt/regatta/bin LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["registry-operator"]
CMD ["run"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="registry-operator" \
      org.opencontainers.image.description="Runs a fleet of container registries on Kubernetes from one manifest each" \
      org.opencontainers.image.vendor="Regatta" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
