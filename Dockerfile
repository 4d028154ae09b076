# One image for every role: `oneprotect api`, `oneprotect consumer`, `oneprotect apply`.
#
# The build uses package names and hashes only; the builder's configuration names the package index. PYTHON is the base
# image with its digest; a tag alone is refused, because its image changes. Print the digest, and build:
#   docker buildx imagetools inspect python:3.11-slim-trixie --format '{{.Manifest.Digest}}'
#   docker buildx build --build-arg PYTHON=python:3.11-slim-trixie@sha256:... \
#     --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --output type=image,rewrite-timestamp=true .
# No HEALTHCHECK: Kubernetes ignores it and probes /healthz and /readyz.
ARG PYTHON

FROM ${PYTHON} AS build
ARG PYTHON
RUN case "${PYTHON}" in *@sha256:*) ;; *) \
      echo "name the base image by its digest: --build-arg PYTHON=python:3.11-slim-trixie@sha256:..." >&2; exit 1 ;; \
    esac
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
# The environment of the program has no pip, so that nothing can be installed into it.
RUN python -m venv --without-pip /opt/oneprotect \
 && /build/tools/bin/pip --python /opt/oneprotect/bin/python install --no-compile --require-hashes --no-deps -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY provider provider
COPY messaging messaging
COPY telemetry telemetry
COPY consumers consumers
COPY oneprotect oneprotect
# Compile bytecode now, because the file system is read-only at run time. Unchecked hashes keep timestamps out.
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
