# kdengine for CPUs: docs/installation.md says how to use it. Another extra: docker build --build-arg EXTRAS=all,trackers .
FROM python:3.13-slim AS build
ARG EXTRAS=all
RUN pip install --no-cache-dir uv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY kdengine kdengine
COPY zoo zoo
COPY plugins plugins
RUN set -e; for package in . zoo plugins/kdplugin-*; do uv build --quiet --wheel --out-dir dist "$package"; done
# our packages are these wheels, whatever an index offers; torch is its build for CPUs
RUN set -e; \
    for wheel in dist/*.whl; do name="${wheel#dist/}"; echo "${name%%-*} @ file:///source/$wheel"; done > ours.txt; \
    uv venv /opt/kdengine; \
    uv pip install --python /opt/kdengine --no-cache --torch-backend cpu --constraints ours.txt "kdengine[$EXTRAS]"

FROM python:3.13-slim
COPY --from=build /opt/kdengine /opt/kdengine
# docker run --user may name anybody: home and work are open to all, and the user has a name without an entry in passwd
RUN useradd --create-home kdengine && install -d -m 1777 /home/kdengine /home/kdengine/.cache /work
ENV PATH=/opt/kdengine/bin:$PATH HOME=/home/kdengine USER=kdengine
USER kdengine
WORKDIR /work
ENTRYPOINT ["kdengine"]
CMD ["--help"]
