#!/usr/bin/env bash
# Two libraries that pip does not bring: OSMesa or EGL, by which videos are drawn in software, and jemalloc, which gives
# processes that learn their memory quickly. Installs what is missing where apt may be used; otherwise says how.
# Never fails: without a GL library everything but videos works, and without jemalloc learning is slower.
python=${1:-python3}

# macOS brings its own.
[ "$(uname)" = Darwin ] && exit 0

# Whether one of these libraries can be loaded.
have() {
    "$python" - "$@" <<'PY'
import ctypes, sys
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
PY
}

have_gl() { have libOSMesa.so.8 libOSMesa.so libEGL.so.1; }
have_allocator() { "$python" -c 'import sys, ctypes.util as u; sys.exit(not (u.find_library("jemalloc") or u.find_library("tcmalloc_minimal")))'; }

have_gl && have_allocator && exit 0
as_root=""
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="none"; fi
fi
if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
    echo "installing a software GL library for videos, and a memory allocator ..."
    export DEBIAN_FRONTEND=noninteractive
    {
        $as_root apt-get update -qq
        have_gl || $as_root apt-get install -y -qq libosmesa6 || $as_root apt-get install -y -qq libegl1 libgl1-mesa-dri
        have_allocator || $as_root apt-get install -y -qq libjemalloc2
    } >/dev/null 2>&1
fi
have_gl || echo "No OSMesa or EGL library: everything but videos will work. For videos run:
  sudo apt-get install libosmesa6    (or: libegl1 libgl1-mesa-dri)"
have_allocator || echo "Neither jemalloc nor tcmalloc: learning in several processes will be slower than it can be. Run:
  sudo apt-get install libjemalloc2"
exit 0
