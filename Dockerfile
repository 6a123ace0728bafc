# The worker and the dashboard: one image, two commands.

FROM python:3.13-slim AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

COPY requirements/build.txt requirements/run.txt requirements/
RUN python -m venv --without-pip /opt/audience-firehose \
    && pip --python /opt/audience-firehose/bin/python install --require-hashes -r requirements/run.txt \
    && pip install --require-hashes -r requirements/build.txt

COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/audience-firehose/bin/python install --no-deps dist/*.whl


FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin forwarder
COPY --from=build /opt/audience-firehose /opt/audience-firehose
ENV PATH=/opt/audience-firehose/bin:$PATH PYTHONUNBUFFERED=1
# Numeric, so that an orchestrator can tell that it is not root.
USER 10001
WORKDIR /opt/audience-firehose
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker", "worker", "--loglevel", "INFO"]
