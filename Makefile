# What one does with a checkout. `make help` lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
BUILT = $(or $(CARGO_TARGET_DIR),target)/release

# nginx and ip are where an ordinary user does not look.
export PATH := $(PATH):/usr/sbin:/sbin

# What the tests run, or compile with, as command:Debian-package or file:Debian-package.
NEEDS = cc:gcc c++:g++ pkg-config:pkg-config readelf:binutils ip:iproute2 ps:procps \
        chrt:util-linux curl:curl wrk:wrk nginx:nginx node:nodejs python3:python3 strace:strace valgrind:valgrind faketime:faketime \
        pg_config:libpq-dev pg_lsclusters:postgresql curl-config:libcurl4-openssl-dev redis-server:redis-server \
        /usr/include/hiredis/hiredis.h:libhiredis-dev \
        /usr/share/nodejs/ws/package.json:node-ws /usr/lib/python3/dist-packages/websockets/__init__.py:python3-websockets

# What `make bench` compares with, if it can be installed.
PEERS = wrk:wrk nginx:nginx node:nodejs h2o:h2o haproxy:haproxy /usr/share/nodejs/ws/package.json:node-ws

STRICT = -Wall -Wextra -Werror -pedantic -fsyntax-only -Iinclude

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the program and the libraries, optimised, in target/release
	$(CARGO) build --release --locked

.PHONY: test
test: deps ## everything that has to hold; installs what it needs where it may
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --lib --no-default-features --locked -- -D warnings
	echo '#include <prefork.h>' | cc -std=c99 $(STRICT) -x c -
	echo '#include <prefork.h>' | c++ -std=c++11 $(STRICT) -x c++ -
	$(CARGO) test --locked
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --locked
	@echo "make test: all passed"

.PHONY: soak
soak: deps ## reloads, deaths, scaling and load at random, for ten minutes or SOAK_SECONDS=
	$(CARGO) test --locked --test soak --test handover -- --ignored --nocapture

.PHONY: bench
bench: build ## compare with other servers: under load and at size; then through reloads, deaths and long requests
	-@$(MAKE) --no-print-directory deps NEEDS="$(PEERS)"
	$(CARGO) bench --bench messages --no-run --locked
	python3 benches/run.py
	python3 benches/lifecycle.py
	python3 benches/deploy.py --reloads 3

.PHONY: fuzz
fuzz: ## a minute of random bytes against the HTTP parser, some against the frames of messages and the control socket
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run request -s none -- -max_total_time=60 -dict=fuzz/http.dict
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run frames -s none -- -max_total_time=15
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run control -s none -- -max_total_time=15 -max_len=1024

.PHONY: simulate
simulate: ## one minute of random schedules against the lifecycle; PREFORK_SEED=N runs one and shows it
	$(CARGO) test --release --locked --lib simulate:: -- --include-ignored --nocapture --test-threads=1

.PHONY: header
header: ## write include/prefork.h anew from src/ffi
	new=$$(mktemp) && PREFORK_HEADER=$$new $(CARGO) check --lib --no-default-features --features header --locked && \
	    cat $$new >include/prefork.h && rm $$new

.PHONY: install
install: INTO = $(DESTDIR)$(PREFIX)
install: VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
install: build ## the program, the libraries, the header and what belongs to them, under PREFIX
	install -d $(INTO)/bin $(INTO)/include $(INTO)/lib/pkgconfig $(INTO)/share/man/man1 $(INTO)/share/bash-completion/completions \
	    $(INTO)/share/zsh/site-functions $(INTO)/share/fish/vendor_completions.d
	install -m 755 $(BUILT)/prefork $(INTO)/bin/prefork
	install -m 755 $(BUILT)/libprefork.so $(INTO)/lib/libprefork.so.$(VERSION)
	ln -sfn libprefork.so.$(VERSION) $(INTO)/lib/libprefork.so.2
	ln -sfn libprefork.so.2 $(INTO)/lib/libprefork.so
	install -m 644 $(BUILT)/libprefork.a $(INTO)/lib/libprefork.a
	install -m 644 include/prefork.h $(INTO)/include/prefork.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' prefork.pc.in >$(INTO)/lib/pkgconfig/prefork.pc
	$(BUILT)/prefork man >$(INTO)/share/man/man1/prefork.1
	$(BUILT)/prefork completions bash >$(INTO)/share/bash-completion/completions/prefork
	$(BUILT)/prefork completions zsh >$(INTO)/share/zsh/site-functions/_prefork
	$(BUILT)/prefork completions fish >$(INTO)/share/fish/vendor_completions.d/prefork.fish

.PHONY: deps
deps: ## install what the tests need
	@command -v $(CARGO) >/dev/null || { echo "make: Rust is missing; see https://rustup.rs" >&2; exit 1; }
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
	    rustup component add rustfmt clippy || \
	    { echo "make: run: rustup component add rustfmt clippy" >&2; exit 1; }
	@missing=; \
	for need in $(NEEDS); do \
	    command -v $${need%%:*} >/dev/null || test -e $${need%%:*} || missing="$$missing $${need#*:}"; \
	done; \
	test -z "$$missing" && exit 0; \
	echo "make: missing:$$missing"; \
	as_root=; test "$$(id -u)" = 0 || as_root="sudo -n"; \
	command -v apt-get >/dev/null && $$as_root true 2>/dev/null && { $$as_root apt-get update; \
	    $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing </dev/null; } || \
	    { echo "make: run: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; }

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
