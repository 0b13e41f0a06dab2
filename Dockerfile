# docker build -t c-ln . && docker run --rm -it c-ln     (a CPU build of torch: --build-arg PIP_EXTRA_INDEX_URL=ADDRESS)
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL
WORKDIR /c-ln
# The packages are a layer of their own: an edit of the code does not install them again.
COPY pyproject.toml constraints.txt Makefile ./
RUN make install
COPY . .
# git refuses a folder of another user, and DVC needs a repository.
RUN touch .venv/installed && git config --global --add safe.directory /c-ln
ENV PATH=/c-ln/.venv/bin:$PATH
CMD ["make", "repro"]
