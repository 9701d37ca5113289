# The server on a CPU: docker build -t residual:0.1.0 . && docker run -p 127.0.0.1:8000:8000 residual:0.1.0
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[serve,onnx,jpeg]'

FROM python:3.12-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --system --uid 10001 --no-create-home residual
USER 10001
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["residual", "serve", "--host", "0.0.0.0"]
CMD ["resnet20"]
