# The operator's image, and the demo's: `docker build .` makes the first, `--target demo` the second.
# Both BuildKit and the classic builder take it. `make image` builds both with what pip and this machine offer.
#
# The base is named by minor version, so that a new build takes its security fixes: Python 3.13 has them until
# October 2029, and every locked package has wheels for it on amd64 and arm64. Any base with Python 3.11 or newer
# and its venv module will do.
ARG BASE=python:3.13-slim

FROM ${BASE} AS dependencies
WORKDIR /source
ENV PIP_CONFIG_FILE=/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
# pip gets an environment of its own: nothing of it goes into the one that is shipped.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/weft
# Wheels in build/wheels are used instead of a package index; the folder may be missing.
COPY requirements.lock build/wheel[s] ./
RUN if ls ./*.whl >/dev/null 2>&1; then printf '[global]\nno-index = true\nfind-links = /source\n'; fi >/pip.conf
# Weft speaks JSON to the API server. The generated methods of the client, 54 MB, are imported by nothing here;
# of its generated models a few are, by kopf, and those are compiled when they are imported.
# Bytecode is not tied to times, so that it holds however the files are copied; times are the same in every build.
RUN /pip/bin/pip --python /opt/weft/bin/python install --no-compile --require-hashes -r requirements.lock \
    && cd /opt/weft/lib/python3.*/site-packages \
    && rm -rf kubernetes/client/api kubernetes/aio/client/api \
    && find . -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete \
    && /opt/weft/bin/python -m compileall -q --invalidation-mode unchecked-hash -x '/client/models/' . \
    && find /opt/weft -exec touch -h -d @0 {} +

FROM dependencies AS package
# The build backend: its part of the lock, from each name to the last of the lines that a backslash continues.
COPY requirements-dev.lock ./
RUN sed -En '/^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/,/[^\\]$/p' requirements-dev.lock >build.lock \
    && /pip/bin/pip install --require-hashes -r build.lock
COPY pyproject.toml LICENSE ./
COPY operator/src operator/src
# The README would only be the package's long description: without it a change of prose rebuilds nothing.
RUN touch README.md \
    && chmod -R a+rX operator \
    && /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /pip/bin/pip --python /opt/weft/bin/python install --no-compile --no-deps --no-index --root /package /wheel/*.whl \
    && /pip/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /package -p / /package \
    && find /package -exec touch -h -d @0 {} +

FROM dependencies AS demo-package
COPY hack /package/opt/weft/hack
RUN chmod -R a+rX /package \
    && /pip/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /package -p / /package \
    && find /package -exec touch -h -d @0 {} +

FROM ${BASE} AS runtime
# No bytecode is written: the root filesystem may be read-only.
ENV PATH=/opt/weft/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=dependencies /opt/weft /opt/weft
COPY --from=package /package/ /
WORKDIR /
USER 65532:65532

FROM runtime AS demo
COPY --from=demo-package /package/ /
ENV PYTHONPATH=/opt/weft/hack/playground:/opt/weft/hack/dev
ENTRYPOINT ["python"]
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Weft demo" \
    org.opencontainers.image.description="Pretended inference engines and a gateway, to show Weft without GPUs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}"

FROM runtime AS operator
ENTRYPOINT ["weft"]
CMD ["run"]
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Weft" \
    org.opencontainers.image.description="Kubernetes operator that composes pooled hardware and balances prefill and decode" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}"
