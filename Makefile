# What one does with a checkout. `make help` lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
BUILT = $(or $(CARGO_TARGET_DIR),target)/release

# nginx and ip are where an ordinary user does not look.
export PATH := $(PATH):/usr/sbin:/sbin

# What the tests run, or compile with, as command:Debian-package or file:Debian-package.
NEEDS = gunicorn:gunicorn uvicorn:uvicorn cc:gcc c++:g++ pkg-config:pkg-config readelf:binutils ip:iproute2 ps:procps \
        chrt:util-linux curl:curl wrk:wrk nginx:nginx haproxy:haproxy systemd-analyze:systemd node:nodejs python3:python3 strace:strace valgrind:valgrind perf:linux-perf faketime:faketime \
        pg_config:libpq-dev pg_lsclusters:postgresql curl-config:libcurl4-openssl-dev redis-server:redis-server \
        /usr/include/hiredis/hiredis.h:libhiredis-dev /usr/include/sqlite3.h:libsqlite3-dev sqlite3:sqlite3 gdb:gdb \
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
	$(CARGO) clippy --test logger --test http_types --examples --features log,http --locked -- -D warnings
	echo '#include <prefork.h>' | cc -std=c99 $(STRICT) -x c -
	echo '#include <prefork.h>' | c++ -std=c++11 $(STRICT) -x c++ -
	$(CARGO) test --locked
	$(CARGO) test --features log,http --locked --test logger --test http_types
	$(CARGO) test --features log,http --locked --doc crate_types
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
fuzz: ## a minute of random bytes against the HTTP parser, some against forms, the frames of messages and the control socket
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run request -s none -- -max_total_time=60 -dict=fuzz/http.dict
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run forms -s none -- -max_total_time=15 -dict=fuzz/http.dict
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run frames -s none -- -max_total_time=15
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run control -s none -- -max_total_time=15 -max_len=1024

.PHONY: simulate
simulate: ## one minute of random schedules against the lifecycle; PREFORK_SEED=N runs one and shows it
	$(CARGO) test --release --locked --lib simulate:: -- --include-ignored --nocapture --test-threads=1

.PHONY: header
header: ## write include/prefork.h anew from src/ffi
	new=$$(mktemp) && PREFORK_HEADER=$$new $(CARGO) check --lib --no-default-features --features header --locked && \
	    cat $$new >include/prefork.h && rm $$new

# Where `make install` puts things, and the names that it and `make uninstall` share.
INTO = $(DESTDIR)$(PREFIX)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
SHARED = libprefork.so.$(VERSION)
COMPLETIONS = share/bash-completion/completions/prefork share/zsh/site-functions/_prefork share/fish/vendor_completions.d/prefork.fish
INSTALLED = bin/prefork bin/.debug/prefork.debug lib/$(SHARED) lib/.debug/$(SHARED).debug lib/libprefork.so.2 lib/libprefork.so \
    lib/libprefork.a lib/pkgconfig/prefork.pc share/man/man1/prefork.1 $(COMPLETIONS) $(wildcard include/*.h)
# A directory that the loader does not search is put into the programs that are linked with the library.
RPATH = $(if $(filter-out /usr /usr/local,$(PREFIX)), -Wl$(comma)-rpath$(comma)$${libdir})
comma = ,

# Copies $(1) to $(2), stripped, and what a debugger reads of it into .debug beside that, where gdb looks.
define install-stripped
	install -d $(INTO)/$(dir $(2)).debug
	objcopy --only-keep-debug $(1) $(INTO)/$(dir $(2)).debug/$(notdir $(2)).debug
	chmod 644 $(INTO)/$(dir $(2)).debug/$(notdir $(2)).debug
	objcopy --strip-unneeded --add-gnu-debuglink=$(INTO)/$(dir $(2)).debug/$(notdir $(2)).debug $(1) $(INTO)/$(2)
	chmod 755 $(INTO)/$(2)
endef

.PHONY: install
install: $(if $(SUDO_USER),built,build) ## the program, the libraries, the header and what belongs to them, under PREFIX
	install -d $(addprefix $(INTO)/,$(sort $(dir $(INSTALLED))))
	$(call install-stripped,$(BUILT)/prefork,bin/prefork)
	$(call install-stripped,$(BUILT)/libprefork.so,lib/$(SHARED))
	ln -sfn $(SHARED) $(INTO)/lib/libprefork.so.2
	ln -sfn libprefork.so.2 $(INTO)/lib/libprefork.so
	objcopy --strip-debug $(BUILT)/libprefork.a $(INTO)/lib/libprefork.a
	chmod 644 $(INTO)/lib/libprefork.a
	install -m 644 include/*.h $(INTO)/include
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@RPATH@|$(RPATH)|' prefork.pc.in >$(INTO)/lib/pkgconfig/prefork.pc
	$(BUILT)/prefork man >$(INTO)/share/man/man1/prefork.1
	$(BUILT)/prefork completions bash >$(INTO)/$(word 1,$(COMPLETIONS))
	$(BUILT)/prefork completions zsh >$(INTO)/$(word 2,$(COMPLETIONS))
	$(BUILT)/prefork completions fish >$(INTO)/$(word 3,$(COMPLETIONS))
	@$(if $(DESTDIR),true,$(MAKE) --no-print-directory after-install)

# What is left to do by hand depends on where shells, pkg-config and the loader look.
.PHONY: after-install
after-install:
	@test "$$(id -u)" != 0 || test -z "$(filter /usr /usr/local,$(PREFIX))" || ldconfig
	@echo "make: prefork $(VERSION) is installed in $(PREFIX)"
	@lines=; \
	test "$$(command -v prefork)" = "$(PREFIX)/bin/prefork" || lines="$$lines    export PATH=\"$(PREFIX)/bin:\$$PATH\"\n"; \
	pkg-config --path prefork 2>/dev/null | grep -qx "$(PREFIX)/lib/pkgconfig/prefork.pc" || \
	    lines="$$lines    export PKG_CONFIG_PATH=\"$(PREFIX)/lib/pkgconfig\$${PKG_CONFIG_PATH:+:\$$PKG_CONFIG_PATH}\"\n"; \
	test -z "$$lines" || { echo "make: add to ~/.profile, and run in this shell:"; printf "$$lines"; }
	@test -z "$(RPATH)" || echo "make: programs linked by pkg-config find the library by a run path (-rpath); others need LD_LIBRARY_PATH=$(PREFIX)/lib"

.PHONY: uninstall
uninstall: ## remove what `make install` with the same PREFIX has put there
	rm -f $(addprefix $(INTO)/,$(INSTALLED))
	-@rmdir --ignore-fail-on-non-empty $(INTO)/bin/.debug $(INTO)/lib/.debug 2>/dev/null
	@$(if $(DESTDIR),true,test "$$(id -u)" != 0 || test -z "$(filter /usr /usr/local,$(PREFIX))" || ldconfig)

# Under sudo nothing is built: files of root's in target/ would get in the user's way.
.PHONY: built
built:
	@test -e $(BUILT)/prefork && test -e $(BUILT)/libprefork.so && test -e $(BUILT)/libprefork.a || \
	    { echo "make: nothing is built yet: run \`make build\` first, without sudo" >&2; exit 1; }
	@test -z "$$(find src build.rs Cargo.toml Cargo.lock -newer $(BUILT)/prefork -print -quit)" || \
	    { echo "make: $(BUILT) is older than its source: run \`make build\` first, without sudo" >&2; exit 1; }

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
