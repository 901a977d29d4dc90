#!/usr/bin/env bash
# build.sh: builds, runs and tests unibiomed. `./build.sh help` lists what it can do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
	cat <<'TEXT'
usage: ./build.sh COMMAND [OPTIONS]

  deps [--tests]           install what is missing (Debian and Ubuntu, as root), else say how to get it; --tests: also the
                           readers and servers that tests compare with, without which those tests skip
  build [--preset NAME]    the native library and build/bin/unibiomed; presets: cpu (default), cuda, vulkan
  demo                     build, then ask all tasks of example images: out/demo/index.html
  test                     all checks: formatting, vet, C++ tests, Go tests with cgo, with -race and without cgo, benchmarks once
  test asan | test tsan    the C++ tests under the address and undefined-behaviour, or the thread sanitizer
  test arm64               the C++ tests, Go tests and an answer of unibiomed-nano on an emulated ARM processor
  test vulkan | test cuda  C++ tests of graphs, towers, sessions and the golden mask decoder on the first GPU, for CUDA also the golden cases; for Vulkan Mesa's software driver will do
  bench [GO TEST OPTIONS]  the Go benchmarks, then the speed and memory of every stage of the model
  clean                    remove everything that was built
  help                     this text

examples
  ./build.sh deps && ./build.sh build
  ./build.sh build --preset cuda
  build/bin/unibiomed segment --out out chest.png 'left lung'
  ./build.sh test

environment
  UB_JOBS            parallel compile jobs; all processors by default
  UB_CMAKE_ARGS      more arguments of cmake, for instance -DUB_NATIVE=OFF for a build that runs on other machines
  CUDA_HOME          where the CUDA toolkit is, when nvcc is not on the path
  UNIBIOMED_SHARED   the folder of test data, ../shared by default; tests that need it skip when it is not there
  UNIBIOMED_TEST_PYTHON  a Python that has what tests compare with; by default the one that "deps --tests" made in the cache folder
TEXT
}

say()  { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

jobs=${UB_JOBS:-$(getconf _NPROCESSORS_ONLN)}
shared=${UNIBIOMED_SHARED:-../shared}

# ---------------------------------------------------------------------------------------------------------------- tools

# at_least WANTED FOUND: versions in order
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

has_header() { printf '#include <%s>\n' "$1" | "${CXX:-c++}" -std=c++17 -fsyntax-only -x c++ - 2>/dev/null; }

# missing prints a line for each tool that is not here or too old: the Debian package, a tab, and what to tell people.
missing() {
	local found
	found=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
	at_least 1.26 "${found:-0}" || printf -- '-\tGo 1.26 or newer (found %s): https://go.dev/dl\n' "${found:-none}"
	found=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')
	at_least 3.21 "${found:-0}" || printf 'cmake\tCMake 3.21 or newer (found %s): https://cmake.org/download\n' "${found:-none}"
	found=$(ninja --version 2>/dev/null || true)
	[ -n "$found" ] || printf 'ninja-build\tNinja: https://ninja-build.org\n'
	command -v patch >/dev/null || printf 'patch\tpatch, for our changes to ggml: https://savannah.gnu.org/projects/patch\n'
	if ! printf '#include <filesystem>\nint main() { return std::filesystem::path("x").empty(); }\n' |
		"${CXX:-c++}" -std=c++17 -fsyntax-only -x c++ - 2>/dev/null; then
		printf 'g++\ta C++17 compiler: GCC 9, Clang 10 or newer\n'
	elif ! has_header doctest/doctest.h; then
		printf 'doctest-dev\tdoctest, for the C++ tests: https://github.com/doctest/doctest\n'
	fi
}

check_tools() {
	local list
	list=$(missing)
	[ -z "$list" ] && return
	printf 'build.sh: these are missing:\n' >&2
	printf '%s\n' "$list" | cut -f 2 | sed 's/^/  /' >&2
	printf 'On Debian or Ubuntu, "./build.sh deps" as root installs all but Go.\n' >&2
	exit 1
}

# install_packages NAME...: Debian's packages, or what to type to get them
install_packages() {
	[ $# -gt 0 ] || return 0
	if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
		say "apt-get install $*"
		DEBIAN_FRONTEND=noninteractive apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
	else
		printf 'build.sh: as root on Debian or Ubuntu: apt-get install %s\n' "$*" >&2
	fi
}

deps() {
	local packages=()
	mapfile -t packages < <(missing | cut -f 1 | grep -v '^-$')
	# Nothing needs these: ccache makes later builds from nothing quick, CharLS and OpenJPEG bring JPEG-LS and JPEG 2000 to
	# DICOM, oneDNN makes the CPU faster.
	command -v ccache >/dev/null || packages+=(ccache)
	pkg-config --exists charls libopenjp2 2>/dev/null || packages+=(pkg-config libcharls-dev libopenjp2-7-dev)
	has_header oneapi/dnnl/dnnl.h || packages+=(libdnnl-dev)
	# A machine without a compiler can't tell whether it has doctest.
	[[ " ${packages[*]} " == *" g++ "* ]] && packages+=(doctest-dev)
	install_packages "${packages[@]}"
	check_tools
	case ${1:-} in
	'') ;;
	--tests) test_tools ;;
	*) fail "deps does not know $1" ;;
	esac
	say "all tools are here"
}

test_venv=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/unibiomed/test-python

# test_tools installs valgrind, and other programs that read and write medical files. Tests that lack one say so and skip, so nothing fails here.
test_tools() {
	local packages=() name wanted=unibiomed/volume/volumetest/requirements.txt
	for name in python3-pydicom python3-nibabel python3-gdcm dcmtk dicom3tools orthanc iproute2 python3-venv valgrind; do
		dpkg -s "$name" >/dev/null 2>&1 || packages+=("$name")
	done
	install_packages "${packages[@]}" || printf 'build.sh: some of these are not to be had: %s\n' "${packages[*]}" >&2
	if ! cmp -s "$wanted" "$test_venv/requirements.txt"; then
		say "$wanted into $test_venv"
		rm -rf "$test_venv"
		if python3 -m venv "$test_venv" && "$test_venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"; then
			cp "$wanted" "$test_venv/requirements.txt"
		else
			rm -rf "$test_venv"
			printf 'build.sh: %s could not be installed; tests that need it skip\n' "$wanted" >&2
		fi
	fi
}

# ---------------------------------------------------------------------------------------------------------------- build

# native PRESET: configures once (ninja sees later changes to CMake files by itself) and builds
native() {
	# shellcheck disable=SC2086  # UB_CMAKE_ARGS is a list of words
	if [ ! -f "build/$1/build.ninja" ] || [ -n "${UB_CMAKE_ARGS:-}" ]; then
		cmake --preset "$1" ${UB_CMAKE_ARGS:-}
	fi
	cmake --build "build/$1" -j "$jobs"
}

# go_linked: what a static link of this preset needs besides, for cgo
go_linked() {
	CGO_LDFLAGS="${CGO_LDFLAGS:-} $(cat build/lib/ldflags)"
	export CGO_LDFLAGS
}

build() {
	local preset=cpu
	while [ $# -gt 0 ]; do
		case $1 in
		--preset) preset=${2:?"--preset needs a name"}; shift 2 ;;
		--preset=*) preset=${1#*=}; shift ;;
		*) fail "build does not know $1" ;;
		esac
	done
	case $preset in cpu | cuda | vulkan) ;; *) fail "no preset $preset to build: cpu, cuda, vulkan (and test asan, test tsan, test arm64)" ;; esac
	check_tools
	say "native library, preset $preset"
	native "$preset"
	say "build/bin/unibiomed"
	go_linked
	go build -o build/bin/ ./cmd/unibiomed
	ls -lh build/bin/unibiomed build/lib/libunibiomed.* | awk '{print "  " $5 "\t" $9}' >&2
}

# ----------------------------------------------------------------------------------------------------------------- demo

demo() {
	build
	local data=()
	[ -f "$shared/data/train/index.jsonl" ] && data=(--data "$shared/data/train")
	say "all five tasks with unibiomed-nano"
	env -u UNIBIOMED_MODEL build/bin/unibiomed demo "${data[@]}" --out out/demo
}

# ----------------------------------------------------------------------------------------------------------------- test

test_sanitized() {
	check_tools
	say "C++ tests, preset $1"
	native "$1"
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		LSAN_OPTIONS=suppressions=$PWD/csrc/tests/lsan.supp:print_suppressions=0 \
		TSAN_OPTIONS=halt_on_error=1:suppressions=$PWD/csrc/tests/tsan.supp:print_suppressions=0 \
		ctest --test-dir "build/$1" --output-on-failure
}

test_arm64() {
	check_tools
	command -v aarch64-linux-gnu-g++ >/dev/null || fail "test arm64 needs a cross compiler: g++-aarch64-linux-gnu on Debian and Ubuntu"
	command -v qemu-aarch64 >/dev/null || fail "test arm64 needs QEMU's user emulation: qemu-user on Debian and Ubuntu"
	say "C++ tests, preset arm64"
	native arm64
	ctest --test-dir build/arm64 --output-on-failure
	local on_arm="qemu-aarch64 -L /usr/aarch64-linux-gnu"
	say "Go tests on ARM that need no native library"
	# Without those that start themselves again, or a server that does: QEMU has no part in that.
	go list ./... | grep -vE '/go-unibiomed/(bindings|cmd/unibiomed|models|unibiomed)$' |
		GOOS=linux GOARCH=arm64 CGO_ENABLED=0 xargs go test -timeout 40m -skip '^(TestFullDisk|TestOrthanc)$' -exec "$on_arm"
	say "unibiomed-nano's answer on ARM and here"
	build
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -o build/bin/unibiomed-arm64 ./cmd/unibiomed
	local question=(segment models/examples/xray.png 'left lung in chest X-Ray' --json --quiet) there here
	here=$(build/bin/unibiomed "${question[@]}" | grep -E '"(answer|status|selected)"')
	there=$(UNIBIOMED_LIB=build/arm64/lib $on_arm build/bin/unibiomed-arm64 "${question[@]}" | grep -E '"(answer|status|selected)"')
	printf '%s\n' "$there"
	[ "$there" = "$here" ] || fail "the answer on ARM differs from the one here: $here"
}

# test_gpu PRESET: build/lib is the preset's afterwards, until the next build
test_gpu() {
	check_tools
	say "native library, preset $1"
	native "$1"
	# Else ggml passes over drivers that compute on the CPU. Mesa 22.3's, of Debian 12, computes products of several matrices wrong now and
	# then with more than one thread.
	export GGML_VK_VISIBLE_DEVICES=${GGML_VK_VISIBLE_DEVICES:-0} LP_NUM_THREADS=${LP_NUM_THREADS:-0}
	export NVIDIA_TF32_OVERRIDE=0 # as --exact does: the golden cases are of f32 arithmetic
	say "C++ tests, the golden mask decoder among them, on ${1}0"
	export UNIBIOMED_TEST_DEVICE=${1}0
	ctest --test-dir "build/$1" --output-on-failure -R '^(graph|vision|language|sam2_golden)$'
	[ "$1" = cuda ] || return 0 # a software driver would compile shaders for minutes
	say "golden cases on ${1}0"
	go_linked
	go test -timeout 30m ./unibiomed -run 'TestGoldenChain|TestQuantizedParity|TestTrackVolume|TestSegmentVolume'
}

test_all() {
	check_tools
	say "gofmt"
	local unformatted
	unformatted=$(gofmt -l bindings cmd models unibiomed)
	[ -z "$unformatted" ] || fail "gofmt would change: $unformatted"
	say "go vet"
	go vet ./...
	CGO_ENABLED=0 go vet ./...

	if [ -z "${UNIBIOMED_TEST_PYTHON:-}" ] && [ -x "$test_venv/bin/python" ]; then
		export UNIBIOMED_TEST_PYTHON=$test_venv/bin/python
	fi
	build
	say "C++ tests"
	ctest --test-dir build/cpu --output-on-failure
	say "Go tests with cgo"
	# Under the race detector: the packages that goroutines share.
	go test -timeout 40m -race ./bindings ./unibiomed
	go list ./... | grep -vE '/go-unibiomed/(bindings|unibiomed)$' | xargs go test -timeout 40m
	say "Go tests without cgo"
	CGO_ENABLED=0 go test -timeout 20m ./bindings
	CGO_ENABLED=0 go build -o build/bin/unibiomed-nocgo ./cmd/unibiomed
	local question=(segment models/examples/xray.png 'left lung in chest X-Ray' --json --quiet) with without
	with=$(build/bin/unibiomed "${question[@]}" | sed '/timings_ms/,/}/d')
	without=$(build/bin/unibiomed-nocgo "${question[@]}" | sed '/timings_ms/,/}/d')
	[ "$with" = "$without" ] || fail "the command without cgo answers otherwise than the one with it"
	say "benchmarks, once each"
	go test -timeout 20m -run '^$' -bench . -benchtime 1x ./...
	say "all tests passed"
}

# ---------------------------------------------------------------------------------------------------------------- bench

bench() {
	build
	say "Go benchmarks"
	go test -run '^$' -bench . "$@" ./...
	say "stages of unibiomed-nano"
	build/bin/unibiomed bench --model models/unibiomed-nano
}

# ----------------------------------------------------------------------------------------------------------------- main

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
deps) deps "$@" ;;
build) build "$@" ;;
demo) demo ;;
test)
	case ${1:-} in
	'') test_all ;;
	asan | tsan) test_sanitized "$1" ;;
	arm64) test_arm64 ;;
	vulkan | cuda) test_gpu "$1" ;;
	*) fail "test does not know $1" ;;
	esac
	;;
bench) bench "$@" ;;
clean) rm -rf build out bindings/native_stamp.h ;;
help | -h | --help) usage ;;
*) usage >&2; exit 2 ;;
esac
