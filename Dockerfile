# The workers of a run on Dataflow, and the launcher of its Flex Template: docs/howto/run_on_dataflow.md.
# The tag must be the version of apache-beam in requirements-dataflow.lock, and Python's minor version the launcher's.
FROM apache/beam_python3.11_sdk:2.77.0

COPY --from=gcr.io/dataflow-templates-base/python311-template-launcher-base:latest \
  /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher

WORKDIR /oddsmill
COPY requirements-dataflow.lock pyproject.toml README.md LICENSE ./
COPY oddsmill oddsmill
COPY schemas schemas
COPY pipeline pipeline
COPY train train
COPY flex_template/main.py ./
# The lock holds the trainer's packages too: its versions bind, but only what [pipeline] asks for is installed.
RUN grep -oE '^[a-zA-Z0-9._-]+==[^ ;\\]+' requirements-dataflow.lock > constraints.txt \
  && pip install --no-cache-dir --constraint constraints.txt '.[dataflow]' \
  && pip check

ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/oddsmill/main.py
ENTRYPOINT ["/opt/apache/beam/boot"]
