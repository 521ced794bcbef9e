# A server over the index in /index, with fastlane-minilm in the image. Only packages are downloaded.
#   docker build -t fastlane .
#   docker run -p 8000:8000 -v "$PWD/guide-index:/index" -e FASTLANE_API_KEY fastlane
FROM python:3.12-slim

# PyTorch's index for the CPU, if it is given: otherwise torch comes with CUDA, 4 GB more.
ARG TORCH_INDEX=
RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY fastlane_st fastlane_st
COPY modeling modeling
COPY model_card model_card
RUN pip install --no-cache-dir ".[cpu,offline,serve]" && rm -rf /source/*

WORKDIR /
RUN useradd --uid 1000 --create-home fastlane && mkdir /index && chown fastlane /index
USER fastlane
ENV HF_HUB_OFFLINE=1
# fastlane-minilm is put together once, here.
RUN python -c "from fastlane_st.hub import default_checkpoint; default_checkpoint()"

VOLUME /index
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["fastlane", "serve", "/index", "--host", "0.0.0.0", "--port", "8000"]
