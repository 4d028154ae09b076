# One image for every role: `oneprotect api`, `oneprotect consumer`, `oneprotect apply`.
#
# Built from names and hashes alone; where packages come from is the builder's configuration. For a build that is the
# same to the bit, name the base by its digest and give the commit's time:
#   docker buildx build --build-arg PYTHON=python:3.11-slim-trixie@sha256:... \
#     --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --output type=image,rewrite-timestamp=true .
# There is no HEALTHCHECK: Kubernetes ignores it and asks /healthz and /readyz itself.
ARG PYTHON=python:3.11-slim-trixie

FROM ${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=315532800
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0
WORKDIR /build
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /build/tools \
 && /build/tools/bin/pip install --require-hashes --no-deps -r requirements-build.txt
# The program's environment has no pip: nothing can be installed into it later.
RUN python -m venv --without-pip /opt/oneprotect \
 && /build/tools/bin/pip --python /opt/oneprotect/bin/python install --no-compile --require-hashes --no-deps -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY provider provider
COPY messaging messaging
COPY telemetry telemetry
COPY consumers consumers
COPY oneprotect oneprotect
# Bytecode beside its source, as nothing can be written at run time; checked by nobody, so that it holds no time.
RUN /build/tools/bin/hatchling build --target wheel --directory /build/dist \
 && /build/tools/bin/pip --python /opt/oneprotect/bin/python install --no-compile --no-index --no-deps /build/dist/*.whl \
 && /opt/oneprotect/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/oneprotect/lib

FROM ${PYTHON}
COPY --from=build /opt/oneprotect /opt/oneprotect
ENV PATH=/opt/oneprotect/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080 9090
ENTRYPOINT ["oneprotect"]
CMD ["--help"]
